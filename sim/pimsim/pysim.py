"""Runner of a stream component under Amaranth's own simulator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from amaranth.sim import Simulator
from numpy.typing import ArrayLike

from pimspec.params.arith import UnitParams

from .verilated import StreamRun, StreamSimulationError

__all__ = ["run_pysim"]


def _words_to_int(row: np.ndarray) -> int:
    return int.from_bytes(np.asarray(row, dtype="<u4").tobytes(), "little")


def run_pysim(
    component: Any,
    params: UnitParams,
    operands: Mapping[str, ArrayLike],
    num_results: int,
    *,
    idle: float = 0.0,
    refuse: float = 0.0,
    seed: int = 0,
    max_cycles: int | None = None,
) -> StreamRun:
    """Results as by :meth:`pimsim.verilated.VerilatedUnit.run`, from a component not yet turned into Verilog."""
    words = params.inputs.pack(operands)
    limit = max_cycles or 1000 + 200 * len(words)
    rng = np.random.default_rng(seed)
    accepted_at: list[int] = []
    delivered_at: list[int] = []
    rows: list[int] = []

    async def bench(ctx: Any) -> None:
        offering = False
        held: int | None = None
        for cycle in range(limit):
            if not offering and len(accepted_at) < len(words) and rng.random() >= idle:
                ctx.set(component.i.payload.as_value(), _words_to_int(words[len(accepted_at)]))
                offering = True
            ctx.set(component.i.valid, offering)
            ctx.set(component.o.ready, rng.random() >= refuse)
            _, _, accept, valid, ready, payload = (
                await ctx.tick()
                .sample(component.i.valid & component.i.ready, component.o.valid, component.o.ready)
                .sample(component.o.payload.as_value())
            )
            if held is not None and (not valid or payload != held):
                raise StreamSimulationError(f"a waiting result was dropped or changed in cycle {cycle} (seed {seed})")
            held = payload if valid and not ready else None
            if valid and ready:
                rows.append(payload)
                delivered_at.append(cycle)
            if accept:
                accepted_at.append(cycle)
                offering = False
            if len(rows) >= num_results and len(accepted_at) == len(words):
                return
        raise StreamSimulationError(f"{len(rows)} of {num_results} results after {limit} cycles (seed {seed})")

    simulator = Simulator(component)
    simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()
    size = 4 * params.outputs.num_words
    packed = b"".join(row.to_bytes(size, "little") for row in rows)
    out = np.frombuffer(packed, dtype="<u4").reshape(-1, params.outputs.num_words)
    return StreamRun(
        results=params.outputs.unpack(out), accepted_at=np.array(accepted_at), delivered_at=np.array(delivered_at)
    )
