"""Mapping cost: predicted cycles of one decode step of one layer in one rank, and the best mapping for a shape.

A *pass* streams K, then V, of the kv_heads that lie side by side; ``ceil(num_kv_heads / side by side)`` passes follow
one another. P(n) is the row period for n column accesses, and F the time from the first to the last ACT of all banks
(both from :mod:`pimspec.dram.limits`). All cycles are CK. For the busiest bank of the layout:

* stream: ``full rows * P(columns of a row) + P(columns of the last row)``. The columns count once for each turn that a
  bank PU takes for the queries of a kv_head. F is added once a phase if banks run their rows by themselves (STAGGERED),
  or at each row (LOCKSTEP);
* bus, K: the scores out, ``rho_K`` times the ideal stream; bus, V: the probabilities in, ``chips_per_vector * rho_V``
  times it, for each chip of a vector needs them;
* q in and o out: bursts of what each chip takes and gives (o as FP32, after the addition over the banks in the chip).

Overlapped, the bus works while the banks do, with q of the next pass and o of the last one beside K. A pass takes
``max(K stream, K bus + q + o) + max(V stream, V bus)``; the first q, the last o and one `turnaround_cycles` are added
once. Serial (the ablation), everything adds up. The sum is divided by the share of time that refresh leaves.

Left out: host traffic, bus turn-around between reads and writes, and columns that refresh interrupts.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..dram import limits
from ..dram.organization import DramOrganization, DramPreset
from ..errors import ParameterError, require
from .placement import KvKind, KvLayout
from .shape import ELEMENT_BYTES, AttentionShape, KvMapping, SideBySide

__all__ = ["MappingCost", "RowSchedule", "candidate_mappings", "choose_mapping", "mapping_cost"]

SCORE_BYTES = 4
CLOSE_ENOUGH = 1.01
"""Mappings within this factor of the fastest count as equal; the one with the least bus load is taken."""


class RowSchedule(enum.Enum):
    """Row-opening schedule of a rank's banks under tFAW."""

    STAGGERED = "staggered"
    """Each bank proceeds independently, as with a MAC command that streams a counted burst."""
    LOCKSTEP = "lockstep"
    """All banks stream together once the last one is open."""


@dataclass(frozen=True, kw_only=True)
class MappingCost:
    """Predicted cost of a decode step; cycles are CK, of one pass and without refresh unless stated.

    Parameters
    ----------
    mapping : KvMapping
    num_passes : int
    k_stream_cycles, v_stream_cycles : int
        Bank busy time.
    k_bus_cycles, v_bus_cycles : int
        Bus time of scores out, and of probabilities in.
    q_cycles, output_cycles : int
        Bus time of q in, and of o out.
    turnaround_cycles : int
        Time from the last score to the first probability.
    overlapped : bool
    refresh_efficiency : float
    peak_cycles : float
        Time of the whole step at the peak internal bandwidth.
    """

    mapping: KvMapping
    num_passes: int
    k_stream_cycles: int
    v_stream_cycles: int
    k_bus_cycles: int
    v_bus_cycles: int
    q_cycles: int
    output_cycles: int
    turnaround_cycles: int
    overlapped: bool
    refresh_efficiency: float
    peak_cycles: float

    @property
    def bus_load(self) -> float:
        """Bus cycles over stream cycles."""
        bus = self.k_bus_cycles + self.v_bus_cycles + self.q_cycles + self.output_cycles
        return bus / (self.k_stream_cycles + self.v_stream_cycles)

    @property
    def cycles_without_refresh(self) -> int:
        """Cycles of the whole step, without refresh."""
        ends = self.q_cycles + self.output_cycles
        if not self.overlapped:
            stream, bus = self.k_stream_cycles + self.v_stream_cycles, self.k_bus_cycles + self.v_bus_cycles
            return self.num_passes * (stream + bus + ends + self.turnaround_cycles)
        v = max(self.v_stream_cycles, self.v_bus_cycles)
        first = max(self.k_stream_cycles, self.k_bus_cycles) + v
        further = max(self.k_stream_cycles, self.k_bus_cycles + ends) + v
        return first + (self.num_passes - 1) * further + ends + self.turnaround_cycles

    @property
    def cycles(self) -> int:
        """Cycles of the whole step, refresh included."""
        return math.ceil(self.cycles_without_refresh / self.refresh_efficiency)

    @property
    def utilization_of_peak(self) -> float:
        return self.peak_cycles / self.cycles


def _stream_cycles(layout: KvLayout, preset: DramPreset, tokens: int, turns: int, schedule: RowSchedule) -> int:
    timing, per_token = preset.timing, layout.accesses_per_token * turns
    rows, tail = divmod(layout.busiest_bank_tokens(tokens), layout.tokens_per_row)
    cycles = rows * limits.row_period_cycles(timing, layout.tokens_per_row * per_token) if rows else 0
    if tail:
        cycles += limits.row_period_cycles(timing, tail * per_token)
    openings = 1 if schedule is RowSchedule.STAGGERED else rows + (tail > 0)
    return cycles + openings * limits.first_to_last_act_cycles(timing, preset.organization.banks_per_chip)


def mapping_cost(
    shape: AttentionShape,
    mapping: KvMapping,
    preset: DramPreset,
    tokens: int,
    *,
    schedule: RowSchedule = RowSchedule.STAGGERED,
    overlapped: bool = True,
    concurrent_queries: int | None = None,
    turnaround_cycles: int = 0,
) -> MappingCost:
    """Predicted cost of a decode step of `shape` over `tokens` tokens.

    Parameters
    ----------
    shape : AttentionShape
    mapping : KvMapping
    preset : DramPreset
    tokens : int
        1 or more.
    schedule : RowSchedule
    overlapped : bool
    concurrent_queries : int, optional
        Queries for which a bank PU has lanes (N_cmr); by default, those of a kv_head.
    turnaround_cycles : int

    Raises
    ------
    ParameterError
        If the shape does not fit the mapping.
    """
    require(tokens >= 1, "tokens", tokens, "1 or more")
    require(turnaround_cycles >= 0, "turnaround_cycles", turnaround_cycles, "0 or more")
    group, o, timing = shape.gqa_group_size, preset.organization, preset.timing
    queries = group if concurrent_queries is None else concurrent_queries
    require(queries >= 1, "concurrent_queries", queries, "1 or more")
    turns = -(-group // queries)
    k, v = (KvLayout(organization=o, shape=shape, mapping=mapping, kind=kind) for kind in KvKind)
    peak_bytes_per_ck = o.banks_per_rank * o.column_access_bytes / timing.nCCD_MAC
    ideal = k.heads * tokens * shape.vector_bytes / peak_bytes_per_ck
    rho_k = limits.bus_load_k(
        preset, partials_per_token=mapping.chips_per_vector, gqa_group_size=group, head_dim=shape.head_dim
    )
    rho_v = mapping.chips_per_vector * limits.bus_load_v(preset, gqa_group_size=group, head_dim=shape.head_dim)

    def burst_cycles(chip_bytes: int) -> int:
        return -(-chip_bytes // o.column_access_bytes) * timing.nCCD_S

    return MappingCost(
        mapping=mapping,
        num_passes=-(-shape.num_kv_heads // k.heads),
        k_stream_cycles=_stream_cycles(k, preset, tokens, turns, schedule),
        v_stream_cycles=_stream_cycles(v, preset, tokens, turns, schedule),
        k_bus_cycles=math.ceil(rho_k * ideal),
        v_bus_cycles=math.ceil(rho_v * ideal),
        q_cycles=burst_cycles(k.dims_per_chip * group * ELEMENT_BYTES),
        output_cycles=burst_cycles(k.dims_per_chip * group * SCORE_BYTES),
        turnaround_cycles=turnaround_cycles,
        overlapped=overlapped,
        refresh_efficiency=limits.refresh_efficiency(timing),
        peak_cycles=shape.kv_bytes(tokens) / peak_bytes_per_ck,
    )


def candidate_mappings(organization: DramOrganization) -> tuple[KvMapping, ...]:
    """Mappings for all chips_per_vector that divide the rank, with tokens or kv_heads side by side.

    Token-per-chip is first.
    """
    chips = organization.chips_per_rank
    return tuple(
        KvMapping(chips_per_vector=n, side_by_side=side)
        for n in (1, 2, 4, 8)
        if chips % n == 0
        for side in (SideBySide if n < chips else (SideBySide.TOKENS,))
    )


def choose_mapping(
    shape: AttentionShape,
    preset: DramPreset,
    tokens: int,
    *,
    candidates: Iterable[KvMapping] | None = None,
    schedule: RowSchedule = RowSchedule.STAGGERED,
    overlapped: bool = True,
    concurrent_queries: int | None = None,
    turnaround_cycles: int = 0,
) -> MappingCost:
    """Cost of the candidate that :func:`mapping_cost` predicts to be fastest; see :data:`CLOSE_ENOUGH` for ties.

    Candidates that the shape does not fit are skipped.

    Raises
    ------
    ParameterError
        If no candidate fits.
    """
    costs = []
    for mapping in candidate_mappings(preset.organization) if candidates is None else candidates:
        try:
            KvLayout(organization=preset.organization, shape=shape, mapping=mapping, kind=KvKind.V)
        except ParameterError:
            continue
        costs.append(
            mapping_cost(
                shape,
                mapping,
                preset,
                tokens,
                schedule=schedule,
                overlapped=overlapped,
                concurrent_queries=concurrent_queries,
                turnaround_cycles=turnaround_cycles,
            )
        )
    require(bool(costs), "head_dim", shape.head_dim, f"one that some mapping on {preset.name} can hold")
    bound = min(cost.cycles for cost in costs) * CLOSE_ENOUGH
    return min((cost for cost in costs if cost.cycles <= bound), key=lambda cost: cost.bus_load)
