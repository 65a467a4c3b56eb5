"""Whole files: bounded reads of what a user names, and writes of which a reader never sees half."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ParameterError

__all__ = ["named_errors", "read_bytes", "read_text", "require_regular", "require_writable", "write_atomically"]

_PROBE_BYTES = 4096
"""One block: a full disk still makes empty files."""


def read_bytes(path: Path, *, most: int) -> bytes:
    """The content of a file, a pipe or a device, none of which may be longer than `most` bytes.

    Raises
    ------
    ParameterError
        If there is more.
    OSError
        With the name of the file.
    """
    with named_errors(path), path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ParameterError(f"{path} has more than {most:,} bytes, which is the most that is read")
    return content


def read_text(path: Path, *, most: int) -> str:
    """UTF-8 text of at most `most` bytes; a byte order mark is left out.

    Raises
    ------
    ParameterError
        If there is more, or it is not UTF-8.
    OSError
        With the name of the file.
    """
    content = read_bytes(path, most=most)
    try:
        return content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ParameterError(f"{path} is not a text file: byte {error.start} is not UTF-8") from None


def require_regular(path: Path, what: str) -> None:
    """Check that `path` is a regular file: only such a file has a size, and can be read from any place.

    Raises
    ------
    ParameterError
        If it is a directory, a device or a pipe; `what` names it in the text.
    OSError
        With the name of the file, if it does not exist or cannot be looked at.
    """
    with named_errors(path):
        mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "a device or a pipe"
        raise ParameterError(f"{what} must be a regular file, not {kind}: {str(path)!r}")


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Every :class:`OSError` inside names `path`; the system leaves it out where a write or a read fails."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename == str(path):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def require_writable(path: Path) -> None:
    """Check that :func:`write_atomically` can write `path`, by writing a block beside it and removing that again.

    Raises
    ------
    OSError
        With the name of the file: no such folder, a directory, no permission, a full disk.
    """
    with named_errors(path):
        if path.is_dir():
            raise IsADirectoryError(21, "Is a directory", str(path))
        if path.exists() and not path.is_file():
            if not os.access(path, os.W_OK):
                raise PermissionError(13, "Permission denied", str(path))
            return
        os.unlink(_beside(path, bytes(_PROBE_BYTES)))


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` under a temporary name beside `path`, then rename it: an old file stays until then.

    A link stays one, and the file that it names is replaced. What is no file but a device or a pipe is written to as
    it is.

    Raises
    ------
    OSError
        With the name of the file, if it cannot be written; the old file may not be, or the folder.
    """
    data = content.encode() if isinstance(content, str) else content
    with named_errors(path):
        if path.exists() and not path.is_file():
            with open(path, "wb") as file:
                file.write(data)
            return
        target = Path(os.path.realpath(path))
        temporary = _beside(target, data)
        try:
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~umask)
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise


def _beside(path: Path, data: bytes) -> str:
    """Name of a new file with this content in the folder of `path`, which may be overwritten if it exists."""
    path = Path(os.path.realpath(path))
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(13, "Permission denied", str(path))
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:200]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
    except BaseException:
        os.unlink(temporary)
        raise
    return temporary
