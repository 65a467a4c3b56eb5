"""Row feeder: row steps for all banks, those of K, and those of V of the item before, in turn."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pimspec.params.command_engine import RowTaskKind
from pimspec.params.pim_rank import PimRankParams

from ..pipeline import layout_of

__all__ = ["RowFeeder", "step_layout"]


def step_layout(params: PimRankParams) -> data.StructLayout:
    """A row step: `row`; `lines`, the token lines from its first one to the end of the item; `tag` of its tasks."""
    return data.StructLayout(
        {
            "row": params.organization.row_bits,
            "lines": params.segment_lines.bit_length(),
            "tag": layout_of(params.mac_tag),
        }
    )


class RowFeeder(wiring.Component):
    """Row feeder: offers a row step to every bank that has tokens in it; when all have taken their task, the next.

    K and V steps alternate if both wait, so that K keeps the lead of a row or two that it has when V begins: the
    probabilities of the next item are then there when V of this one ends. Banks may be as far apart as a task lasts: a
    task is taken while the burst of the one before runs.

    Timing model: ``struct RowFeeder`` of ``sequencer.h``.

    Parameters
    ----------
    params : PimRankParams

    Members
    -------
    k, v : In(stream.Signature(step_layout(params)))
    enable : In(1)
        A step may begin.
    tasks : Out(stream.Signature(params.engine.task)).array(num_banks)
    idle : Out(1)
        No step is under way.
    """

    def __init__(self, *, params: PimRankParams) -> None:
        self.params = params
        step = step_layout(params)
        super().__init__(
            {
                "k": In(stream.Signature(step)),
                "v": In(stream.Signature(step)),
                "enable": In(1),
                "tasks": Out(stream.Signature(layout_of(params.engine.task))).array(params.num_banks),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p, banks = self.params, self.params.num_banks
        step, is_v = Signal(step_layout(p), reset_less=True), Signal()
        pending, left = Signal(banks), Signal(banks)
        accesses = p.organization.column_accesses_per_row
        k_counts = [Signal(range(accesses + 1), name=f"k_count{b}", reset_less=True) for b in range(banks)]
        v_count = Signal(range(accesses + 1), reset_less=True)

        for b, task in enumerate(self.tasks):
            m.d.comb += [
                task.valid.eq(pending[b]),
                left[b].eq(pending[b] & ~task.ready),
                task.payload.row.eq(step.row),
                task.payload.column.eq(0),
                task.payload.count.eq(Mux(is_v, v_count, k_counts[b])),
                task.payload.kind.eq(RowTaskKind.MAC),
                task.payload.tag.eq(step.tag.as_value()),
            ]
        take, choose_v = Signal(), Signal()
        chosen = Mux(choose_v, self.v.payload.as_value(), self.k.payload.as_value())
        view = Signal(step_layout(p))
        m.d.comb += [
            view.eq(chosen),
            choose_v.eq(self.v.valid & (~self.k.valid | ~is_v)),
            take.eq(self.enable & (left == 0) & (self.k.valid | self.v.valid)),
            self.k.ready.eq(take & ~choose_v),
            self.v.ready.eq(take & choose_v),
            self.idle.eq(pending == 0),
        ]
        m.d.sync += pending.eq(left)
        with m.If(take):
            m.d.sync += [step.eq(chosen), is_v.eq(choose_v), v_count.eq(self._v_count(view.lines))]
            for b in range(banks):
                tokens = self._k_tokens(view.lines, b)
                m.d.sync += [
                    k_counts[b].eq(tokens << (p.accesses_per_k - 1).bit_length()),
                    pending[b].eq(choose_v | (tokens != 0)),
                ]
        return m

    def _k_tokens(self, lines: Value, bank: int) -> Value:
        """Tokens of a chip in this bank: `tokens_per_turn`, or what is left of them."""
        p = self.params
        deal_bits = (p.tokens_per_turn - 1).bit_length()
        turn, rest = lines >> deal_bits, lines[:deal_bits] if deal_bits else 0
        return Mux(turn > bank, p.tokens_per_turn, Mux(turn == bank, rest, 0))

    def _v_count(self, lines: Value) -> Value:
        p = self.params
        here = Mux(lines >= p.row_lines, p.row_lines, lines)
        return here << (p.accesses_per_v - 1).bit_length()
