"""The two sets of sums in the bank PUs: which are taken, which stand, which is read."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from pimspec.params.pim_rank import PimRankParams

__all__ = ["SumSets"]

SETS = range(2)


class SumSets(wiring.Component):
    """Books of the two sets of sums that each bank PU holds, used in turn, a set for each segment.

    A set is taken when V of its segment begins, stands when every bank has done the last row of it, and is free again
    when the segment has been merged. All members count in the next clock.

    Timing model: ``struct SumSets`` of ``sequencer.h``.

    Parameters
    ----------
    params : PimRankParams

    Members
    -------
    taken : In(1)
        The first row step of V of a segment is handed out.
    done, done_set : In(num_banks)
        The bank has done the last row of a segment; its set.
    read : In(1)
        The last sum of the oldest set is read.
    release : In(1)
        The oldest segment is merged.
    free : Out(1)
        A set is free.
    stand : Out(1)
        The oldest set stands in all banks, and is not read.
    oldest : Out(1)
        The number of the oldest set.
    """

    def __init__(self, *, params: PimRankParams) -> None:
        self.params = params
        banks = params.num_banks
        super().__init__(
            {
                "taken": In(1),
                "done": In(banks),
                "done_set": In(data.ArrayLayout(1, banks)),
                "read": In(1),
                "release": In(1),
                "free": Out(1),
                "stand": Out(1),
                "oldest": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        banks = self.params.num_banks
        used = Signal(range(len(SETS) + 1))
        m.d.sync += [used.eq(used + self.taken - self.release), self.oldest.eq(self.oldest ^ self.release)]
        standing = [Signal(banks, name=f"standing{k}") for k in SETS]
        for k, stands in enumerate(standing):
            done = Cat(self.done[b] & (self.done_set[b] == k) for b in range(banks))
            read = self.read & (self.oldest == k)
            m.d.sync += stands.eq((stands | done) & ~read.replicate(banks))
        m.d.comb += [
            self.free.eq(used != len(SETS)),
            self.stand.eq(Mux(self.oldest, standing[1].all(), standing[0].all())),
        ]
        return m
