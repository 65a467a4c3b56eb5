"""Deliberate faults, each a replacement of one piece of source text, for the tests that must notice them."""

from __future__ import annotations

from dataclasses import dataclass

from pimspec.formats import BF16, FP16, FP32
from pimspec.params.arith import (
    DotParams,
    Exp2Params,
    FpAddParams,
    FpMaxParams,
    FpMulParams,
    FpNarrowParams,
    ReciprocalParams,
    UnitParams,
)


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One fault; `params` names the unit to run for a fault in hardware, and is None for a fault in a golden model."""

    what: str
    file: str
    old: str
    new: str
    params: UnitParams | None = None


def _rtl(params: UnitParams, file: str, *faults: tuple[str, str, str]) -> list[Mutant]:
    return [Mutant(what=w, file=f"pimhw/arith/{file}.py", old=o, new=n, params=params) for w, o, n in faults]


def _golden(file: str, *faults: tuple[str, str, str]) -> list[Mutant]:
    return [Mutant(what=w, file=f"pimspec/golden/{file}.py", old=o, new=n) for w, o, n in faults]


MUTANTS: list[Mutant] = [
    *_rtl(
        FpMulParams(format=FP16),
        "fp_mul",
        ("FP16 exponent off by one", "field = named(m, \"field\", (t.exponent - zeros)", "field = named(m, \"field\", (t.exponent - zeros + 1)"),
        ("FP16 sign", "sign=x.sign ^ y.sign", "sign=x.sign | y.sign"),
        ("inf * 0 is not NaN", "y.is_nan | (inf & any_zero)", "y.is_nan"),
        ("lowest product bit lost", "fraction = Cat(Const(0, FP32.precision - len(product)), significand[:-1])",
         "fraction = Cat(Const(0, FP32.precision - len(product) + 1), significand[1:-1])"),
    ),
    *_rtl(
        FpMulParams(format=FP32, depth=2),
        "fp_mul",
        ("sticky of the shift dropped", "shrunk[: -FP32.precision - 1].any() | sticky)", "shrunk[: -FP32.precision - 1].any())"),
        ("sticky of the product dropped", "(kept[0] | shrunk[: -FP32.precision - 1].any() | sticky)", "(kept[0] | sticky)"),
        ("ties away from zero", "guard & (kept[0] |", "guard & (Const(1) |"),
        ("no overflow to infinity", "inf | overflow, nan)", "inf, nan)"),
        ("flush of subnormal results", "field = field & kept[-1].replicate(9)", "field, kept = field & kept[-1].replicate(9), kept & kept[-1].replicate(24)"),
    ),
    *_rtl(
        FpMulParams(format=BF16, depth=1),
        "fp_mul",
        ("BF16 subnormal result truncated", "kept + up)", "kept)"),
        ("shift clamped too early", "deficit[5:].any(), 31, deficit)", "deficit[4:].any(), 15, deficit)"),
    ),
    *_rtl(
        FpAddParams(depth=2),
        "fp_add",
        ("sticky bit dropped", "aligned = Cat(sticky, aligned)", "aligned = Cat(Const(0, 1), aligned)"),
        ("ties away from zero", "guard & (kept[0] |", "guard & (Const(1) |"),
        ("ties to odd", "guard & (kept[0] |", "guard & (~kept[0] |"),
        ("sign of an exact zero", "sign = Mux(total.any(), x_sign, both_negative)", "sign = x_sign"),
        ("inf - inf is not NaN", "x.is_nan | y.is_nan | (x.is_inf & y.is_inf & subtract)", "x.is_nan | y.is_nan"),
        ("limit of the normalising shift", "limited_leading_zeros(m, total, exponent)", "limited_leading_zeros(m, total, (exponent - 1)[:8])"),
        ("carry kept in a subtraction", "total[-1] & ~subtract", "total[-1]"),
        ("far operand not clamped", "distance[5:].any(), 31, distance)", "distance[6:].any(), 31, distance)"),
        ("overflow keeps its fraction", "Mux(inf | overflow, FP32.inf, rounded)", "Mux(inf, FP32.inf, rounded)"),
    ),
    *_rtl(
        FpMaxParams(),
        "fp_max",
        ("zeros of other sign not equal", "(same & (a[-1] == b[-1])) | zeros)", "(same & (a[-1] == b[-1])))"),
        ("NaN not seen in b", "unordered=(mag_a > FP32.inf) | (mag_b > FP32.inf)", "unordered=(mag_a > FP32.inf)"),
        ("infinity taken for a NaN", "unordered=(mag_a > FP32.inf)", "unordered=(mag_a >= FP32.inf)"),
        ("negative numbers in the wrong order", "~b[-1] | (~below & ~same)", "~b[-1] | below"),
    ),
    *_rtl(
        FpNarrowParams(format=FP16),
        "fp_narrow",
        ("sticky dropped", "(kept[0] | rest.any() | sticky)", "(kept[0] | rest.any())"),
        ("ties away from zero", "guard & (kept[0] |", "guard & (Const(1) |"),
        ("overflow by rounding only", "inf=x.is_inf | overflow", "inf=x.is_inf"),
        ("subnormals one place off", "rebias + 1 - x.exponent", "rebias - x.exponent"),
    ),
    *_rtl(
        FpNarrowParams(format=BF16),
        "fp_narrow",
        ("truncation", "kept + up)", "kept)"),
        ("NaN keeps its payload", "Mux(nan, format.nan, Cat(magnitude, sign))", "Cat(Mux(nan, total, magnitude)[:15], sign)"),
    ),
    *_rtl(
        Exp2Params(depth=2),
        "exp2",
        ("one slope off by one", "slope.eq(gradient)", "slope.eq(gradient + 1 if segment == 17 else gradient)"),
        ("operand truncated", "carry = sign ^ half", "carry = sign"),
        ("sticky dropped in a subnormal result", "guard & (kept[0] | sticky)", "guard & kept[0]"),
        ("ties away from zero", "guard & (kept[0] | sticky)", "guard"),
        ("infinity one octave early", "integer[FP32.emax.bit_length() :].any()", "(integer >= FP32.emax)"),
        ("256 after rounding taken for negative", "(~sign & integer[FP32.emax.bit_length() :].any())", "(~sign & integer[7] & ~integer[8])"),
        ("one more octave in range", "exponent >= FP32.bias + INTEGER_BITS", "exponent > FP32.bias + INTEGER_BITS"),
        ("large negative operand gives infinity", "Mux(sign, 0, FP32.inf)", "FP32.inf"),
    ),
    *_rtl(
        ReciprocalParams(),
        "reciprocal",
        ("guard bit ignored", "kept + guard)", "kept)"),
        ("one step too few", "remaining.eq(num_steps + 1)", "remaining.eq(num_steps)"),
        ("subnormal result one place off", "exponent - top, 0)[:8]", "exponent - top + 1, 0)[:8]"),
        ("zero keeps no infinity", "full = named(m, \"full\", overflow | x.is_nan)", "full = named(m, \"full\", x.is_nan)"),
        ("operand taken while busy", "(remaining == 0) & (self.o.ready | ~done)", "(remaining <= 1) & (self.o.ready | ~done)"),
    ),
    *_golden("reciprocal", ("sticky dropped", "quotient | sticky", "quotient"), ("infinity keeps no sign", "np.where(x.is_inf, sign,", "np.where(x.is_inf, 0,")),
    *_golden(
        "exp2",
        ("operand truncated", "(doubled >> 1) + (doubled & 1)", "(doubled >> 1) + (doubled & 0)"),
        ("one slope off by one", "_SLOPE = np.array(SLOPE, dtype=np.int64)", "_SLOPE = np.array(SLOPE, dtype=np.int64) + 1"),
    ),
    *_rtl(
        DotParams(lanes=4, add_depth=2, interval=2),
        "dot",
        ("tree in another order", "zip(terms[0::2], terms[1::2], strict=True)", "zip(terms[: len(terms) // 2], terms[len(terms) // 2 :], strict=True)"),
        ("accumulation starts from +0", "MINUS_ZERO = FP32.sign_mask", "MINUS_ZERO = 0"),
        ("`first` one stage early", "self._first[position - 1]", "self._first[position - 2]"),
        ("set accepted before the loop is free", "wait.eq(p.interval - 1)", "wait.eq(0)"),
        ("other mode enters a busy pipeline", "(empty | (operands.mode == self._mode))", "Const(1)"),
        ("tree leaves values in the other lanes", "self._lane_mode.replicate(FP32.width)", "Const(1).replicate(FP32.width)"),
        ("result lost under backpressure", "self._advance.eq(self.o.ready | ~self.o.valid)", "self._advance.eq(1)"),
    ),
    *_golden(
        "rounding",
        ("ties away from zero", "(twice == whole) & ((quotient & 1) == 1)", "(twice == whole)"),
        ("no rounding up above the tie", "(twice > whole) |", "(twice > whole + whole) |"),
        ("subnormals treated as zero", "np.where(significand == 0, 0,", "np.where((significand == 0) | (top < format.emin), 0,"),
        ("no overflow to infinity", "np.minimum(magnitude, format.inf)", "magnitude"),
    ),
    *_golden("fp_mul", ("inf * 0 is not NaN", "(inf & ((x.significand == 0) | (y.significand == 0)))", "(inf & False)")),
    *_golden(
        "fp_add",
        ("sign of an exact zero", "np.where(total == 0, x.sign & y.sign, x.sign)", "x.sign"),
        ("too few guard bits", "GUARD_BITS = 27", "GUARD_BITS = 1"),
    ),
    *_golden("fp_max", ("order of negative numbers", "-(x & (FP32.sign_mask - 1)) - 1", "(x & (FP32.sign_mask - 1)) - (1 << 32)")),
    *_golden("fp_narrow", ("infinity loses its sign", "format.inf | (x.sign << (format.width - 1))", "format.inf")),
    *_golden("dot", ("tree in another order", "fp_add(terms[..., 0::2], terms[..., 1::2])",
                     "fp_add(terms[..., : terms.shape[-1] // 2], terms[..., terms.shape[-1] // 2 :])")),
]  # fmt: skip
