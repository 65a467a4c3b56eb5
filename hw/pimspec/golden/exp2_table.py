"""Tables of the exp2 core: 2**f - 1 on 64 segments, one line each.

With f in [0, 1) on a grid of ``2**-FRACTION_BITS``, segment s = the top ``SEGMENT_BITS`` bits of f and low = the rest::

    y = (INTERCEPT[s] + SLOPE[s] * low) >> DROPPED_BITS          2**f ~ 1 + y * 2**-OUTPUT_BITS

The sizes are the smallest found (64 segments, an 8 x 8 bit product) that keep the relative error, with that of rounding
f to the grid, below 2**-14; 32 segments on a grid of 2**-16 took about a fifth more area for the same error.

The tables are frozen here; :func:`make_table` derives them again in exact integer arithmetic.
"""

from __future__ import annotations

from math import isqrt

__all__ = [
    "DROPPED_BITS",
    "FRACTION_BITS",
    "INTERCEPT",
    "LOW_BITS",
    "OUTPUT_BITS",
    "SEGMENT_BITS",
    "SLOPE",
    "make_table",
]

FRACTION_BITS = 14
SEGMENT_BITS = 6
LOW_BITS = FRACTION_BITS - SEGMENT_BITS
OUTPUT_BITS = 17
DROPPED_BITS = 4  # slopes then have 8 bits, like `low`

_GUARD = 160  # fraction bits of the exact work


def powers_of_two() -> list[int]:
    """``2**(k / 2**FRACTION_BITS) * 2**_GUARD`` for k = 0..2**FRACTION_BITS, each to far more than 60 bits."""
    root = 2 << _GUARD
    for _ in range(FRACTION_BITS):
        root = isqrt(root << _GUARD)
    powers = [1 << _GUARD]
    for _ in range(1 << FRACTION_BITS):
        powers.append((powers[-1] * root) >> _GUARD)
    return powers


def make_table() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Intercepts and slopes of the table, derived again.

    Each slope is that of the chord, rounded; each intercept puts the largest and the smallest error of the line at
    equal distance from zero and adds half of what the final shift drops. The first segment must give exactly 0 at
    ``f = 0``, so its intercept holds the half only. Its slope is the one with the smallest largest error.
    """
    scale = _GUARD - OUTPUT_BITS - DROPPED_BITS
    half = 1 << (DROPPED_BITS - 1)
    powers = powers_of_two()
    lows = range(1 << LOW_BITS)
    intercepts, slopes = [], []
    for segment in range(1 << SEGMENT_BITS):
        first = segment << LOW_BITS
        exact = [(powers[first + low] - (1 << _GUARD)) >> scale for low in lows]
        rise = (powers[first + len(lows)] - powers[first]) >> scale
        slope = (rise + len(lows) // 2) >> LOW_BITS
        if segment == 0:

            def largest_error(candidate: int, exact: list[int] = exact) -> int:
                return max(abs(candidate * low - exact[low]) for low in lows)

            slope = min(range(slope - 64, slope + 1), key=largest_error)
            intercept = half
        else:
            errors = [exact[low] - slope * low for low in lows]
            intercept = (max(errors) + min(errors)) // 2 + half
        intercepts.append(intercept)
        slopes.append(slope)
    return tuple(intercepts), tuple(slopes)


INTERCEPT: tuple[int, ...] = (
    8,
    22859,
    45942,
    69277,
    92868,
    116717,
    140829,
    165205,
    189848,
    214760,
    239945,
    265404,
    291014,
    317031,
    343331,
    369916,
    396800,
    423984,
    451463,
    479111,
    507184,
    535559,
    564265,
    593283,
    622480,
    652116,
    682096,
    712277,
    742900,
    773863,
    805179,
    836692,
    868682,
    900909,
    933591,
    966656,
    999941,
    1033718,
    1067749,
    1102259,
    1137047,
    1172313,
    1207869,
    1243913,
    1280247,
    1317092,
    1354216,
    1391883,
    1429809,
    1468184,
    1507090,
    1546280,
    1585930,
    1626128,
    1666623,
    1707579,
    1748989,
    1790971,
    1833274,
    1876040,
    1919294,
    1963019,
    2007221,
    2052033,
)

SLOPE: tuple[int, ...] = (
    89,
    90,
    91,
    92,
    93,
    94,
    95,
    96,
    97,
    98,
    99,
    100,
    102,
    103,
    104,
    105,
    106,
    107,
    108,
    110,
    111,
    112,
    113,
    114,
    116,
    117,
    118,
    120,
    121,
    122,
    123,
    125,
    126,
    128,
    129,
    130,
    132,
    133,
    135,
    136,
    138,
    139,
    141,
    142,
    144,
    145,
    147,
    148,
    150,
    152,
    153,
    155,
    157,
    158,
    160,
    162,
    164,
    165,
    167,
    169,
    171,
    173,
    175,
    176,
)
