"""The result of one decode step of attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pimspec.attention.shape import TOKEN_PER_CHIP
from pimspec.dram.command_trace import TracedCommand

__all__ = ["AttentionResult", "Floats"]

JSON_VERSION = 2

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionResult:
    """One decode step of attention of all heads of a layer; None for all that a backend does not give.

    Parameters
    ----------
    backend, preset, source : str
        `source` tells where the data come from.
    num_q_heads, num_kv_heads, head_dim, num_tokens : int
    streamed_bytes : int
        Bytes of K and V that the bank PUs read.
    wall_seconds : float
        Time of the computation on this machine.
    output : array of shape (num_q_heads, head_dim), or None
        float32, normalised in FP32 as the host does; float64 from ``reference``.
    statistics : array of shape (num_q_heads, 2), or None
        m, the greatest score times log2(e), and l, the sum of ``2 ** (score * log2(e) - m)``.
    relative_l2_error : float64 array of shape (num_q_heads,), or None
        ``|output - float64| / |float64|`` of each q_head.
    golden_mismatches : int or None
        ``rtl``: words of outputs and statistics that differ from the golden model.
    clocks : int or None
        ``rtl``, ``timing``: controller clocks from the first descriptor to the last result.
    ns : float or None
        The same as time.
    utilization_of_peak, utilization_of_legal_limit : float or None
        Bytes of K and V over what all banks could have read, and over what the DRAM timing allows.
    energy : mapping
        ``rtl``, ``timing``: energy of the DRAM in nJ, in pJ for a bit of K and V, and by part.
    current_ma : mapping or None
        ``rtl``, ``timing``: supply current of a DRAM chip in mA, as `mean`, and as the peaks over 100 ns and 1 us,
        `peak_100ns` and `peak_1us`; None for a part without documented currents.
    simulated_clocks_per_second : float or None
    commands : list of TracedCommand, or None
        Every DRAM and PIM command, if they were asked for.
    waveform : Path or None
        FST of the run, if it was asked for.
    """

    backend: str
    preset: str
    source: str
    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    num_tokens: int
    streamed_bytes: int
    wall_seconds: float
    output: Floats | None = None
    statistics: Floats | None = None
    relative_l2_error: NDArray[np.float64] | None = None
    golden_mismatches: int | None = None
    clocks: int | None = None
    ns: float | None = None
    utilization_of_peak: float | None = None
    utilization_of_legal_limit: float | None = None
    energy: Mapping[str, Any] = field(default_factory=dict)
    current_ma: Mapping[str, float] | None = None
    simulated_clocks_per_second: float | None = None
    commands: list[TracedCommand] | None = None
    waveform: Path | None = None

    @property
    def max_error(self) -> float | None:
        """Greatest relative L2 error of a q_head against float64."""
        return None if self.relative_l2_error is None else float(self.relative_l2_error.max())

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain numbers and texts: what ``dimmpim attention --json`` writes.

        Clocks are called `cycles` there; outputs are FP32 bits in hexadecimal.
        """
        document: dict[str, Any] = {
            "version": JSON_VERSION,
            "backend": self.backend,
            "preset": self.preset,
            "source": self.source,
            "num_q_heads": self.num_q_heads,
            "num_kv_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "num_tokens": self.num_tokens,
            "mapping": TOKEN_PER_CHIP.name,
            "cycles": self.clocks,
            "ns": self.ns,
            "bytes_streamed": self.streamed_bytes,
            "utilization_of_peak": self.utilization_of_peak,
            "utilization_of_legal_limit": self.utilization_of_legal_limit,
            "golden_mismatches": self.golden_mismatches,
            "simulated_cycles_per_second": self.simulated_clocks_per_second,
        }
        document = {key: value for key, value in document.items() if value is not None}
        document |= self.energy
        if self.clocks is not None:
            document["current_ma"] = None if self.current_ma is None else dict(self.current_ma)
        document["wall_seconds"] = self.wall_seconds
        if self.output is not None and self.relative_l2_error is not None:
            bits = self.output.astype(np.float32).view(np.uint32).tolist()
            document |= {
                "max_rel_l2_error": self.max_error,
                "median_rel_l2_error": float(np.median(self.relative_l2_error)),
                "output_fp32_bits": [[f"{word:08x}" for word in head] for head in bits],
            }
        return document
