"""PIM rank: the buffer chip and the DRAM chips behind it."""

from __future__ import annotations

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from pimspec.params.pim_rank import PimRankParams

from .bank_pu import BankPu
from .buffer_chip import BufferChip
from .delivery.names import readable_ports
from .hierarchy import expose, hierarchical_verilog, instance_of
from .host_side.host_port import host_bus
from .pim_chip import PimChip
from .pipeline import slots_follow

__all__ = ["PimRank", "rank_modules", "rank_verilog"]


class PimRank(wiring.Component):
    """A whole PIM rank as it sits on a DIMM; its cell arrays are ports.

    Parameters
    ----------
    params : PimRankParams

    Members
    -------
    host, host_data, host_mask : In; host_out_valid, host_out_data : Out
        See :class:`~.buffer_chip.BufferChip`.
    finished : Out(1); faulted : Out(1), with a DPA controller
        See :class:`~.buffer_chip.BufferChip`.
    cells : array of chips
        The cell array of each chip; see :class:`~.pim_chip.PimChip`.
    """

    def __init__(self, *, params: PimRankParams) -> None:
        self.params, self.dpa = params, params.dpa
        p = params
        self._interrupts = ["finished"] if params.dpa is None else ["finished", "faulted"]
        self._chips = [PimChip(params=p.chip) for _ in range(p.num_chips)]
        cells = self._chips[0].signature.members["cells"]
        super().__init__(
            {
                **host_bus(p),
                **{name: Out(1) for name in self._interrupts},
                **{f"cells{c}": cells for c in range(p.num_chips)},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = self.params
        buffer = BufferChip(params=p)
        m.submodules.buffer = instance_of(buffer, "buffer_chip")
        expose(m, self, buffer, [*host_bus(p), *self._interrupts])
        bits, access = p.access_bytes * 8, p.access_bytes
        status = Signal(8)
        lines = []
        for c, chip in enumerate(self._chips):
            m.submodules[f"chip{c}"] = instance_of(chip, "pim_chip")
            m.d.comb += [
                chip.command.valid.eq(buffer.command.valid),
                chip.command.payload.eq(buffer.command.payload),
                *slots_follow(chip.late, buffer.late),
                chip.bus.valid.eq(buffer.bus.valid),
                chip.bus.payload.eq(buffer.bus.payload),
                chip.dq_in.data.eq(buffer.write_data.word_select(c, bits)),
                chip.dq_in.mask.eq(buffer.write_mask.word_select(c, access)),
                chip.status_clear.eq(buffer.chip_clear),
            ]
            lines.append(chip.dq_out.data)
            for mine, its in zip(getattr(self, f"cells{c}"), chip.cells, strict=True):
                expose(m, mine, its, its.signature.members)
        any_status = reduce(or_, (chip.status.as_value() for chip in self._chips))
        m.d.comb += [status.eq(any_status), buffer.chip_status.eq(status), buffer.read_data.eq(Cat(lines))]
        return m


def rank_modules(params: PimRankParams) -> dict[str, str]:
    """Verilog text of each chip and of what a chip has many of, by module name: bank_pu, pim_chip, buffer_chip.

    The text of ``pim_chip`` has instances of ``bank_pu`` but not its text.
    """
    components = {
        "bank_pu": BankPu(params=params.bank_pu),
        "pim_chip": PimChip(params=params.chip),
        "buffer_chip": BufferChip(params=params),
    }
    return {name: hierarchical_verilog(component, name, {}) for name, component in components.items()}


def rank_verilog(params: PimRankParams) -> str:
    """Verilog of a whole rank, module ``pim_rank``, with all that it has instances of."""
    top = hierarchical_verilog(PimRank(params=params), "pim_rank", {})
    return readable_ports("\n".join([*rank_modules(params).values(), top]))
