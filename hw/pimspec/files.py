"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` under a temporary name beside `path`, then rename it: an old file stays until then.

    A link stays one, and the file that it names is replaced. What is no file but a device or a pipe is written to as
    it is.

    Raises
    ------
    OSError
        If it cannot be written; the old file may not be, or the folder.
    """
    data = content.encode() if isinstance(content, str) else content
    if path.exists() and not path.is_file():
        with open(path, "wb") as file:
            file.write(data)
        return
    path = Path(os.path.realpath(path))
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(13, "Permission denied", str(path))
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
