"""Ablation: attention latency with and without each part of the design, on RTL or by its timing model.

* **R-DP**: a PU on the buffer chip only, with all of K and V over the rank's bus. It is no RTL but a lower bound: a
  line each tCCD_S, refresh subtracted, rows opened in time.
* **Base**: bank PUs without overlap (RTL, in static order). The host brings the vectors of the step into the order of
  the chips: q, K and V of the new token and o cross the bus twice more, a line each tCCD_S.
* **+Relayout**: the same RTL; the buffer chip re-lays out vectors as they pass, which takes no clock.
* **+Pipeline**: the RTL as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dimmpim.ranks import decode_step, open_backend, step_clocks
from pimhost.driver.decode_step import golden_step, peak_clocks
from pimspec.attention.shape import ELEMENT_BYTES, AttentionShape
from pimspec.dram import limits
from pimspec.params.pim_rank import PimRankParams

__all__ = ["DESIGNS", "AblationPoint", "measure"]

DESIGNS = ("R-DP", "Base", "+Relayout", "+Pipeline")


@dataclass(frozen=True, kw_only=True)
class AblationPoint:
    """Clocks of a decode step in each design.

    Parameters
    ----------
    shape : AttentionShape
    tokens : int
    clocks : dict of str to float
        For each of DESIGNS.
    utilization_of_peak : dict of str to float
        Bytes of K and V over those that the banks could have read in that time.
    """

    shape: AttentionShape
    tokens: int
    clocks: dict[str, float]
    utilization_of_peak: dict[str, float]

    def ratio(self, design: str, to: str = "Base") -> float:
        """Latency of a design over that of another."""
        return self.clocks[design] / self.clocks[to]


def _line_clocks(params: PimRankParams) -> float:
    """Clocks of a line on the bus."""
    return params.timing.nCCD_S / params.ck_per_clock


def rank_level_clocks(params: PimRankParams, shape: AttentionShape, tokens: int) -> float:
    """Lower bound for a PU on the buffer chip: see the module."""
    lines = shape.kv_bytes(tokens) / params.line_bytes
    return lines * _line_clocks(params) / limits.refresh_efficiency(params.timing)


def host_relayout_clocks(params: PimRankParams, shape: AttentionShape) -> float:
    """Clocks to read q, K and V of the new token and o by the host, and to write them again."""
    vectors = 2 * shape.num_q_heads + 2 * shape.num_kv_heads
    lines = vectors * -(-shape.head_dim * ELEMENT_BYTES // params.line_bytes)
    return 2 * lines * _line_clocks(params)


def measure(
    params: PimRankParams,
    shape: AttentionShape,
    tokens: Sequence[int],
    *,
    backend: str = "rtl",
    threads: int = 1,
    seed: int = 1,
    progress: Callable[[str], None] = lambda text: None,
) -> Iterator[AblationPoint]:
    """Points of each context, run overlapped and in static order; RTL results are compared with the golden model.

    Parameters
    ----------
    params : PimRankParams
        Parameters of a rank that can compute the shape.
    shape : AttentionShape
    tokens : sequence of int
    backend : str
        ``rtl``, or ``timing`` for the same clocks without data.
    threads : int
        CPU cores to use, 1 or 2.
    seed : int
    progress : callable
        Called with the current activity.

    Raises
    ------
    RankError
        If results differ from the golden model.
    """
    with open_backend(backend, params, threads=threads, progress=progress) as sim:
        for count in tokens:
            step = decode_step(backend, shape, count, seed)
            golden = golden_step(params, step) if backend == "rtl" else None
            clocks = {"R-DP": rank_level_clocks(params, shape, count)}
            for design, static_order in (("+Relayout", True), ("+Pipeline", False)):
                progress(f"{count} tokens, {design}")
                clocks[design] = float(step_clocks(sim, step, golden, static_order=static_order))
            clocks["Base"] = clocks["+Relayout"] + host_relayout_clocks(params, shape)
            peak = peak_clocks(params, shape, count)
            yield AblationPoint(
                shape=shape,
                tokens=count,
                clocks={design: clocks[design] for design in DESIGNS},
                utilization_of_peak={design: peak / clocks[design] for design in DESIGNS},
            )
