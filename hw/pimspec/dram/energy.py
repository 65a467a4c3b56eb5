"""Command energy of DRAM, from the supply currents of a data sheet.

A data-sheet current is the mean over a pattern of commands (the IDD patterns of JESD79-4). Its excess over standby is
the energy of the pattern's commands, as computed by DRAMsim3 and in Micron's power notes::

    ACT + PRE    (IDD0 tRC - IDD3N tRAS - IDD2N (tRC - tRAS)) VDD        one row of a chip
    RD, WR       (IDD4R - IDD3N) tBL VDD, (IDD4W - IDD3N) tBL VDD        one column access of a chip
    REFab        (IDD5B - IDD2N) tRFC VDD                                (DRAMsim3: IDD5B - IDD3N)
    standby      IDD3N VDD while a bank of the chip is open, IDD2N VDD while none is

A RD sends its data from the cells to the pads. :data:`COLUMN_PATH` divides that path into shares. A command that uses a
part of the path takes the same share of RD or WR:

* PIM_MAC: the cells only, for each column access of the burst. The bank PU sits at the column decoder.
* PIM_RD_RB: all but the cells, from one bank: a result buffer sits where the column decoder is.
* PIM_WR_SB: to the bank_groups once, and from there to every bank of the chip, for all of them take the line.

:data:`NOT_COUNTED` lists consumers without a documented constant; no estimate is put in their place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

from ..errors import UnknownNameError, require
from .commands import Command
from .organization import dram_preset

__all__ = [
    "COLUMN_PATH",
    "DRAM_CURRENTS",
    "NOT_COUNTED",
    "ColumnPath",
    "CommandEnergy",
    "DramCurrents",
    "RankEnergy",
    "command_energy",
    "rank_energy",
]

_C = Command


@dataclass(frozen=True, kw_only=True)
class DramCurrents:
    """Supply currents of one chip.

    Parameters
    ----------
    vdd_v : float
        Supply in V.
    idd0_ma, idd2n_ma, idd3n_ma, idd4r_ma, idd4w_ma, idd5b_ma : float
        Mean currents in mA: one bank opened and closed each tRC; standby, precharged; standby, active; reads and writes
        without a pause; refreshes without a pause.
    source : str
    """

    vdd_v: float
    idd0_ma: float
    idd2n_ma: float
    idd3n_ma: float
    idd4r_ma: float
    idd4w_ma: float
    idd5b_ma: float
    source: str

    def __post_init__(self) -> None:
        for what in (field.name for field in fields(self) if field.name != "source"):
            require(getattr(self, what) > 0, what, getattr(self, what), "positive")
        require(bool(self.source.strip()), "source", self.source, "a citation")


DRAM_CURRENTS: Mapping[str, DramCurrents] = MappingProxyType(
    {
        "ddr4-3200-x8-8gb": DramCurrents(
            vdd_v=1.2,
            idd0_ma=57,
            idd2n_ma=37,
            idd3n_ma=52,
            idd4r_ma=168,
            idd4w_ma=150,
            idd5b_ma=250,
            source="DRAMsim3 configs/DDR4_8Gb_x8_3200.ini (IDD5B is its IDD5AB); IDD0 and IDD2N are half of those that "
            "Micron gives for MT40A1G16 Rev. D (x16 TwinDie, two such dies) at DDR4-3200: 114 and 74 mA",
        )
    }
)
"""Currents by part name of :mod:`pimspec.dram.organization`. No documented currents were found for other parts."""


@dataclass(frozen=True, kw_only=True)
class ColumnPath:
    """Energy along the way of a bit from the cells to the global I/O lines; only the shares are used.

    Parameters
    ----------
    cell_pj_per_bit : float
        Bit lines, sense amplifiers and column decoder.
    bank_pj_per_bit : float
        From the column decoder to the multiplexer of the bank_group.
    chip_pj_per_bit : float
        From there to the global I/O lines.
    source : str
    """

    cell_pj_per_bit: float
    bank_pj_per_bit: float
    chip_pj_per_bit: float
    source: str

    @property
    def _total(self) -> float:
        return self.cell_pj_per_bit + self.bank_pj_per_bit + self.chip_pj_per_bit

    @property
    def cell_share(self) -> float:
        return self.cell_pj_per_bit / self._total

    @property
    def bank_share(self) -> float:
        return self.bank_pj_per_bit / self._total

    @property
    def chip_share(self) -> float:
        return self.chip_pj_per_bit / self._total


COLUMN_PATH = ColumnPath(
    cell_pj_per_bit=0.44,
    bank_pj_per_bit=1.01,
    chip_pj_per_bit=1.23,
    source="FGDRAM (O'Connor et al., MICRO 2017), in the figures of AttAcc's simulator; of HBM, to DDR4 in proportion",
)

NOT_COUNTED: tuple[str, ...] = (
    "arithmetic of the bank PUs",
    "buffer chip",
    "DQ drivers and termination (VDDQ)",
    "word line supply (VPP)",
    "command and address bus",
)
"""Consumers left out: IDD excludes VDDQ and VPP and is measured with IOUT = 0; the logic was not measured in DRAM."""


@dataclass(frozen=True, kw_only=True)
class CommandEnergy:
    """Energy of the commands in one chip, and its standby power.

    Parameters
    ----------
    row_pj : float
        ACT and the PRE that follows it.
    read_pj, write_pj : float
        RD, WR.
    mac_pj : float
        One column access of PIM_MAC in one bank.
    operand_pj, result_pj : float
        PIM_WR_SB, PIM_RD_RB.
    refresh_pj : float
        REFab.
    active_mw, precharged_mw : float
        Standby with a bank open, and with none.
    """

    row_pj: float
    read_pj: float
    write_pj: float
    mac_pj: float
    operand_pj: float
    result_pj: float
    refresh_pj: float
    active_mw: float
    precharged_mw: float


def command_energy(dram: str, *, banks: int | None = None) -> CommandEnergy:
    """Command energies of a part.

    Parameters
    ----------
    dram : str
        Name of the part.
    banks : int, optional
        Banks of a chip, if it has fewer than the part; nothing else is scaled.

    Raises
    ------
    UnknownNameError
        If its currents are not documented.
    """
    if dram not in DRAM_CURRENTS:
        raise UnknownNameError("part with documented supply currents", dram, DRAM_CURRENTS)
    currents, part, path = DRAM_CURRENTS[dram], dram_preset(dram), COLUMN_PATH
    timing, vdd = part.timing, currents.vdd_v
    banks = part.organization.banks_per_chip if banks is None else banks
    require(banks >= 1, "banks", banks, "1 or more")
    ras, rc, burst, rfc = (float(timing.time_ps(n)) / 1000 for n in (timing.nRAS, timing.nRC, timing.nBL, timing.nRFC))
    standby = currents.idd3n_ma * ras + currents.idd2n_ma * (rc - ras)
    read = (currents.idd4r_ma - currents.idd3n_ma) * vdd * burst  # mA V ns = pJ
    write = (currents.idd4w_ma - currents.idd3n_ma) * vdd * burst
    return CommandEnergy(
        row_pj=(currents.idd0_ma * rc - standby) * vdd,
        read_pj=read,
        write_pj=write,
        mac_pj=read * path.cell_share,
        operand_pj=write * (path.chip_share + banks * path.bank_share),
        result_pj=read * (path.chip_share + path.bank_share),
        refresh_pj=(currents.idd5b_ma - currents.idd2n_ma) * vdd * rfc,
        active_mw=currents.idd3n_ma * vdd,
        precharged_mw=currents.idd2n_ma * vdd,
    )


@dataclass(frozen=True, kw_only=True)
class RankEnergy:
    """Energy of the DRAM chips of a rank, in nJ.

    Parameters
    ----------
    rows_nj : float
        Opening and closing of rows.
    mac_nj : float
        Column accesses of the bank PUs.
    operands_nj, results_nj : float
        Lines to the operand buffers, and from the result buffers.
    host_reads_nj, host_writes_nj : float
        Host reads (RD) and writes (WR).
    refresh_nj, standby_nj : float
    """

    rows_nj: float
    mac_nj: float
    operands_nj: float
    results_nj: float
    host_reads_nj: float
    host_writes_nj: float
    refresh_nj: float
    standby_nj: float

    @property
    def parts(self) -> dict[str, float]:
        """Energies by name, without the unit."""
        return {field.name.removesuffix("_nj"): getattr(self, field.name) for field in fields(self)}

    @property
    def total_nj(self) -> float:
        return sum(self.parts.values())


_FREE = (_C.PREpb, _C.PREab)
_COUNTED = (_C.ACT, _C.RD, _C.WR, _C.REFab, _C.PIM_MAC, _C.PIM_WR_SB, _C.PIM_RD_RB)


def rank_energy(
    energy: CommandEnergy,
    counts: Mapping[Command, int],
    *,
    chips: int,
    mac_accesses: int,
    active_ns: float,
    precharged_ns: float,
) -> RankEnergy:
    """Energy of `chips` chips that work in lockstep.

    Parameters
    ----------
    energy : CommandEnergy
    counts : mapping of Command to int
        Commands that went to the chips; PRE is part of its ACT.
    chips : int
    mac_accesses : int
        Column accesses of all PIM_MAC in the banks of one chip.
    active_ns, precharged_ns : float
        Time with some bank open, and with none.

    Raises
    ------
    ParameterError
        If `counts` has a command whose energy is not known.
    """
    known = (*_COUNTED, *_FREE)
    for command in counts:
        require(command in known, "command", command.name, f"one of {', '.join(c.name for c in known)}")
    require(chips >= 1, "chips", chips, "1 or more")

    def taken(command: Command, picojoules: float) -> float:
        return counts.get(command, 0) * picojoules * chips / 1000

    return RankEnergy(
        rows_nj=taken(_C.ACT, energy.row_pj),
        mac_nj=mac_accesses * energy.mac_pj * chips / 1000,
        operands_nj=taken(_C.PIM_WR_SB, energy.operand_pj),
        results_nj=taken(_C.PIM_RD_RB, energy.result_pj),
        host_reads_nj=taken(_C.RD, energy.read_pj),
        host_writes_nj=taken(_C.WR, energy.write_pj),
        refresh_nj=taken(_C.REFab, energy.refresh_pj),
        standby_nj=(active_ns * energy.active_mw + precharged_ns * energy.precharged_mw) * chips / 1000,
    )
