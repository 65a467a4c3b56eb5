"""Binary floating-point formats, and the policy that every arithmetic unit follows.

Policy (IEEE 754-2019, stated once, the same in every unit and golden model):

* rounding: roundTiesToEven, once per operation; no exception flags;
* subnormal operands are taken at full value and subnormal results are delivered (gradual underflow, no flush);
* overflow delivers an infinity;
* every NaN result is the canonical quiet NaN (sign 0, exponent all ones, top fraction bit only); NaN payloads are not
  propagated, and signalling NaNs are treated as quiet.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import UnknownNameError, UnsupportedFormatError, require

__all__ = ["BF16", "FORMATS", "FP16", "FP32", "FloatFormat", "format_named", "require_format"]


@dataclass(frozen=True, kw_only=True)
class FloatFormat:
    """An IEEE-style binary interchange format.

    Parameters
    ----------
    name : str
        Lower-case name used in presets and on the command line.
    exponent_bits, fraction_bits : int
        Widths of the exponent and trailing significand fields.
    """

    name: str
    exponent_bits: int
    fraction_bits: int

    def __post_init__(self) -> None:
        require(2 <= self.exponent_bits <= 11, "exponent_bits", self.exponent_bits, "2..11")
        require(1 <= self.fraction_bits <= 52, "fraction_bits", self.fraction_bits, "1..52")

    @property
    def width(self) -> int:
        """Total width in bits."""
        return 1 + self.exponent_bits + self.fraction_bits

    @property
    def precision(self) -> int:
        """Significand width with the hidden bit."""
        return self.fraction_bits + 1

    @property
    def bias(self) -> int:
        return (1 << (self.exponent_bits - 1)) - 1

    @property
    def exponent_max_field(self) -> int:
        """The all-ones exponent field (infinity and NaN)."""
        return (1 << self.exponent_bits) - 1

    @property
    def emin(self) -> int:
        """Exponent of the smallest normal number."""
        return 1 - self.bias

    @property
    def emax(self) -> int:
        """Exponent of the largest finite number."""
        return self.exponent_max_field - 1 - self.bias

    @property
    def sign_mask(self) -> int:
        return 1 << (self.width - 1)

    @property
    def inf(self) -> int:
        """Bit pattern of +infinity; every pattern with a larger magnitude is a NaN."""
        return self.exponent_max_field << self.fraction_bits

    @property
    def nan(self) -> int:
        """Bit pattern of the canonical quiet NaN."""
        return self.inf | (1 << (self.fraction_bits - 1))

    @property
    def one(self) -> int:
        return self.bias << self.fraction_bits

    def __str__(self) -> str:
        return self.name


FP16 = FloatFormat(name="fp16", exponent_bits=5, fraction_bits=10)
BF16 = FloatFormat(name="bf16", exponent_bits=8, fraction_bits=7)
FP32 = FloatFormat(name="fp32", exponent_bits=8, fraction_bits=23)

FORMATS: dict[str, FloatFormat] = {f.name: f for f in (FP16, BF16, FP32)}


def format_named(name: str) -> FloatFormat:
    """Format of this name; raises :class:`UnknownNameError`."""
    try:
        return FORMATS[name]
    except KeyError:
        raise UnknownNameError("format", name, FORMATS) from None


def require_format(what: str, given: FloatFormat, *allowed: FloatFormat) -> None:
    """Raise :class:`UnsupportedFormatError` unless `given` is one of `allowed`."""
    if given not in allowed:
        names = ", ".join(f.name for f in allowed)
        raise UnsupportedFormatError(f"{what} must be one of {names}, not {given!s}")
