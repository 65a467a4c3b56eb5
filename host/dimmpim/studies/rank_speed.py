"""Simulation speed of a rank in RTL: by the fast harness, by cocotb in batches, and by cocotb at every clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dimmpim.ranks import open_rank, rank_top_verilog
from dimmpim.studies.cosimulation import DeviceWork, WorkDone, on_fast_harness, under_cocotb
from pimhost.driver.decode_step import run_step
from pimhost.kv_file import synthetic_step
from pimsim.rank.recording import RankRecording
from pimsim.rank.replay import replay
from pimspec.attention.shape import AttentionShape
from pimspec.errors import RankError
from pimspec.params.presets import preset_named

__all__ = ["FULL_RANK", "SMALL_RANK", "SMALL_WORK", "RankSpeed", "full_rank_speeds", "replay_fast", "small_rank_speeds"]

SMALL_RANK, FULL_RANK = "tiny", "ddr4-3200-x8-8gb"
SMALL_WORK = DeviceWork(
    rank=preset_named(SMALL_RANK).rank.with_dpa(),
    shape=AttentionShape(num_q_heads=4, num_kv_heads=2, head_dim=16),
    num_layers=2,
    prompts=(60, 200),
    steps=12,
)
_FULL_SHAPE = AttentionShape(num_q_heads=8, num_kv_heads=8, head_dim=128)
_FULL_TOKENS = 4096


@dataclass(frozen=True, kw_only=True)
class RankSpeed:
    """Simulation speed of a rank in one harness.

    Parameters
    ----------
    harness, host : str
        Simulator of the rank, and source of the host's commands.
    clocks : int
        Controller clocks.
    seconds : float
        Wall time, without builds.
    """

    harness: str
    host: str
    clocks: int
    seconds: float

    @property
    def clocks_per_second(self) -> float:
        return self.clocks / self.seconds


def replay_fast(work: DeviceWork, document: dict[str, Any]) -> float:
    """Seconds to repeat a recorded run on the fast harness; raises RankError if a line that is read differs.

    As with :func:`pimsim.rank.replay.replay` under cocotb, the commands and clocks are the same, and there is no other
    host.
    """
    with open_rank(work.rank) as sim:
        sim.port.recording = RankRecording()
        begin = time.perf_counter()
        ops = np.zeros(len(document["ops"]), sim.port.host_op_dtype)
        ops["wait"] = np.diff([op[0] for op in document["ops"]], prepend=-1)
        for n, name in enumerate(("code", "bank", "row", "column", "phase"), 1):
            ops[name] = [op[n] for op in document["ops"]]
        for n, name in ((6, "data"), (7, "mask")):
            ops[name] = [np.frombuffer(bytes.fromhex(op[n]), np.uint8) for op in document["ops"]]
        sim.port.enqueue(ops)
        sim.run(document["clocks"])
        sim.port.lines_read()
        seconds = time.perf_counter() - begin
        lines = [(clock, data.hex()) for clock, data in sim.port.recording.lines]
        if lines != document["lines"]:
            raise RankError(f"{len(lines)} lines, not the {len(document['lines'])} recorded ones")
    return seconds


def _require_same(one: WorkDone, other: WorkDone) -> None:
    """Check that outputs, costs, and all commands with their clocks are equal."""
    same = one.costs == other.costs and one.host_commands == other.host_commands and one.commands == other.commands
    outputs = zip(one.outputs, other.outputs, strict=True)
    if not same or not all(np.array_equal(a, b) for a, b in outputs):
        raise RankError("the harnesses differ")


def small_rank_speeds(folder: Path, work: DeviceWork = SMALL_WORK, *, simulator: str = "verilator") -> list[RankSpeed]:
    """Speeds of each harness with the small rank, with the same commands of the host in the same clocks.

    Parameters
    ----------
    folder : Path
        Folder for the builds.
    work : DeviceWork
    simulator : {"verilator", "icarus"}
        Simulator under cocotb.

    Returns
    -------
    list of RankSpeed
        The fast harness and cocotb at every clock, both with recorded commands; then the fast harness and cocotb in
        batches, both with the shipped host code.

    Raises
    ------
    RankError
        If the harnesses differ.
    """
    done, document = on_fast_harness(work)
    clocks, params = done.clocks, work.rank
    fast = replay_fast(work, document)
    outcome = replay(params, rank_top_verilog(work.rank), document, simulator=simulator, folder=folder / "every-clock")
    if outcome.num_failures:
        raise RankError(f"lines differ from the recorded ones (log: {outcome.log})")
    _, each = outcome.clocks_and_seconds(clock_ns=2)
    batches = under_cocotb(work, simulator=simulator, folder=folder / "batches")
    _require_same(batches, done)
    rows = (
        ("C++ harness", "recorded", fast),
        ("cocotb at every clock", "recorded", each),
        ("C++ harness", "RankDevice", done.seconds),
        ("cocotb in batches", "RankDevice", batches.seconds),
    )
    return [RankSpeed(harness=name, host=host, clocks=clocks, seconds=s) for name, host, s in rows]


def full_rank_speeds(threads: tuple[int, ...] = (1, 2)) -> Iterator[RankSpeed]:
    """Speeds of the fast harness with the full rank for MHA: attention of 8 kv_heads over 4,096 tokens."""
    params = preset_named(FULL_RANK).rank.for_shape(_FULL_SHAPE)
    step = synthetic_step(_FULL_SHAPE, _FULL_TOKENS, 1)
    for number in threads:
        with open_rank(params, threads=number) as sim:
            begin = time.perf_counter()
            run_step(sim, step)
            name = f"C++ harness, {number} thread{'s' if number > 1 else ''}"
            seconds = time.perf_counter() - begin
            yield RankSpeed(harness=name, host="run_step", clocks=sim.clock, seconds=seconds)
