"""Bounded line reader for plain and gzip text files; every fault carries its line number."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from pimspec.errors import PimError

__all__ = ["LINE_BYTES", "TraceError", "read_lines"]

LINE_BYTES = 1 << 20
"""Longest line; the longest one of the public traces has some kilobytes."""


class TraceError(PimError, ValueError):
    """Malformed trace; the text gives the file, the line and the reason.

    Parameters
    ----------
    path : Path
    line : int or None
        Line number from 1; None if the file as a whole is at fault.
    reason : str
    """

    def __init__(self, path: Path, line: int | None, reason: str) -> None:
        self.path, self.line, self.reason = path, line, reason
        super().__init__(f"{path}:{line}: {reason}" if line else f"{path}: {reason}")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, text) of each line that is not blank; gzip is recognised by its first two bytes.

    Raises
    ------
    TraceError
        If a line is longer than `LINE_BYTES`, text is not UTF-8, or a gzip stream is damaged.
    OSError
        If the file cannot be read.
    """
    number = 0
    with path.open("rb") as raw:
        zipped = raw.peek(2)[:2] == b"\x1f\x8b"
        file = cast(BinaryIO, gzip.GzipFile(fileobj=raw) if zipped else raw)
        try:
            while line := file.readline(LINE_BYTES + 1):
                number += 1
                if len(line) > LINE_BYTES:
                    raise TraceError(path, number, f"longer than {LINE_BYTES} bytes")
                text = line.decode().strip().removeprefix("\ufeff")
                if text:
                    yield number, text
        except UnicodeDecodeError:
            raise TraceError(path, number, "not UTF-8") from None
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise TraceError(path, number + 1, f"damaged gzip stream: {error}") from None
