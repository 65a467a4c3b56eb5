"""DFI of a rank: widths, and the settings that a DDR4 controller must be given.

DFI is the interface between a memory controller and a PHY. Its clock is the controller clock, with a *phase* for each
CK of it. The front end takes commands on any phase. Data of a clock are a whole line: phase p carries DQ beats 2p and
2p + 1, the first one in the low half.

Source: DDR PHY Interface specification 3.1, and the names of LiteDRAM's ``dfi.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..dram.timing import DramStandard
from ..errors import require
from ..params.pim_rank import PimRankParams

__all__ = ["AUTO_PRECHARGE_BIT", "DfiParams"]

AUTO_PRECHARGE_BIT = 10
"""Address bit that means auto precharge with RD and WR, and all banks with PRE."""
_ROW_PINS = 17
"""A0 to A16; RAS_n, CAS_n and WE_n are A16 to A14 while ACT_n is low."""


@dataclass(frozen=True, kw_only=True)
class DfiParams:
    """Parameters of the DFI of a rank.

    Parameters
    ----------
    rank : PimRankParams
        DDR4, with a clock of as many CK as make a burst.

    Raises
    ------
    ParameterError
    """

    rank: PimRankParams

    def __post_init__(self) -> None:
        org, ck = self.rank.organization, self.rank.ck_per_clock
        require(org.standard is DramStandard.DDR4, "standard", org.standard.value, "ddr4")
        require(2 * ck == org.burst_length, "ck_per_clock", ck, f"{org.burst_length // 2}: a burst a clock")
        require(org.column_bits <= AUTO_PRECHARGE_BIT, "columns", org.columns, f"at most {1 << AUTO_PRECHARGE_BIT}")

    @property
    def num_phases(self) -> int:
        return self.rank.ck_per_clock

    @property
    def address_bits(self) -> int:
        """A0 to A16, and A17 for rows that need it."""
        return max(_ROW_PINS, self.rank.organization.row_bits)

    @property
    def bank_bits(self) -> int:
        """BA, and BG above it."""
        return self.rank.host_command.places["bank"].width

    @property
    def data_bits(self) -> int:
        """Bits of a phase: two DQ beats."""
        return self.rank.line_bytes * 8 // self.num_phases

    # Settings of a PHY, as a controller is told them.

    @property
    def read_latency(self) -> int:
        """Clocks from a RD to `rddata_valid`, whatever its phase."""
        return self.rank.chip.read_clocks + 2

    @property
    def write_latency(self) -> int:
        """Clocks from a WR to its `wrdata`, whatever its phase."""
        return self.rank.chip.write_clocks
