"""Packing of field tables."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pimspec.errors import ParameterError
from pimspec.fields import Field, FieldTable, index_bits

FIELDS = st.lists(st.tuples(st.integers(1, 32), st.none() | st.integers(1, 5)), min_size=1, max_size=6)


@given(FIELDS, st.integers(0, 2**32 - 1))
def test_round_trip_and_layout(shapes, seed):
    table = FieldTable(*(Field(name=f"f{k}", width=w, count=c) for k, (w, c) in enumerate(shapes)))
    rng = np.random.default_rng(seed)
    values = {f.name: rng.integers(0, 1 << f.width, (3,) if f.count is None else (3, f.count)) for f in table.fields}
    words = table.pack(values)
    # An independent statement of the layout: one big integer, first field lowest.
    for row in range(3):
        expected, offset = 0, 0
        for f in table.fields:
            for element in np.atleast_1d(values[f.name][row]):
                expected |= int(element) << offset
                offset += f.width
        assert int.from_bytes(words[row].astype("<u4").tobytes(), "little") == expected
        assert offset == table.width
    for name, column in table.unpack(words).items():
        np.testing.assert_array_equal(column, values[name])


@given(FIELDS, st.data())
def test_one_integer_is_packed_as_arrays_are(shapes, data):
    table = FieldTable(*(Field(name=f"f{k}", width=w, count=c) for k, (w, c) in enumerate(shapes)))
    values = {f.name: data.draw(st.integers(0, (1 << f.num_bits) - 1)) for f in table.fields}
    number = table.pack_int(**values)
    above = data.draw(st.integers(0, 3))
    assert table.unpack_int(above << table.width | number) == values
    elements = {}
    for f in table.fields:
        each = [values[f.name] >> k * f.width & (1 << f.width) - 1 for k in range(f.count or 1)]
        elements[f.name] = [each[0] if f.count is None else each]
    assert int.from_bytes(table.pack(elements)[0].astype("<u4").tobytes(), "little") == number


def test_one_integer_has_zeros_where_no_field_is_named():
    table = FieldTable(Field(name="a", width=3), Field(name="b", width=2, count=2), Field(name="c", width=1))
    assert table.pack_int(b=0b1001) == 0b0_10_01_000
    assert table.unpack_int(0b0_10_01_000) == {"a": 0, "b": 0b1001, "c": 0}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"x": 8}, "field 'x' must be 3 bits wide, not 8"),
        ({"x": -1}, "field 'x' must be 3 bits wide, not -1"),
        ({"x": 1, "z": 0}, r"fields must be among \['x'\], not \['z'\]"),
    ],
)
def test_one_integer_refuses_what_the_table_has_no_room_for(values, text):
    with pytest.raises(ParameterError, match=text):
        FieldTable(Field(name="x", width=3)).pack_int(**values)


def test_offsets_are_described():
    table = FieldTable(Field(name="a", width=16, count=2), Field(name="last", width=1))
    assert [row["offset"] for row in table.describe()] == [0, 32]
    assert dict(table.places) == {"a": (0, 32), "last": (32, 1)}


def test_bad_fields_are_refused():
    with pytest.raises(ParameterError, match=r"width of field 'x' must be 1\.\.32, not 33"):
        Field(name="x", width=33)
    with pytest.raises(ParameterError, match="all different"):
        FieldTable(Field(name="x", width=1), Field(name="x", width=2))
    with pytest.raises(ParameterError, match="3 bits, not '0x8'"):
        FieldTable(Field(name="x", width=3)).pack({"x": [8]})


@pytest.mark.parametrize(("count", "bits"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (256, 8), (257, 9)])
def test_index_bits(count, bits):
    assert index_bits(count) == bits
