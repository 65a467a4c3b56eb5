"""Build cache: artefacts by the contents that they were made of, verified before each first use."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import platformdirs
from filelock import FileLock

from pimspec.errors import PimError, ToolError

__all__ = ["BuildCacheError", "build_in", "build_root", "cached_text", "content_key", "sources_key"]

MANIFEST = "manifest.json"
_TEXT = "text"
_UNWRITABLE = (
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EFBIG, errno.EIO
)  # fmt: skip
_FULL_TEXTS = ("No space left on device", "Disk quota exceeded")
_FEW_BYTES = 1 << 20

_verified: set[Path] = set()  # folders whose files this process has compared with their manifest


class BuildCacheError(PimError):
    """A build cache whose folder cannot be made or written, or whose disk is full."""


def build_root() -> Path:
    """Folder of the build cache: ``$DIMMPIM_BUILD_DIR``, else ``dimmpim`` in the user's cache folder.

    The latter is ``$XDG_CACHE_HOME/dimmpim`` or ``~/.cache/dimmpim`` on Linux. Everything in it can be made again.

    Raises
    ------
    BuildCacheError
        If there is no such folder and it cannot be made.
    """
    given = os.environ.get("DIMMPIM_BUILD_DIR")
    path = Path(given).absolute() if given else platformdirs.user_cache_path("dimmpim", appauthor=False)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(path, error.strerror) from None
    return path


def content_key(*parts: str | bytes) -> str:
    """Short key over contents, for caches."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]


def sources_key(*packages: ModuleType) -> str:
    """Key over the Python sources of packages."""
    files = [path for package in packages for path in sorted(Path(package.__path__[0]).rglob("*.py"))]
    return content_key(*(part for path in files for part in (path.name, path.read_bytes())))


def build_in(folder: Path, result: str, make: Callable[[Path], object]) -> Path:
    """Artefact ``folder/result``, built by ``make(temporary_folder)`` unless it is there and whole.

    A manifest beside the artefact holds size and SHA-256 of every file in `folder`. Each process compares them once,
    before it uses the artefact, and rebuilds it if they differ. Of several processes that ask at once, one builds.

    Parameters
    ----------
    folder : Path
        Folder whose name covers all that the artefact depends on; its parent is in :func:`build_root`.
    result : str
        Name of the artefact.
    make : callable
        Writes the artefact, and files that stay beside it, into the folder that it is given.

    Raises
    ------
    BuildCacheError
        If the cache cannot be written, or its disk is full.
    """
    target = folder / result
    if _is_whole(folder, result):
        return target
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not _is_whole(folder, result):
                _build(folder, make)
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        raise _unusable(build_root(), error.strerror) from None
    except ToolError as error:
        if any(text in str(error) for text in _FULL_TEXTS) or _is_full(folder.parent):
            raise _unusable(build_root(), os.strerror(errno.ENOSPC)) from None
        raise
    return target


def cached_text(folder: str, key: str, make: Callable[[], str]) -> str:
    """Text from ``make()``, kept in the build cache by a key that covers all it depends on."""

    def write(into: Path) -> None:
        (into / _TEXT).write_text(make(), encoding="utf-8")

    return build_in(build_root() / folder / key, _TEXT, write).read_text(encoding="utf-8")


def _build(folder: Path, make: Callable[[Path], object]) -> None:
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        make(temporary)
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        manifest = {str(path.relative_to(temporary)): _size_and_digest(path) for path in files}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1))
        temporary.chmod(0o777 & ~_umask())
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        _verified.add(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _is_whole(folder: Path, result: str) -> bool:
    """True if the artefact exists and all files equal those of the manifest."""
    if not (folder / result).is_file():
        return False
    if folder not in _verified:
        try:
            manifest = json.loads((folder / MANIFEST).read_bytes())
            # The size first: it tells most damage, and costs nothing.
            if any((folder / name).stat().st_size != size for name, (size, _) in manifest.items()):
                return False
            if result not in manifest or any(
                _size_and_digest(folder / name) != list(expected) for name, expected in manifest.items()
            ):
                return False
        except (OSError, ValueError, TypeError, AttributeError):
            return False
        _verified.add(folder)
    return True


def _size_and_digest(path: Path) -> list[int | str]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return [file.tell(), digest]


def _is_full(folder: Path) -> bool:
    try:
        return any(shutil.disk_usage(path).free < _FEW_BYTES for path in (folder, tempfile.gettempdir()))
    except OSError:
        return False


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _unusable(path: Path, reason: str | None) -> BuildCacheError:
    return BuildCacheError(
        f"the build cache {str(path)!r} cannot be used: {reason}; DIMMPIM_BUILD_DIR must name a folder that can be "
        "written, on a disk with some hundred MB free"
    )
