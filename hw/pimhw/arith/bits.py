"""Bit-level building blocks: the lowest set bit, leading zeros, shifts with a sticky bit, decoding of numbers."""

from __future__ import annotations

from typing import NamedTuple

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.utils import ceil_log2

from pimspec.formats import FloatFormat


def named(m: Module, name: str, value: Value, width: int | None = None) -> Signal:
    """A named wire that holds `value`, so that it is computed once however often it is used."""
    wire = Signal(width if width is not None else value.shape(), name=name)
    m.d.comb += wire.eq(value)
    return wire


def lowest_set(x: Value) -> Value:
    """The lowest set bit of `x` alone; 0 if none is set."""
    return (x & (~x + 1))[: len(x)]


def leading_zeros(m: Module, x: Value, name: str = "lzc") -> Value:
    """Number of leading zeros of `x`, 0..len(x)."""
    size = 1 << ceil_log2(len(x))
    # Ones below the last bit stop the count at len(x) where that is not a power of two.
    padded = named(m, f"{name}_in", Cat(Const((1 << (size - len(x))) - 1, size - len(x)), x) if size > len(x) else x)
    level = [~padded[i] for i in range(size)]  # each entry: count over a block, MSB = "block all zero"
    step = 0
    while len(level) > 1:
        merged = []
        for k in range(0, len(level), 2):
            low, high = level[k], level[k + 1]
            body = Mux(high[-1], low[:-1], high[:-1]) if step else Const(0, 0)
            both = high[-1] & low[-1]
            merged.append(named(m, f"{name}_{step}_{k // 2}", Cat(body, high[-1] & ~low[-1], both)))
        level, step = merged, step + 1
    return level[0]


def limited_leading_zeros(m: Module, x: Value, limit: Value, name: str = "lzc") -> Value:
    """``min(leading_zeros(x), limit)``: a marker bit at the limit stops the count without a comparator."""
    top = len(x) - 1
    marker = named(m, f"{name}_marker", Const(1 << top, top + 1) >> limit, top + 1)
    return leading_zeros(m, named(m, f"{name}_marked", x | marker), name)


def shift_right_sticky(m: Module, x: Value, amount: Value, name: str = "align") -> tuple[Value, Value]:
    """``x >> amount`` and the OR of all bits shifted out. Any `amount` is allowed."""
    value, sticky = x, Const(0, 1)
    for k in range(len(amount)):
        step = 1 << k
        lost = value[:step].any() if step < len(x) else value.any()
        kept = value[step:] if step < len(x) else Const(0, 1)
        sticky = named(m, f"{name}_sticky{k}", sticky | (amount[k] & lost))
        value = named(m, f"{name}_{k}", Mux(amount[k], kept, value), len(x))
    return value, sticky


def shift_left(m: Module, x: Value, amount: Value, name: str = "norm") -> Value:
    """``x << amount`` within the width of `x`."""
    value: Value = x
    for k in range(len(amount)):
        step = 1 << k
        moved = Cat(Const(0, step), value[: len(x) - step]) if step < len(x) else Const(0, len(x))
        value = named(m, f"{name}_{k}", Mux(amount[k], moved, value), len(x))
    return value


class Unpacked(NamedTuple):
    """Fields of one floating-point operand."""

    sign: Value
    exponent: Value  # biased; a subnormal reads as 1
    significand: Value  # with the hidden bit
    is_inf: Value
    is_nan: Value


def unpack(m: Module, bits: Value, format: FloatFormat, name: str) -> Unpacked:
    """Split a bit pattern of `format`; subnormals get exponent 1 and no hidden bit."""
    fraction, field = bits[: format.fraction_bits], bits[format.fraction_bits : -1]
    normal = named(m, f"{name}_normal", field.any())
    special = named(m, f"{name}_special", field.all())
    has_fraction = named(m, f"{name}_has_fraction", fraction.any())
    return Unpacked(
        sign=bits[-1],
        exponent=named(m, f"{name}_exponent", Cat(field[0] | ~normal, field[1:])),
        significand=named(m, f"{name}_significand", Cat(fraction, normal)),
        is_inf=named(m, f"{name}_is_inf", special & ~has_fraction),
        is_nan=named(m, f"{name}_is_nan", special & has_fraction),
    )
