"""Replay of a recorded run by cocotb with the rank as one Verilog top: the same lines, clock for clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pimspec.files import write_atomically
from pimspec.params.pim_rank import PimRankParams

from ..cocotb_run import BenchOutcome, run_bench

__all__ = ["replay"]


def replay(
    params: PimRankParams, verilog: str, document: dict[str, Any], *, simulator: str, folder: Path, waves: bool = False
) -> BenchOutcome:
    """Outcome of :mod:`pimsim.benches.rank_bench` on a recorded run.

    Parameters
    ----------
    params : PimRankParams
    verilog : str
        Text from ``pimhw.pim_rank.rank_verilog``.
    document : dict
        Recording from :meth:`pimsim.rank.verilated.RankRecording.document`.
    simulator : {"verilator", "icarus"}
    folder : Path
        Folder for the Verilog, the recording, and the files of :func:`pimsim.cocotb_run.run_bench`.
    waves : bool
        True to write an FST waveform too.

    Raises
    ------
    ToolError
        If the simulator is missing or the build fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recording, source = folder / "recording.json", folder / "pim_rank.v"
    write_atomically(recording, json.dumps(document))
    write_atomically(source, verilog)
    return run_bench(
        simulator=simulator,
        sources=[source],
        top="pim_rank",
        bench="pimsim.benches.rank_bench",
        folder=folder,
        environment={
            "DIMMPIM_RECORDING": str(recording.resolve()),
            "DIMMPIM_CHIPS": str(params.num_chips),
            "DIMMPIM_BANKS": str(params.num_banks),
            "DIMMPIM_SLOTS": str(params.ck_per_clock),
            "DIMMPIM_WRITE_CLOCKS": str(params.chip.write_clocks),
            "DIMMPIM_HOST_WIDTHS": json.dumps({f.name: f.width for f in params.host_command.fields}),
            "COCOTB_ANSI_OUTPUT": "0",
        },
        waves=waves,
    )
