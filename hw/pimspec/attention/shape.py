"""Shape of a decode-attention step, mapping of its vectors to chips, and order of its additions.

:class:`AttentionOrder` holds every number that follows from the mapping and changes the bits of a result. The golden
model and the hardware know nothing else of the placement.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np

from ..dram import limits
from ..dram.organization import DramOrganization
from ..errors import is_power_of_two, require
from ..formats import BF16, FP16, FP32, FloatFormat, require_format
from ..golden.rounding import round_pack

__all__ = [
    "ELEMENT_BYTES",
    "LOG2_E",
    "MAX_GQA_GROUP_SIZE",
    "TOKEN_PER_CHIP",
    "AttentionOrder",
    "AttentionShape",
    "KvMapping",
    "SideBySide",
    "attention_order",
    "score_scale_bits",
]

ELEMENT_BYTES = 2
"""Bytes of an element of K, V, q and of a probability (FP16 or BF16)."""

MAX_GQA_GROUP_SIZE = 8
"""Most queries that share one kv_head: a bank PU has lanes and result registers for so many."""

LOG2_E = Fraction("1.4426950408889634073599246810018921374266459541529859341354494069311092")
"""log2(e) to 70 digits."""


@cache
def score_scale_bits(softmax_scale: float) -> int:
    """``RNE_fp32(log2(e) * softmax_scale)``: the factor that turns a score into the exponent of a power of two."""
    require(math.isfinite(softmax_scale) and softmax_scale > 0, "softmax_scale", softmax_scale, "positive and finite")
    exact = LOG2_E * Fraction(softmax_scale)
    # 50 significand bits and a sticky bit: the helper keeps 24 of them.
    lsb_exponent = exact.numerator.bit_length() - exact.denominator.bit_length() - 50
    scaled = exact / Fraction(2) ** lsb_exponent
    significand = math.floor(scaled)
    significand |= scaled != significand
    sign, lsb, digits = (np.asarray(v, dtype=np.int64) for v in (0, lsb_exponent, significand))
    bits = int(round_pack(sign, lsb, digits, FP32))
    require(1 << FP32.fraction_bits <= bits < FP32.inf, "softmax_scale", softmax_scale, "a normal FP32 number")
    return bits


@dataclass(frozen=True, kw_only=True)
class AttentionShape:
    """Shape of one layer's decode attention: one query token against a cache.

    q_head h belongs to kv_head ``h // gqa_group_size``.

    Parameters
    ----------
    num_q_heads, num_kv_heads : int
    head_dim : int
        A power of two in 16..256, so that vectors tile a row.
    softmax_scale : float, optional
        Factor of a score before the softmax; ``head_dim ** -0.5`` by default.
    format : FloatFormat
        FP16 or BF16: format of q, K, V and of the probabilities.

    Raises
    ------
    ParameterError
    """

    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    softmax_scale: float | None = None
    format: FloatFormat = FP16

    def __post_init__(self) -> None:
        require(self.num_kv_heads >= 1, "num_kv_heads", self.num_kv_heads, "1 or more")
        require(
            self.num_q_heads >= 1 and self.num_q_heads % self.num_kv_heads == 0,
            "num_q_heads",
            self.num_q_heads,
            f"a multiple of num_kv_heads ({self.num_kv_heads})",
        )
        require(
            self.gqa_group_size <= MAX_GQA_GROUP_SIZE,
            "num_q_heads / num_kv_heads",
            self.gqa_group_size,
            f"1..{MAX_GQA_GROUP_SIZE}",
        )
        require(
            is_power_of_two(self.head_dim) and 16 <= self.head_dim <= 256,
            "head_dim",
            self.head_dim,
            "a power of two in 16..256",
        )
        require_format("format", self.format, FP16, BF16)
        score_scale_bits(self.scale)

    @property
    def gqa_group_size(self) -> int:
        return self.num_q_heads // self.num_kv_heads

    @property
    def scale(self) -> float:
        """Softmax scale: as given, or ``head_dim ** -0.5``."""
        return self.head_dim**-0.5 if self.softmax_scale is None else self.softmax_scale

    @property
    def scale_bits(self) -> int:
        """FP32 bits of ``log2(e) * scale``."""
        return score_scale_bits(self.scale)

    @property
    def vector_bytes(self) -> int:
        """Bytes of one K or V vector of one kv_head."""
        return self.head_dim * ELEMENT_BYTES

    def kv_bytes(self, tokens: int) -> int:
        """Bytes of K and V of `tokens` tokens, which one decode step streams."""
        require(tokens >= 0, "tokens", tokens, "0 or more")
        return tokens * limits.kv_bytes_per_token(num_kv_heads=self.num_kv_heads, head_dim=self.head_dim)

    def macs(self, tokens: int) -> int:
        """Number of multiplications of QK and SV over `tokens` tokens."""
        require(tokens >= 0, "tokens", tokens, "0 or more")
        return 2 * tokens * self.num_q_heads * self.head_dim


class SideBySide(enum.Enum):
    """Content of the sets of chips that each hold whole vectors."""

    TOKENS = "tokens"
    """Successive tokens of one kv_head."""
    KV_HEADS = "kv_heads"
    """The same token of successive kv_heads."""


@dataclass(frozen=True, kw_only=True)
class KvMapping:
    """Mapping of K and V vectors to the chips and banks of a rank.

    A vector is split over `chips_per_vector` chips (N_hc of CHIME); the ``chips / chips_per_vector`` sets of chips hold
    tokens or kv_heads side by side. K: a chip's part of a vector lies in one bank. V: it is spread over
    `v_banks_per_vector` banks, so that a bank keeps few sums. Banks beyond those take further tokens, and the chip adds
    up their sums.

    Parameters
    ----------
    chips_per_vector : int
        1, 2, 4 or 8.
    side_by_side : SideBySide
    v_banks_per_vector : int, optional
        A power of two; by default, the column accesses of the chip's part of a vector, or all banks if those are fewer.
    k_tokens_per_deal : int, optional
        Successive tokens of a chip that one bank takes before the next bank's turn; by default, those that fill a row.
        It does not change results.
    """

    chips_per_vector: int = 1
    side_by_side: SideBySide = SideBySide.TOKENS
    v_banks_per_vector: int | None = None
    k_tokens_per_deal: int | None = None

    def __post_init__(self) -> None:
        require(
            is_power_of_two(self.chips_per_vector) and self.chips_per_vector <= 8,
            "chips_per_vector",
            self.chips_per_vector,
            "1, 2, 4 or 8",
        )
        for what in ("v_banks_per_vector", "k_tokens_per_deal"):
            given = getattr(self, what)
            require(given is None or is_power_of_two(given), what, given, "a power of two")

    @property
    def name(self) -> str:
        """Name such as ``"1-chip-vectors/tokens"``, which is token-per-chip."""
        return f"{self.chips_per_vector}-chip-vectors/{self.side_by_side.value}"

    def chip_sets(self, organization: DramOrganization) -> int:
        """Number of sets of chips that each hold whole vectors."""
        chips = organization.chips_per_rank
        require(
            chips % self.chips_per_vector == 0,
            "chips_per_vector",
            self.chips_per_vector,
            f"a divisor of chips_per_rank ({chips})",
        )
        return chips // self.chips_per_vector

    def token_chips(self, organization: DramOrganization) -> int:
        """Number of sets of chips over which the tokens of one kv_head are dealt."""
        return self.chip_sets(organization) if self.side_by_side is SideBySide.TOKENS else 1

    def heads_side_by_side(self, organization: DramOrganization) -> int:
        """Number of kv_heads that are streamed at once."""
        return self.chip_sets(organization) if self.side_by_side is SideBySide.KV_HEADS else 1

    def dims_per_chip(self, shape: AttentionShape, organization: DramOrganization) -> int:
        """Dims of a vector in one chip: whole column accesses."""
        dims, access = shape.head_dim // self.chips_per_vector, organization.column_access_bytes
        require(
            dims * ELEMENT_BYTES % access == 0,
            "head_dim",
            shape.head_dim,
            f"a multiple of {self.chips_per_vector * access // ELEMENT_BYTES} for {self.name} ({access} B a column)",
        )
        return dims

    def v_banks(self, shape: AttentionShape, organization: DramOrganization) -> int:
        """Number of banks of a chip over which its part of a V vector is spread."""
        accesses = self.dims_per_chip(shape, organization) * ELEMENT_BYTES // organization.column_access_bytes
        most = min(accesses, organization.banks_per_chip)
        chosen = most if self.v_banks_per_vector is None else self.v_banks_per_vector
        require(
            chosen <= most, "v_banks_per_vector", chosen, f"at most {most}: {accesses} column accesses in a chip's part"
        )
        return chosen


TOKEN_PER_CHIP = KvMapping()
"""Each token lies whole in one chip: token t in chip ``t % chips``."""


@dataclass(frozen=True, kw_only=True)
class AttentionOrder:
    """Parameters that determine the order of the operations.

    Parameters
    ----------
    format : FloatFormat
        Format of q, K, V and of the probabilities.
    lanes : int
        Elements of one column access: the width of a bank PU's adder tree for one query.
    vector_chips : int
        Chips over which a vector is split; their partial scores are added pairwise in chip order.
    token_chips : int
        Chips (or sets of chips) over which tokens are dealt: token t of a segment is in ``t % token_chips``.
    token_banks : int
        Banks of a chip over which its V tokens are dealt: bank ``(t // token_chips) % token_banks``.
    segment_tokens : int
        Tokens of a segment, at most: the depth of the score memory. Longer contexts are merged.
    prob_lanes : int
        Probabilities that are added pairwise before they join the running sum.

    Raises
    ------
    ParameterError
        If a count is not a power of two, or a segment would not begin at chip 0, bank 0.
    """

    format: FloatFormat = FP16
    lanes: int = 4
    vector_chips: int = 1
    token_chips: int = 8
    token_banks: int = 1
    segment_tokens: int = 8192
    prob_lanes: int = 4

    def __post_init__(self) -> None:
        require_format("format", self.format, FP16, BF16)
        for what in ("lanes", "vector_chips", "token_chips", "token_banks", "segment_tokens", "prob_lanes"):
            require(is_power_of_two(getattr(self, what)), what, getattr(self, what), "a power of two")
        least = max(self.token_ways, self.prob_lanes)
        require(self.segment_tokens >= least, "segment_tokens", self.segment_tokens, f"at least {least}")

    @property
    def token_ways(self) -> int:
        """Number of accumulators of one output element in a rank: chips times banks that see different tokens."""
        return self.token_chips * self.token_banks


def attention_order(
    shape: AttentionShape,
    mapping: KvMapping,
    organization: DramOrganization,
    *,
    segment_tokens: int = 8192,
    prob_lanes: int = 4,
) -> AttentionOrder:
    """Order of operations of a rank of `organization` for `shape` under `mapping`."""
    return AttentionOrder(
        format=shape.format,
        lanes=organization.column_access_bytes // ELEMENT_BYTES,
        vector_chips=mapping.chips_per_vector,
        token_chips=mapping.token_chips(organization),
        token_banks=organization.banks_per_chip // mapping.v_banks(shape, organization),
        segment_tokens=segment_tokens,
        prob_lanes=prob_lanes,
    )
