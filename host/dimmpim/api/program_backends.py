"""A DPA program and its data on the golden model, on the RTL of a rank, or in its timing model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dimmpim.ranks import AnyRank
from pimcompiler.program import load_operations, request_operations
from pimhost.driver.decode_step import peak_clocks
from pimhost.driver.kv_cache import LazyKvCache
from pimhost.kv_file import DecodeStep
from pimsim.rank.verilated import RankSimulator
from pimspec.attention.placement import KvKind, KvPlacement, KvRegion
from pimspec.attention.regions import num_regions, region_of
from pimspec.attention.shape import TOKEN_PER_CHIP
from pimspec.dram.command_trace import TracedCommand
from pimspec.errors import RankError, require
from pimspec.golden.dpa import DpaDevice, Outcome
from pimspec.golden.sequencer import Cells, MergedOutput, run_micro_ops
from pimspec.hostif.port import CellPort
from pimspec.isa import MicroKind
from pimspec.params.dpa import ConfigOp, ConfigOperation, ConfigRefusal, DpaParams
from pimspec.params.pim_rank import PimRankParams

__all__ = ["Ran", "Setting", "on_golden", "on_rank"]

_SLOT = 0


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A program and the data that it finds.

    Parameters
    ----------
    rank : PimRankParams
        With a DPA controller.
    words : tuple of int
    step : DecodeStep
    normalise, static_order : bool
    """

    rank: PimRankParams
    words: tuple[int, ...]
    step: DecodeStep
    normalise: bool
    static_order: bool

    @property
    def dpa(self) -> DpaParams:
        """Parameters of the DPA controller."""
        return self.rank.require_dpa()

    def cache(self) -> LazyKvCache:
        """An account of the chunks of the rank, all of them free."""
        return LazyKvCache(self.dpa, num_regions(self.step.shape))

    def operations(self, cache: LazyKvCache) -> list[ConfigOperation]:
        """All that the controller is told before the start: program, chunks, request."""
        shape, tokens = self.step.shape, self.step.num_tokens
        granted = [operation for grant in cache.open(_SLOT, tokens) for operation in grant.operations]
        request = request_operations(
            self.dpa,
            slot=_SLOT,
            tokens=tokens,
            length=len(self.words),
            num_entries=shape.num_kv_heads * self.rank.queries_at_once,
            last_query=shape.gqa_group_size - 1,
            scale_bits=shape.scale_bits,
            normalise=self.normalise,
            static_order=self.static_order,
        )
        return [*load_operations(self.dpa, self.words), *granted, *request]

    def query_buffer(self) -> NDArray[np.uint16]:
        """The query vectors by entry, shape (entries, head_dim); lanes of a kv_head that have none hold zeros."""
        shape = self.step.shape
        bits = np.ascontiguousarray(self.step.q).view(np.uint16).reshape(shape.num_kv_heads, -1, shape.head_dim)
        spare = self.rank.queries_at_once - shape.gqa_group_size
        return np.pad(bits, ((0, 0), (0, spare), (0, 0))).reshape(-1, shape.head_dim)


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a backend gave."""

    outputs: list[MergedOutput] | None = None
    golden_mismatches: int | None = None
    clocks: int | None = None
    utilization_of_peak: float | None = None
    commands: list[TracedCommand] | None = None


def on_golden(setting: Setting, *, compute: bool) -> tuple[Outcome, list[MergedOutput]]:
    """Interpret the program, and do its micro-ops."""
    cache, device = setting.cache(), DpaDevice(setting.dpa)
    start = ConfigOperation(op=ConfigOp.START, slot=_SLOT)
    for refusal in device.apply([*setting.operations(cache), start]):
        require(refusal is ConfigRefusal.NONE, "the request", refusal.name, "one that the controller takes")
    outcome = device.run_next()
    assert outcome is not None, "it was started"
    if not compute or not outcome.micro_ops:
        return outcome, []
    cells, each = Cells(setting.rank), setting.dpa.row_step_tokens
    for kind, vectors, head, rows in _rows(setting, cache):
        for n, row in enumerate(rows):
            part = vectors[head, n * each : (n + 1) * each]
            cells.write(row, kind, 0, np.ascontiguousarray(part).view(np.uint16))
    return outcome, run_micro_ops(setting.rank, outcome.micro_ops, setting.query_buffer(), cells)


def _rows(setting: Setting, cache: LazyKvCache) -> Iterator[tuple[KvKind, NDArray[np.float16], int, list[int]]]:
    """K and V, the kv_head, and the physical rows of its row steps."""
    step = setting.step
    for kind, vectors in ((KvKind.K, step.k), (KvKind.V, step.v)):
        for head in range(step.shape.num_kv_heads):
            region = region_of(step.shape, 0, head, v=kind is KvKind.V)
            blocks = range(0, step.num_tokens, setting.dpa.row_step_tokens)
            yield kind, vectors, head, [cache.physical_row(_SLOT, token, region) for token in blocks]


def _fill(port: CellPort, setting: Setting, cache: LazyKvCache) -> None:
    """Put K and V into the cells, past the bus."""
    regions = [
        KvRegion(request=_SLOT, kind=kind, head_set=head, rank=0, rows=rows)
        for kind, _, head, rows in _rows(setting, cache)
    ]
    placement = KvPlacement(
        organization=setting.rank.organization, shape=setting.step.shape, mapping=TOKEN_PER_CHIP, regions=regions
    )
    for kind, vectors in ((KvKind.K, setting.step.k), (KvKind.V, setting.step.v)):
        port.poke(placement.writes(_SLOT, kind, 0, vectors))


def on_rank(host: AnyRank, setting: Setting, outcome: Outcome, golden: list[MergedOutput], trace: bool) -> Ran:
    """The same on RTL, or in its timing model."""
    step, params, cache = setting.step, setting.rank, setting.cache()
    host.take()
    host.configure(setting.operations(cache))
    rtl = host.port if isinstance(host.port, RankSimulator) else None
    if rtl is not None:
        _fill(rtl, setting, cache)
    host.write_queries(0, setting.query_buffer())
    host.finish_writes()
    before, begin = host.num_finished, host.clock
    host.configure([ConfigOperation(op=ConfigOp.START, slot=_SLOT)])
    peak = peak_clocks(params, step.shape, step.num_tokens)
    _wait(
        host, 200_000 + int(100 * peak) * max(1, len(golden)) + 6400 * len(outcome.micro_ops) + 8 * outcome.instructions
    )
    status = host.slot_status(_SLOT)
    expected = {"fault": int(outcome.fault), "fault_pc": outcome.fault_pc, "fault_row": outcome.fault_row}
    if rtl is None:  # the timing model knows the fault alone
        expected = {"fault": int(outcome.fault)}
    found = {name: status[name] for name in expected}
    if found != expected:
        raise RankError(f"the rank tells {found}, the golden model {expected}")
    clocks = host.finished[-1] - begin if host.num_finished > before else None
    outputs, mismatches = _read_outputs(host, golden) if rtl is not None else (None, None)
    accesses = sum(op.lines for op in outcome.micro_ops if op.kind in (MicroKind.MAC_K, MicroKind.MAC_V))
    return Ran(
        outputs=outputs,
        golden_mismatches=mismatches,
        clocks=clocks,
        utilization_of_peak=_utilization(params, accesses, clocks),
        commands=host.traced_commands(host.trace()) if trace else None,
    )


def _wait(host: AnyRank, limit: int) -> None:
    """Run until no program waits or runs, and all that it has begun is done."""
    begin = host.clock
    while host.dpa_state()["running"] or host.status().busy:
        if host.clock - begin > limit:
            raise RankError(f"the program has not finished after {limit} clocks")
        host.run(256)


def _utilization(p: PimRankParams, token_lines: int, clocks: int | None) -> float | None:
    """Bytes of vectors over what all banks could have read."""
    if not clocks:
        return None
    bytes_read = token_lines * p.num_chips * p.head_dim * 2
    return bytes_read / (p.num_banks * p.line_bytes) * p.timing.nCCD_MAC / p.ck_per_clock / clocks


def _read_outputs(host: AnyRank, golden: list[MergedOutput]) -> tuple[list[MergedOutput], int]:
    """What lies in the output buffer where the golden model has outputs, and the words that differ."""
    found, mismatches = [], 0
    last = {output.entry: output for output in golden}
    for output in last.values():
        count = len(output.output)
        read = MergedOutput(
            entry=output.entry,
            output=host.read_outputs(output.entry, count),
            statistics=host.read_statistics(output.entry, count),
            normalised=output.normalised,
            operands=output.operands,
        )
        mismatches += int(np.count_nonzero(read.output != output.output))
        mismatches += int(np.count_nonzero(read.statistics != output.statistics))
        found.append(read)
    return found, mismatches
