"""Upper bounds on the internal bandwidth that a DIMM-PIM can use, in closed form.

A measured number of the timing model or the RTL must lie on or below these. Symbols: b bytes of a column access of one
chip, n column accesses used per activation. R is the internal over the external bandwidth of a rank, g the queries that
share one K and V (GQA), d the head dimension. Cycles are CK. The column distance is nCCD_MAC, which equals tCCD_L
except for HBM3 under AttAcc's power limit. Scheduling, softmax and host traffic are not considered.
"""

from __future__ import annotations

from ..errors import require
from .organization import DramOrganization, DramPreset
from .timing import DramTiming

__all__ = [
    "attention_efficiency",
    "bank_bandwidth_bytes_per_s",
    "bank_set_limit",
    "bus_load_k",
    "bus_load_v",
    "chip_bandwidth_bytes_per_s",
    "external_bandwidth_bytes_per_s",
    "first_to_last_act_cycles",
    "internal_to_external_ratio",
    "kv_bytes_per_token",
    "lockstep_row_efficiency",
    "lockstep_row_period_cycles",
    "mac_lanes_at_full_rate",
    "rank_bandwidth_bytes_per_s",
    "refresh_efficiency",
    "row_efficiency",
    "row_period_cycles",
    "same_bank_refresh_loss",
    "stream_time_s",
]

_PS_PER_S = 10**12


def bank_bandwidth_bytes_per_s(preset: DramPreset) -> float:
    """Bytes per second that one bank delivers to its own PU: ``b / (tCCD_L * tCK)``."""
    return float(preset.organization.column_access_bytes * _PS_PER_S / preset.timing.time_ps(preset.timing.nCCD_MAC))


def chip_bandwidth_bytes_per_s(preset: DramPreset) -> float:
    """Bytes per second of all banks of a chip: ``banks * b / (tCCD_L * tCK)``."""
    return bank_bandwidth_bytes_per_s(preset) * preset.organization.banks_per_chip


def rank_bandwidth_bytes_per_s(preset: DramPreset) -> float:
    """Bytes per second of all banks of all chips of a rank: ``chips * banks * b / (tCCD_L * tCK)``."""
    return bank_bandwidth_bytes_per_s(preset) * preset.organization.banks_per_rank


def external_bandwidth_bytes_per_s(preset: DramPreset) -> float:
    """Bytes per second of the data bus that the ranks share: ``bus width * data rate``."""
    return preset.organization.bus_width_bits / 8 * preset.timing.data_rate_mt_per_s * 10**6


def internal_to_external_ratio(preset: DramPreset) -> float:
    """Ratio of a rank's bandwidth inside to that over its bus: R = W_rank / W_ext."""
    return rank_bandwidth_bytes_per_s(preset) / external_bandwidth_bytes_per_s(preset)


def _require_columns(columns_used: int) -> None:
    require(columns_used >= 1, "columns_used", columns_used, "1 or more")


def row_period_cycles(timing: DramTiming, columns_used: int) -> int:
    """ACT to ACT of a bank that streams n columns: ``P = max(tRC, tRCD + (n-1) tCCD_L + tRTP + tRP)``."""
    _require_columns(columns_used)
    stream = timing.nRCD_MAC + (columns_used - 1) * timing.nCCD_MAC + timing.nRTP + timing.nRP
    return max(timing.nRC, stream)


def row_efficiency(timing: DramTiming, columns_used: int) -> float:
    """Share of the bank's column rate left after opening and closing rows: ``n * tCCD_L / P``."""
    return columns_used * timing.nCCD_MAC / row_period_cycles(timing, columns_used)


def first_to_last_act_cycles(timing: DramTiming, num_banks: int) -> int:
    """Fewest cycles from the first to the last ACT of `num_banks` banks of a rank.

    ``((num_banks-1) // 4) * max(tFAW, 4 tRRD_S) + ((num_banks-1) % 4) * tRRD_S``: for a multiple of four banks this is
    ``(banks/4 - 1) * tFAW + 3 * tRRD_S``. The formula holds if consecutive ACTs go to different bank_groups, and tRRD_L
    is not above the time after which a bank_group comes round again.
    """
    require(num_banks >= 1, "num_banks", num_banks, "1 or more")
    fours, rest = divmod(num_banks - 1, 4)
    return fours * max(timing.nFAW, 4 * timing.nRRD_S) + rest * timing.nRRD_S


def lockstep_row_period_cycles(timing: DramTiming, num_banks: int, columns_used: int) -> int:
    """Row period of all-bank lockstep that keeps tFAW: P plus the time from the first to the last ACT."""
    return row_period_cycles(timing, columns_used) + first_to_last_act_cycles(timing, num_banks)


def lockstep_row_efficiency(timing: DramTiming, num_banks: int, columns_used: int) -> float:
    """Row efficiency of all-bank lockstep with a legal tFAW: ``n * tCCD_L / (P + first to last ACT)``.

    0.8634 at DDR4-3200 with 16 banks and n = 128; a Ramulator run of 40 rows measured 0.8639. Sets of four banks that
    are opened in turn while the others stream measured 0.9133: that schedule has no closed form here.
    """
    return columns_used * timing.nCCD_MAC / lockstep_row_period_cycles(timing, num_banks, columns_used)


def bank_set_limit(timing: DramTiming, *, ranks_on_ca: int, command_cycles: int) -> int:
    """Number of PIM_MAC that one CA bus can issue to each rank per column time: ``tCCD_L // (ranks * command_cycles)``.

    It bounds the number of independently commanded sets into which the banks of a rank may be divided. `command_cycles`
    is 1 at DDR4 1N and 2 at DDR5. A sequencer on the DIMM has the CA bus of its own ranks only.
    """
    require(ranks_on_ca >= 1, "ranks_on_ca", ranks_on_ca, "1 or more")
    require(command_cycles >= 1, "command_cycles", command_cycles, "1 or more")
    return timing.nCCD_MAC // (ranks_on_ca * command_cycles)


def refresh_efficiency(timing: DramTiming, rate: int = 1) -> float:
    """Share of time left by REFab: ``1 - tRFC / tREFI``.

    `rate` 2 or 4 is fine-granularity refresh: tRFC2 or tRFC4 in each ``tREFI / rate``.

    Refreshes are assumed to fall between rows. A refresh that interrupts a row costs tRP + tRCD more.
    """
    busy = {1: timing.nRFC, 2: timing.nRFC_2x, 4: timing.nRFC_4x}
    require(busy.get(rate, 0) > 0, "rate", rate, f"one that {timing.name} has: {[k for k, v in busy.items() if v]}")
    return 1 - busy[rate] * rate / timing.nREFI


def same_bank_refresh_loss(timing: DramTiming, organization: DramOrganization, *, lockstep: bool) -> float:
    """Share of time lost to REFsb: one must be issued in each ``tREFI / banks_per_group``.

    A REFsb blocks one bank of each bank_group for tRFCsb. All-bank lockstep waits for it, and loses
    ``tRFCsb * banks_per_group / tREFI``; independent bank sets lose that divided by `banks_per_group`.
    """
    require(timing.nRFCsb > 0, "timing", timing.name, "one with REFsb")
    loss = timing.nRFCsb * organization.banks_per_group / timing.nREFI
    return loss if lockstep else loss / organization.banks_per_group


def _require_attention(**given: int) -> None:
    for what, value in given.items():
        require(value >= 1, what, value, "1 or more")


def bus_load_k(
    preset: DramPreset,
    *,
    partials_per_token: int,
    gqa_group_size: int,
    head_dim: int,
    score_bytes: int = 4,
    element_bytes: int = 2,
) -> float:
    """rho_K: time to read the scores out, over the time to stream K.

    ``rho_K = P_part * g * s_out / (d * element_bytes) * R`` with P_part partial scores for each token: 1 if a token
    lies in one chip, 8 if its vector is split over 8 chips.
    """
    _require_attention(
        partials_per_token=partials_per_token,
        gqa_group_size=gqa_group_size,
        head_dim=head_dim,
        score_bytes=score_bytes,
        element_bytes=element_bytes,
    )
    out = partials_per_token * gqa_group_size * score_bytes
    return out / (head_dim * element_bytes) * internal_to_external_ratio(preset)


def bus_load_v(
    preset: DramPreset, *, gqa_group_size: int, head_dim: int, prob_bytes: int = 2, element_bytes: int = 2
) -> float:
    """rho_V: time to write the probabilities in, over the time to stream V: ``g * s_p / (d * element_bytes) * R``.

    Each probability is assumed to go to one chip. The read-out of the output vectors is left out: it does not grow with
    the sequence.
    """
    _require_attention(
        gqa_group_size=gqa_group_size, head_dim=head_dim, prob_bytes=prob_bytes, element_bytes=element_bytes
    )
    return gqa_group_size * prob_bytes / (head_dim * element_bytes) * internal_to_external_ratio(preset)


def attention_efficiency(row: float, refresh: float, rho_k: float, rho_v: float, *, overlapped: bool) -> float:
    """Share of the internal bandwidth that attention reaches, with K and V phases of equal size.

    Overlapped with the bus, each phase takes ``max(1, rho)``, so the share is
    ``2 * row * refresh / (max(1, rho_k) + max(1, rho_v))``. Serial, each phase takes ``1 + rho``, so it is
    ``row * refresh / (1 + (rho_k + rho_v) / 2)``.
    """
    for what, value in (("row", row), ("refresh", refresh)):
        require(0 < value <= 1, what, value, "above 0 and at most 1")
    for what, value in (("rho_k", rho_k), ("rho_v", rho_v)):
        require(value >= 0, what, value, "0 or more")
    time = max(1.0, rho_k) + max(1.0, rho_v) if overlapped else 2 + rho_k + rho_v
    return 2 * row * refresh / time


def mac_lanes_at_full_rate(organization: DramOrganization, *, gqa_group_size: int = 1, element_bytes: int = 2) -> int:
    """Number of MACs per column time and bank that keep up with the bank for g queries: ``g * b / element_bytes``.

    With fewer lanes the phase is compute-bound and takes ``needed / lanes`` times as long.
    """
    _require_attention(gqa_group_size=gqa_group_size, element_bytes=element_bytes)
    return gqa_group_size * (organization.column_access_bytes // element_bytes)


def kv_bytes_per_token(*, num_kv_heads: int, head_dim: int, num_layers: int = 1, element_bytes: int = 2) -> int:
    """Bytes of K and V of one token: ``2 * layers * kv heads * d * element_bytes``."""
    _require_attention(num_kv_heads=num_kv_heads, head_dim=head_dim, num_layers=num_layers, element_bytes=element_bytes)
    return 2 * num_layers * num_kv_heads * head_dim * element_bytes


def stream_time_s(num_bytes: int, bandwidth_bytes_per_s: float, efficiency: float = 1.0) -> float:
    """Seconds to stream `num_bytes` at a share `efficiency` of a bandwidth."""
    require(num_bytes >= 0, "num_bytes", num_bytes, "0 or more")
    require(bandwidth_bytes_per_s > 0, "bandwidth_bytes_per_s", bandwidth_bytes_per_s, "positive")
    require(0 < efficiency <= 1, "efficiency", efficiency, "above 0 and at most 1")
    return num_bytes / (bandwidth_bytes_per_s * efficiency)
