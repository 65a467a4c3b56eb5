"""Integrity check of a GGUF header: every count and length against the size of the file.

The parser of the `gguf` package trusts them; one wrong byte in a count would keep it busy for hours.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from pimspec.errors import ParameterError

__all__ = ["check_gguf_header"]

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value by its GGUF type number; strings are type 8, arrays type 9."""

_STRING, _ARRAY = 8, 9


def check_gguf_header(path: Path) -> None:
    """Check a file's metadata and tensor descriptions.

    Raises
    ------
    ParameterError
        If the file is no GGUF of version 2 or 3, or claims more than it has room for.
    OSError
    """
    with path.open("rb") as file:
        if (size := file.seek(0, 2)) < 24:
            raise ParameterError(f"{path} is not a readable GGUF file, or is cut off: it has {size} bytes")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _Walk(path, data).run()


class _Walk:
    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path, self._data, self._at = path, data, 0

    def run(self) -> None:
        magic, version, tensors, pairs = struct.unpack_from("<4sIQQ", self._data)
        if magic != b"GGUF" or version not in (2, 3):
            raise ParameterError(f"{self._path} is not a readable GGUF file of version 2 or 3")
        self._skip(24)
        for _ in range(pairs):
            self._string()
            self._value(self._number("<I"))
        for _ in range(tensors):
            self._string()
            dims = self._number("<I")
            if dims > 4:
                self._refuse(f"a tensor of {dims} dims")
            self._skip(8 * dims + 12)

    def _value(self, kind: int) -> None:
        if kind == _STRING:
            self._string()
        elif kind == _ARRAY:
            element, count = self._number("<I"), self._number("<Q")
            if element in _SIZES:
                self._skip(_SIZES[element] * count)
            else:
                for _ in range(count):
                    self._value(element)
        elif kind in _SIZES:
            self._skip(_SIZES[kind])
        else:
            self._refuse(f"a value of type {kind}")

    def _string(self) -> None:
        self._skip(self._number("<Q"))

    def _number(self, form: str) -> int:
        start = self._at
        self._skip(struct.calcsize(form))
        return int(struct.unpack_from(form, self._data, start)[0])

    def _skip(self, count: int) -> None:
        self._at += count
        if self._at > len(self._data):
            self._refuse("less than its header says")

    def _refuse(self, has: str) -> None:
        raise ParameterError(f"{self._path} is not a readable GGUF file, or is cut off: it has {has}")
