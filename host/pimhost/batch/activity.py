"""Activity of a rank in RTL: its commands, merged into spans of simulated time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pimhost.driver.rank_device import RankDevice
from pimspec.dram.commands import Command

__all__ = ["MAX_SPANS", "RankActivity", "Span"]

MAX_SPANS = 200_000
"""Most spans; later ones are left out."""

_NEAR = 32
"""Commands of a kind that are no more clocks apart form one span."""

_HOST = {"host RD": Command.RD, "host WR": Command.WR}
_POSTED = "posted writes of the host, at the banks"
_CHIPS = {
    _POSTED: Command.WR,
    "bus: queries and probabilities to the banks": Command.PIM_WR_SB,
    "bus: scores and sums from the banks": Command.PIM_RD_RB,
}
REFRESH = "refresh"


@dataclass(frozen=True, kw_only=True)
class Span:
    """Commands of one track, from clock `start` to clock `end`.

    Parameters
    ----------
    track : str
    start, end : int
    count : int
        Commands, or column accesses of PIM_MAC.
    """

    track: str
    start: int
    end: int
    count: int


@dataclass(kw_only=True)
class RankActivity:
    """Collector of one device's activity; clocks count from :meth:`watch` on.

    The softmax works between the scores and the probabilities of a row step; no port shows it directly.
    """

    spans: list[Span] = field(default_factory=list)
    cut_off: bool = False
    _last: dict[str, int] = field(default_factory=dict, init=False, repr=False)  # number of the last span of a track

    def watch(self, device: RankDevice) -> None:
        """Collect from now on."""
        self._device, self._origin = device, device.host.clock
        device.observe = self._observe
        device.host.memory.record()
        device.host.trace()

    @property
    def tracks(self) -> list[str]:
        """Tracks with spans, in display order."""
        groups = sorted({s.track for s in self.spans if s.track.startswith("bank_group")})
        order = [*_HOST, *(track for track in _CHIPS if track != _POSTED), *groups, _POSTED, REFRESH]
        return [track for track in order if any(s.track == track for s in self.spans)]

    def _observe(self, records: NDArray[np.void]) -> None:
        rank, host = self._device.rank, self._device.host
        issued, host.memory.issued = host.memory.issued or [], []
        line = max(1, rank.timing.nBL // rank.ck_per_clock)
        given = np.array([(clock, int(code)) for clock, code, *_ in issued], np.int64).reshape(-1, 2)
        for track, code in _HOST.items():
            self._add(track, given[given[:, 1] == code, 0], line)
        clock, codes = records["clock"], records["code"]
        posted = np.isin(clock - 1, given[given[:, 1] == Command.WR, 0])  # through at once: the host owns the DRAM
        for track, code in _CHIPS.items():
            which = codes == code
            self._add(track, clock[which & ~posted if code is Command.WR else which], line)
        self._add(REFRESH, clock[codes == Command.REFab], rank.timing.nRFC // rank.ck_per_clock)
        macs = records[codes == Command.PIM_MAC]
        for group in np.unique(macs["bank_group"]):
            here = macs[macs["bank_group"] == group]
            length = here["count"].astype(np.int64) * rank.timing.nCCD_MAC // rank.ck_per_clock
            self._add(f"bank_group {group}: PIM_MAC", here["clock"], length, here["count"])

    def _add(self, track: str, starts: NDArray[Any], length: Any, counts: NDArray[Any] | None = None) -> None:
        """Add the spans of commands, given in order of time."""
        if not len(starts) or self.cut_off:
            return
        begin = starts.astype(np.int64) - self._origin
        end = np.maximum.accumulate(begin + length)
        first = np.flatnonzero(np.concatenate([[True], begin[1:] > end[:-1] + _NEAR]))
        last = np.append(first[1:], len(begin)) - 1
        number = np.add.reduceat(np.ones(len(begin), np.int64) if counts is None else counts, first)
        for a, b, n in zip(first, last, number, strict=True):
            span = Span(track=track, start=int(begin[a]), end=int(end[b]), count=int(n))
            before = self._last.get(track)
            if before is not None and span.start < self.spans[before].end:  # under way when it was last looked at
                early = self.spans[before]
                end_of_both, both = max(early.end, span.end), early.count + span.count
                self.spans[before] = replace(early, end=end_of_both, count=both)
            else:
                self._last[track] = len(self.spans)
                self.spans.append(span)
        if len(self.spans) > MAX_SPANS:
            del self.spans[MAX_SPANS:]
            self.cut_off = True
