"""PIM rank with a DFI: what a DDR4 controller's PHY side connects to."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from pimspec.hostif.dfi import DfiParams

from .hierarchy import expose, hierarchical_verilog, instance_of
from .host_side.dfi_front_end import DfiFrontEnd, dfi_phase
from .pim_rank import PimRank, rank_verilog
from .pipeline import slots_follow

__all__ = ["PimRankDfi", "rank_dfi_verilog"]


class PimRankDfi(wiring.Component):
    """DFI front end and rank; the cell arrays of the chips are ports.

    Parameters
    ----------
    params : DfiParams

    Members
    -------
    phases : In(array)
        See :func:`~.host_side.dfi_front_end.dfi_phase`.
    finished : Out(1); faulted : Out(1), with a DPA controller; cells : array of chips
        See :class:`~.pim_rank.PimRank`.
    """

    def __init__(self, *, params: DfiParams) -> None:
        self.params = params
        self._rank = PimRank(params=params.rank)
        self._front_end = DfiFrontEnd(params=params)
        own = [name for name in self._rank.signature.members if not name.startswith("host")]
        self._shown = own
        super().__init__(
            {
                "phases": In(dfi_phase(params)).array(params.num_phases),
                **{name: self._rank.signature.members[name] for name in own},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rank, front_end = self._rank, self._front_end
        m.submodules.front_end = front_end
        m.submodules.rank = instance_of(rank, "pim_rank")
        for mine, its in zip(self.phases, front_end.phases, strict=True):
            wiring.connect(m, wiring.flipped(mine), its)
        m.d.comb += [
            *slots_follow(rank.host, front_end.host),
            rank.host_data.eq(front_end.host_data),
            rank.host_mask.eq(front_end.host_mask),
            front_end.host_out_valid.eq(rank.host_out_valid),
            front_end.host_out_data.eq(rank.host_out_data),
        ]
        for name in self._shown:
            if not name.startswith("cells"):
                expose(m, self, rank, [name])
                continue
            for mine, its in zip(getattr(self, name), getattr(rank, name), strict=True):
                expose(m, mine, its, its.signature.members)
        return m


def rank_dfi_verilog(params: DfiParams) -> str:
    """Verilog of a rank with a DFI, module ``pim_rank_dfi``, with all that it has instances of."""
    top = hierarchical_verilog(PimRankDfi(params=params), "pim_rank_dfi", {})
    return "\n".join([rank_verilog(params.rank), top])
