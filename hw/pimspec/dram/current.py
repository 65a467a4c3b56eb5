"""Supply current of a PIM chip: bounds by the banks that stream, and the current of a command stream over time.

All currents are in mA from VDD, of one chip, by the constants of :mod:`pimspec.dram.energy`. The charge of a command is
drawn evenly over a time from its CK on: nRC for ACT (and its PRE), nBL for a burst on DQ, nCCD_MAC for each column
access of PIM_MAC, nRFC for REFab. Standby is IDD3N while a bank has an open row, and IDD2N while none has.

:func:`bound_ma` is the most that a chip can draw while PIM owns it, with a number of banks streaming. A limit in mA
becomes a number of banks (:func:`banks_within`), which the command engine keeps. The bound is that of commands at their
least distance for a long time; in a window of w CK the charge of a kind may exceed it by one command.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import require
from .commands import Command
from .constraints import constraint_named, timing_constraints
from .energy import DRAM_CURRENTS, command_energy
from .organization import DramOrganization
from .timing import DramTiming

__all__ = ["WINDOWS_NS", "ChipCurrent", "banks_within", "bound_ma", "chip_current"]

_C = Command
WINDOWS_NS: Mapping[str, int] = {"peak_100ns": 100, "peak_1us": 1000}
"""Windows of the peaks that are reported, in ns."""


def bound_ma(
    dram: str, timing: DramTiming, organization: DramOrganization, *, banks: int, bus_tccd: str = "long"
) -> float:
    """Most current of a chip with `banks` banks streaming: standby, PIM_MAC, rows at tFAW, PIM_WR_SB without a pause.

    Parameters
    ----------
    dram : str
        Name of the part, for its currents.
    timing : DramTiming
    organization : DramOrganization
        Organization of the rank.
    banks : int
        0 or more.
    bus_tccd : {"long", "short"}
        Distance of two PIM_WR_SB.

    Raises
    ------
    UnknownNameError
        If the currents of the part are not documented.
    """
    energy = command_energy(dram, banks=organization.banks_per_chip)
    table = timing_constraints(timing, organization, bus_tccd=bus_tccd)
    write = constraint_named(table, "pim_WR_SB_write" if bus_tccd == "long" else "tCCD_S_WR").latency_cycles
    ck_ns = float(timing.clock_period_ps) / 1000
    vdd = DRAM_CURRENTS[dram].vdd_v
    power_pj_per_ck = (
        energy.active_mw * ck_ns
        + banks * energy.mac_pj / timing.nCCD_MAC
        + 4 * energy.row_pj / max(timing.nFAW, 4 * timing.nRRD_S)
        + energy.operand_pj / write
    )
    return power_pj_per_ck / ck_ns / vdd


def banks_within(
    dram: str, timing: DramTiming, organization: DramOrganization, *, max_current_ma: float, bus_tccd: str = "long"
) -> int:
    """Most banks that may stream at once so that :func:`bound_ma` is `max_current_ma` or less, up to all.

    Raises
    ------
    ParameterError
        If not even one bank may.
    UnknownNameError
        If the currents of the part are not documented.
    """
    none, one = (bound_ma(dram, timing, organization, banks=n, bus_tccd=bus_tccd) for n in (0, 1))
    banks = int((max_current_ma - none) / (one - none) + 1e-9)
    require(banks >= 1, "max_current_ma", max_current_ma, f"at least {one:.1f}, with which one bank may stream")
    return min(banks, organization.banks_per_chip)


@dataclass(frozen=True, kw_only=True)
class ChipCurrent:
    """Current of a chip over a time.

    Parameters
    ----------
    mean_ma : float
    peaks_ma : mapping of str to float
        For each of :data:`WINDOWS_NS`, the greatest mean over a window of that length, or over the whole time if that
        is shorter.
    """

    mean_ma: float
    peaks_ma: Mapping[str, float]

    @property
    def figures(self) -> dict[str, float]:
        """Figures by their names in JSON."""
        return {"mean": self.mean_ma, **self.peaks_ma}


def chip_current(
    dram: str,
    timing: DramTiming,
    organization: DramOrganization,
    *,
    length_ck: int,
    starts_ck: Mapping[Command, NDArray[np.int64]],
    open_ck: NDArray[np.int64],
    mac_interval_ck: int,
    mac_counts: NDArray[np.int64],
) -> ChipCurrent:
    """Current of a chip from CK 0 to `length_ck`.

    Parameters
    ----------
    dram, timing, organization
        As for :func:`bound_ma`.
    length_ck : int
    starts_ck : mapping of Command to int array
        CK of each command, also of those before CK 0 that still draw current then.
    open_ck : int array of shape (n, 2)
        First and last CK (exclusive) of the times in which some bank has an open row.
    mac_interval_ck : int
        CK between two accesses of a PIM_MAC.
    mac_counts : int array
        Accesses of each PIM_MAC of `starts_ck`.

    Raises
    ------
    UnknownNameError
        If the currents of the part are not documented.
    """
    require(length_ck >= 1, "length_ck", length_ck, "1 or more")
    energy = command_energy(dram, banks=organization.banks_per_chip)
    ck_ns, vdd = float(timing.clock_period_ps) / 1000, DRAM_CURRENTS[dram].vdd_v
    change = np.zeros(length_ck + 1)  # of the charge a CK, in mA ns; one element for each CK

    def draw(start: NDArray[np.int64], end: NDArray[np.int64], per_ck: float) -> None:
        first, last = (np.clip(ck, 0, length_ck) for ck in (start, end))
        change[:] += per_ck * (np.bincount(first, minlength=length_ck + 1) - np.bincount(last, minlength=length_ck + 1))

    def spread(command: Command, picojoules: float, time: int) -> None:
        start = starts_ck.get(command, np.zeros(0, np.int64))
        draw(start, start + time, picojoules / vdd / time)

    spread(_C.ACT, energy.row_pj, timing.nRC)
    spread(_C.REFab, energy.refresh_pj, timing.nRFC)
    bus = {
        _C.RD: energy.read_pj,
        _C.WR: energy.write_pj,
        _C.PIM_WR_SB: energy.operand_pj,
        _C.PIM_RD_RB: energy.result_pj,
    }
    for command, picojoules in bus.items():
        spread(command, picojoules, timing.nBL)
    macs = starts_ck.get(_C.PIM_MAC, np.zeros(0, np.int64))
    draw(macs, macs + mac_counts * mac_interval_ck, energy.mac_pj / vdd / mac_interval_ck)
    change[0] += energy.precharged_mw / vdd * ck_ns
    draw(open_ck[:, 0], open_ck[:, 1], (energy.active_mw - energy.precharged_mw) / vdd * ck_ns)
    charge = np.concatenate([[0.0], np.cumsum(np.cumsum(change[:-1]))])  # up to each CK
    peaks = {}
    for name, window_ns in WINDOWS_NS.items():
        window = min(length_ck, max(1, round(window_ns / ck_ns)))
        peaks[name] = float((charge[window:] - charge[:-window]).max()) / (window * ck_ns)
    return ChipCurrent(mean_ma=float(charge[-1]) / (length_ck * ck_ns), peaks_ma=peaks)
