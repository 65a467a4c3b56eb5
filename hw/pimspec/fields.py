"""Field tables: the layout of a bit vector, shared by hardware, golden models and harnesses.

The first field occupies the least significant bits. Packed words are rows of little-endian 32-bit words, the form in
which a C++ simulation takes a wide port.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import require

__all__ = ["Field", "FieldPlace", "FieldTable", "index_bits"]


def index_bits(n: int) -> int:
    """Width of a field that counts 0 to ``n - 1``: at least 1, since a field of no bits does not exist."""
    return max(1, (n - 1).bit_length())


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field: `count` elements of `width` bits, element 0 lowest. A `count` of None is a scalar."""

    name: str
    width: int
    count: int | None = None

    def __post_init__(self) -> None:
        require(1 <= self.width <= 32, f"width of field {self.name!r}", self.width, "1..32")
        require(self.count is None or self.count >= 1, f"count of field {self.name!r}", self.count, "at least 1")

    @property
    def num_bits(self) -> int:
        return self.width * (self.count or 1)


class FieldPlace(NamedTuple):
    """The lowest bit of a field and its number of bits; those of an array field are those of all its elements."""

    offset: int
    width: int


class FieldTable:
    """An ordered set of fields, and the one place that knows where each of them lies in the bit vector.

    Parameters
    ----------
    *fields : Field
        From the least significant upwards; names must differ.

    Attributes
    ----------
    fields : tuple of Field
    places : mapping of str to FieldPlace
        By name, in order.
    width : int
        Bits of the whole vector.
    num_words : int
        32-bit words that hold it.
    """

    def __init__(self, *fields: Field) -> None:
        names = [f.name for f in fields]
        require(len(set(names)) == len(names), "field names", names, "all different")
        self.fields = fields
        places, offset = {}, 0
        for f in fields:
            places[f.name] = FieldPlace(offset, f.num_bits)
            offset += f.num_bits
        self.places: Mapping[str, FieldPlace] = MappingProxyType(places)
        self.width = offset
        self.num_words = -(-self.width // 32)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FieldTable) and self.fields == other.fields

    def __hash__(self) -> int:
        return hash(self.fields)

    def __repr__(self) -> str:
        return f"FieldTable({', '.join(map(repr, self.fields))})"

    def describe(self) -> list[dict[str, object]]:
        """Offsets and widths in bits, for the JSON sidecar."""
        return [
            {"name": f.name, "offset": self.places[f.name].offset, "width": f.width, "count": f.count}
            for f in self.fields
        ]

    def pack_int(self, /, **values: int) -> int:
        """Pack one number per field into one integer; an array field is one number, a field left out is 0.

        Raises
        ------
        ParameterError
            If a number does not fit its field, or there is no such field.
        """
        number = 0
        for name, (offset, width) in self.places.items():
            given = values.pop(name, 0)
            require(0 <= given < 1 << width, f"field {name!r}", given, f"{width} bits wide")
            number |= int(given) << offset
        require(not values, "fields", sorted(values), f"among {list(self.places)}")
        return number

    def unpack_int(self, number: int) -> dict[str, int]:
        """The inverse of :meth:`pack_int`; bits above the table are ignored."""
        return {name: number >> offset & (1 << width) - 1 for name, (offset, width) in self.places.items()}

    def pack(self, values: Mapping[str, ArrayLike]) -> NDArray[np.uint32]:
        """Pack one array per field, (n,) for a scalar and (n, count) for an array field, into (n, num_words)."""
        columns = []
        for f in self.fields:
            offset = self.places[f.name].offset
            column = np.asarray(values[f.name], dtype=np.uint64).reshape(-1, f.count or 1)
            if column.size:
                require(
                    int(column.max()) >> f.width == 0, f"field {f.name!r}", hex(int(column.max())), f"{f.width} bits"
                )
            columns += [(column[:, k], offset + k * f.width) for k in range(column.shape[1])]
        words = np.zeros((len(columns[0][0]), self.num_words + 1), dtype=np.uint64)
        for value, offset in columns:
            shifted = value << np.uint64(offset % 32)
            words[:, offset // 32] |= shifted & np.uint64(0xFFFFFFFF)
            words[:, offset // 32 + 1] |= shifted >> np.uint64(32)
        return words[:, : self.num_words].astype(np.uint32)

    def unpack(self, words: NDArray[np.uint32]) -> dict[str, NDArray[np.int64]]:
        """The inverse of :meth:`pack`."""
        wide = np.zeros((len(words), self.num_words + 1), dtype=np.uint64)
        wide[:, : self.num_words] = words
        result = {}
        for f in self.fields:
            columns = []
            for k in range(f.count or 1):
                offset = self.places[f.name].offset + k * f.width
                pair = wide[:, offset // 32] | (wide[:, offset // 32 + 1] << np.uint64(32))
                columns.append(((pair >> np.uint64(offset % 32)) & np.uint64((1 << f.width) - 1)).astype(np.int64))
            result[f.name] = columns[0] if f.count is None else np.stack(columns, axis=1)
        return result
