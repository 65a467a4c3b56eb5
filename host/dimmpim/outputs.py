"""Output files of a command: checked before its work, opened in one place, ``-`` for standard output."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, ProgressColumn

from pimspec.errors import require
from pimspec.files import require_writable, write_atomically

__all__ = [
    "STDOUT",
    "console_beside",
    "progress_bar",
    "require_folder_room",
    "require_outputs",
    "require_room",
    "write_json",
    "write_output",
]

STDOUT = Path("-")


def require_outputs(outputs: Iterable[tuple[str, Path]], inputs: Iterable[tuple[str, Path]] = ()) -> None:
    """Check that a command can write its files, each to a place of its own, and none over what it reads.

    Parameters
    ----------
    outputs, inputs : iterable of (option, path)

    Raises
    ------
    ParameterError
        If a folder does not exist or cannot be written to, a name is that of a folder, or two name one file. Devices
        and pipes may be named twice, standard output may not.
    OSError
        With the name of the file, if the disk has no room.
    """
    taken = {os.path.realpath(path): (option, False) for option, path in inputs if path.is_file()}
    for option, path in outputs:
        if path != STDOUT:
            require_room(option, path)
            if path.exists() and not path.is_file():
                continue
        where = "-" if path == STDOUT else os.path.realpath(path)
        if where in taken:
            other, written = taken[where]
            first, second = (other, option) if written else (option, other)
            require(False, f"{first} and {second}", str(path), "different files")
        taken[where] = (option, True)


def require_room(option: str, path: Path) -> None:
    """Check that a file can be written: its folder exists, its name is free or that of a file, the disk has room."""
    folder = path.parent
    require(not path.is_dir(), option, str(path), "a file, which a folder is not")
    ok = folder.is_dir() and os.access(folder, os.W_OK)
    require(ok, option, str(path), "a file in a folder that exists and can be written to")
    require(not path.exists() or os.access(path, os.W_OK), option, str(path), "a file that may be overwritten")
    require_writable(path)


def require_folder_room(option: str, path: Path) -> None:
    """Check that a folder exists or can be made, and that the disk has room for files in it."""
    require(not path.exists() or path.is_dir(), option, str(path), "a folder, which this file is not")
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    ok = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    require(ok, option, str(path), f"a folder that can be made and written to; {str(nearest)!r} cannot")
    require_writable(nearest / ".dimmpim")


def console_beside(*outputs: Path | None) -> Console:
    """Console for tables and messages: standard error where one of the outputs is standard output."""
    return Console(stderr=STDOUT in outputs)


def progress_bar(console: Console, *columns: ProgressColumn) -> Progress:
    """Progress bar that is gone at the end, and absent where there is no terminal: not even an empty line of it."""
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def write_output(path: Path, content: str | bytes) -> None:
    """Write a file in one piece or not at all; ``-`` is standard output.

    Raises
    ------
    OSError
        With the name of the file.
    """
    if path != STDOUT:
        write_atomically(path, content)
        return
    sys.stdout.flush()
    if isinstance(content, bytes):
        sys.stdout.buffer.write(content)
    else:
        sys.stdout.write(content)
    sys.stdout.flush()


def write_json(path: Path | None, document: Any) -> None:
    """Write a JSON document, if there is a path for it."""
    if path is not None:
        write_output(path, json.dumps(document, indent=2, default=str) + "\n")
