"""Co-simulation of the device in RTL with its host code, under cocotb or the fast harness: the same work for each."""

from __future__ import annotations

import pickle
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dimmpim.ranks import open_rank, rank_top_verilog
from pimhost.driver.rank_device import APPENDED_TOKENS, RankDevice
from pimhost.driver.rank_host import RankHost
from pimsim.cocotb_run import run_bench
from pimsim.rank.bench_top import BENCH_TOP, bench_top
from pimsim.rank.recording import RankRecording
from pimspec.attention.shape import AttentionShape
from pimspec.dram.command_trace import TracedCommand
from pimspec.dram.commands import Command
from pimspec.errors import RankError
from pimspec.files import write_atomically
from pimspec.hostif.device import DeviceCost, PimDevice
from pimspec.hostif.port import RankPort, traced_commands
from pimspec.params.pim_rank import PimRankParams

__all__ = ["DeviceWork", "WorkDone", "do_work", "on_fast_harness", "on_rank", "under_cocotb"]


@dataclass(frozen=True, kw_only=True)
class DeviceWork:
    """Work of a device: prefill of requests, and decode steps of all of them.

    Parameters
    ----------
    rank : PimRankParams
        A rank with a DPA controller.
    shape : AttentionShape
    num_layers : int
    prompts : tuple of int
        Tokens of each request before the first step.
    steps : int
        Decode steps. In the second one a request grows by more tokens than are appended: PIM gives the DRAM back.
    seed : int
    """

    rank: PimRankParams
    shape: AttentionShape
    num_layers: int
    prompts: tuple[int, ...]
    steps: int
    seed: int = 1


@dataclass(kw_only=True)
class WorkDone:
    """Results of a device's work.

    Parameters
    ----------
    outputs : list of array of shape (num_q_heads, head_dim)
        Outputs of each call of attend and each request.
    costs : list of DeviceCost
        Cost of each call.
    host_commands : list of tuple
        `(clock, command, flat bank, row, column access)` of all commands of the host.
    commands : list of TracedCommand
        All commands to the chips.
    clocks : int
        Controller clocks from reset to the end.
    seconds : float
        Wall time of the work, host code included.
    """

    outputs: list[NDArray[np.float32]] = field(default_factory=list)
    costs: list[DeviceCost] = field(default_factory=list)
    host_commands: list[tuple[int, Command, int, int, int]] = field(default_factory=list)
    commands: list[TracedCommand] = field(default_factory=list)
    clocks: int = 0
    seconds: float = 0.0


def do_work(device: PimDevice, work: DeviceWork) -> WorkDone:
    """Outputs and costs of the work on any device."""
    rng, done, shape = np.random.default_rng(work.seed), WorkDone(), work.shape

    def vectors(*size: int) -> NDArray[np.float16]:
        return rng.standard_normal((*size, shape.head_dim)).astype(np.float16)

    def append(request: int, layer: int, count: int) -> None:
        k, v = vectors(shape.num_kv_heads, count), vectors(shape.num_kv_heads, count)
        done.costs.append(device.write_kv(request, layer, lengths[request], k, v))

    lengths = [0] * len(work.prompts)
    requests = range(len(lengths))
    for request in requests:
        device.open(request)
        for layer in range(work.num_layers):
            append(request, layer, work.prompts[request])
        lengths[request] = work.prompts[request]
    for step in range(work.steps):
        grown = [APPENDED_TOKENS + 1 if (step, request) == (1, 0) else 1 for request in requests]
        for layer in range(work.num_layers):
            for request in requests:
                append(request, layer, grown[request])
            result = device.attend(layer, {request: vectors(shape.num_q_heads) for request in requests})
            done.costs.append(result.cost)
            done.outputs += [result.outputs[request] for request in requests]
        lengths = [length + more for length, more in zip(lengths, grown, strict=True)]
    return done


def on_rank(host: RankHost[RankPort], work: DeviceWork) -> WorkDone:
    """Results of the shipped host code, on a rank that has just been reset and stays open."""
    begin = time.perf_counter()
    records: list[NDArray[np.void]] = []
    device = RankDevice(host, work.shape, work.num_layers)
    device.observe = records.append
    host.memory.record()
    done = do_work(device, work)
    done.clocks, done.seconds = host.clock, time.perf_counter() - begin
    done.host_commands = host.memory.issued or []
    done.commands = traced_commands(work.rank, np.concatenate(records))
    return done


def on_fast_harness(work: DeviceWork, *, threads: int = 1) -> tuple[WorkDone, dict[str, Any]]:
    """Results on the Verilated models, and the recording of the bus for :func:`pimsim.rank.replay.replay`."""
    rank = work.rank
    with open_rank(rank, threads=threads) as host:
        recording = host.port.recording = RankRecording()
        done = on_rank(host, work)
        return done, recording.document(host.port.issued, done.clocks, rank.access_bytes)


def under_cocotb(work: DeviceWork, *, simulator: str, folder: Path, waves: bool = False) -> WorkDone:
    """Results in a simulation that cocotb drives: :mod:`dimmpim.benches.device_bench`.

    Parameters
    ----------
    work : DeviceWork
    simulator : {"verilator", "icarus"}
    folder : Path
        Folder for the Verilog, the work, its results, and the files of :func:`pimsim.cocotb_run.run_bench`.
    waves : bool
        True to write an FST waveform too.

    Raises
    ------
    ToolError
        If the simulator is missing or the build fails.
    RankError
        If the bench fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rank, top, given = folder / "pim_rank.v", folder / f"{BENCH_TOP}.v", folder / "work.pickle"
    write_atomically(rank, rank_top_verilog(work.rank))
    write_atomically(top, bench_top(work.rank))
    given.write_bytes(pickle.dumps(work))
    done = folder / "done.pickle"
    done.unlink(missing_ok=True)
    outcome = run_bench(
        simulator=simulator, sources=[rank, top], top=BENCH_TOP, bench="dimmpim.benches.device_bench", folder=folder,
        environment={"DIMMPIM_WORK": str(given.resolve()), "DIMMPIM_DONE": str(done.resolve()),
                     "COCOTB_ANSI_OUTPUT": "0"},
        waves=waves, own_clock=True,
    )  # fmt: skip
    if outcome.num_failures or not done.exists():
        tail = "\n".join(outcome.log.read_text().splitlines()[-12:])
        raise RankError(f"the bench failed under {simulator} (log: {outcome.log}):\n{tail}")
    result: WorkDone = pickle.loads(done.read_bytes())
    return result
