"""The side of a buffer chip towards its DRAM chips: one command bus and one data bus for all who use them."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from pimspec.params.pim_rank import PimRankParams

from ..pipeline import layout_of, pushed
from ..rank_pu.relayout import Relayout

__all__ = ["ChipPort"]


class ChipPort(wiring.Component):
    """Multiplexer of the buses to the chips, and the re-layout of lines between host and chips.

    The host's commands go before those of the command engine, which is idle then. A line of the host is byte
    ``chips * dq_beat + chip``; the chips' lines are chip by chip. Lines for operand buffers go before posted writes,
    and those before the host's own; at most one is there. Everything is combinational but for the register stages of
    :class:`~pimhw.rank_pu.relayout.Relayout`.

    Parameters
    ----------
    params : PimRankParams

    Members
    -------
    engine : In: valid, payload (params.engine.command)
    direct : In(array): valid, payload (params.host_command)
        Commands of the host, by CK.
    command : Out: valid, payload (params.chip.command)
        Of the first CK.
    late : Out(array): valid, payload (params.chip.late)
        Of the CKs after it: commands of the host.
    posted_in, direct_in : In: data, mask
        Lines of the host: for the access queue, and for the chips at once.
    posted_line : Out: data, mask
        `posted_in` as the chips store it.
    operand, posted : In: valid, data, mask
        Lines for the chips, chip by chip: of the bus arbiter and of the access queue.
    write_data, write_mask : Out
        The line for the chips; DM bit 1: keep the byte.
    read_data : In
        The line from the chips.
    host_line : Out
        The same as the host sees it.
    """

    def __init__(self, *, params: PimRankParams) -> None:
        self.params = p = params
        bits = p.line_bytes * 8
        line = {"data": Out(bits), "mask": Out(p.line_bytes)}
        self._to_chips, self._to_queue, self._to_host = (Relayout(params=p.relayout) for _ in range(3))
        super().__init__(
            {
                "engine": In(pushed(layout_of(p.engine.command))),
                "direct": In(pushed(layout_of(p.host_command))).array(p.ck_per_clock),
                "command": Out(pushed(layout_of(p.chip.command))),
                "late": Out(pushed(layout_of(p.chip.late))).array(p.ck_per_clock - 1),
                "posted_in": In(wiring.Signature(line)),
                "direct_in": In(wiring.Signature(line)),
                "posted_line": Out(wiring.Signature(line)),
                "operand": In(wiring.Signature({"valid": Out(1), **line})),
                "posted": In(wiring.Signature({"valid": Out(1), **line})),
                "write_data": Out(bits),
                "write_mask": Out(p.line_bytes),
                "read_data": In(bits),
                "host_line": Out(bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.to_chips = self._to_chips
        m.submodules.to_queue = self._to_queue
        m.submodules.to_host = self._to_host
        self._commands(m)
        operand, posted = self.operand, self.posted
        m.d.comb += [
            self._to_queue.i.eq(self.posted_in.data),
            self.posted_line.data.eq(self._by_chip(self._to_queue.o.as_value())),
            self.posted_line.mask.eq(self._mask_by_chip(self.posted_in.mask)),
            self._to_chips.i.eq(self.direct_in.data),
            self._to_host.i.eq(self._by_beat(self.read_data)),
            self.host_line.eq(self._to_host.o),
            self.write_data.eq(
                Mux(
                    operand.valid,
                    operand.data,
                    Mux(posted.valid, posted.data, self._by_chip(self._to_chips.o.as_value())),
                )
            ),
            self.write_mask.eq(
                Mux(
                    operand.valid,
                    operand.mask,
                    Mux(posted.valid, posted.mask, self._mask_by_chip(self.direct_in.mask)),
                )
            ),
        ]
        return m

    def _commands(self, m: Module) -> None:
        """The command for the chips; fields that a host's command does not have are the engine's, whatever they are."""
        p, org = self.params, self.params.engine.organization
        out, engine = self.command.payload, self.engine.payload
        mac = data.View(layout_of(p.mac_tag), engine.tag[: p.mac_tag.width])
        bank_bits = (org.banks_per_group - 1).bit_length()
        group_bits = (org.bank_groups - 1).bit_length()
        burst_bits = (org.burst_length - 1).bit_length()

        def of_host(command: data.View) -> dict[str, Value]:
            return {
                "code": command.code,
                "bank_group": command.bank[bank_bits : bank_bits + group_bits] if group_bits else Const(0),
                "bank": command.bank[:bank_bits] if bank_bits else Const(0),
                "row": command.row,
                "column": command.column,
            }

        of_engine = {
            **{name: engine[name] for name in ("code", "bank_group", "bank", "row")},
            "column": engine.column >> burst_bits,
        }
        first = self.direct[0]
        host = of_host(first.payload)
        m.d.comb += [
            self.command.valid.eq(self.engine.valid | first.valid),
            *(out[name].eq(Mux(first.valid, host[name], value)) for name, value in of_engine.items()),
            out.count.eq(Mux(first.valid, 1, engine.count)),
            out.mode.eq(mac.mode),
            out.first.eq(mac.first),
            out.set.eq(mac.set),
            out.start.eq(mac.start),
            out.resume.eq(engine.resume),
        ]
        for late, direct in zip(self.late, self.direct[1:], strict=True):
            m.d.comb += late.valid.eq(direct.valid)
            m.d.comb += [late.payload[name].eq(value) for name, value in of_host(direct.payload).items()]

    def _by_chip(self, line: Value) -> Value:
        """From byte ``chips * beat + chip`` to chip by chip."""
        chips, beats = self.params.num_chips, self.params.access_bytes
        return Cat(line.word_select(chips * b + c, 8) for c in range(chips) for b in range(beats))

    def _by_beat(self, line: Value) -> Value:
        chips, beats = self.params.num_chips, self.params.access_bytes
        return Cat(line.word_select(beats * c + b, 8) for b in range(beats) for c in range(chips))

    def _mask_by_chip(self, mask: Value) -> Value:
        """Mask bits follow their bytes: a 2x2 transpose of beats and chips, then chip by chip."""
        chips, beats = self.params.num_chips, self.params.access_bytes

        def source(beat: int, chip: int) -> int:
            return chips * (beat ^ 1) + (chip ^ 1) if beat % 2 != chip % 2 else chips * beat + chip

        return Cat(mask[source(b, c)] for c in range(chips) for b in range(beats))
