"""Rank in RTL as a device: equal to the golden model bit for bit, over plain DDR4 that keeps the rules."""

from __future__ import annotations

import numpy as np
import pytest

from dimmpim.ranks import open_device
from pimhost.driver.rank_device import APPENDED_TOKENS
from pimsim.rule_checker import RuleChecker
from pimspec.attention.shape import AttentionShape
from pimspec.dram.command_trace import TracedCommand
from pimspec.dram.commands import Command
from pimspec.dram.constraints import timing_constraints
from pimspec.errors import OutOfMemoryError, ParameterError, RankError, UnknownNameError
from pimspec.hostif.device import PimDevice
from pimspec.params.presets import preset_named

FOUR_QUERIES = preset_named("tiny").rank.for_shape(AttentionShape(num_q_heads=4, num_kv_heads=1, head_dim=16))
RANK = FOUR_QUERIES.with_dpa(
    num_slots=4, program_words=64, chunk_bytes=4 * 1024, directory_entries=4, leaf_entries=64, watchdog=4095
)
"""The rank of test_rank_programs: one build for both."""


class Pair:
    """An RTL device and a golden one with the same calls; every command of the former is checked."""

    def __init__(self, rank, shape, num_layers, seed):
        self.rng, self.shape = np.random.default_rng(seed), shape
        self.rtl, self.golden = (open_device(name, rank, shape, num_layers) for name in ("rtl", "golden"))
        self.records = []
        self.rtl.observe = self.records.append
        self.rtl.host.memory.record()
        self._chips = RuleChecker((rank.timing, rank.organization), rank.engine.constraints, max_postponed=8)

    def both(self, call):
        return call(self.rtl), call(self.golden)

    def vectors(self, *shape):
        return self.rng.standard_normal((*shape, self.shape.head_dim)).astype(np.float16)

    def append(self, request, layer, count):
        first = self.golden.tokens(request, layer)
        k, v = self.vectors(self.shape.num_kv_heads, count), self.vectors(self.shape.num_kv_heads, count)
        cost, _ = self.both(lambda device: device.write_kv(request, layer, first, k, v))
        return cost

    def attend(self, layer, requests):
        q = {request: self.vectors(self.shape.num_q_heads) for request in requests}
        got, want = self.both(lambda device: device.attend(layer, q))
        assert list(got.outputs) == list(requests)
        for request in requests:
            assert got.outputs[request].dtype == np.float32
            np.testing.assert_array_equal(got.outputs[request], want.outputs[request], f"request {request}")
        assert got.cost.bytes_streamed >= want.cost.bytes_streamed
        assert got.cost.cycles > 0
        return got.cost

    def close(self):
        """Every command that went to the chips, and every command of the host, keeps the rules of its table."""
        sim = self.rtl.host
        chips = [c for records in self.records for c in sim.traced_commands(records)]
        for command in chips:
            self._chips.issue(command)
        check_host(self.rtl.rank, self.rtl.host.memory.issued)
        self.rtl.close()
        return chips


def check_host(rank, issued):
    """The host's controller keeps the rules of any DDR4 rank; while PIM owns the DRAM, refresh is not its task."""
    org = rank.organization
    rules = timing_constraints(rank.timing, org, pim=False)
    checker = RuleChecker((rank.timing, org), rules, max_postponed=None)
    for clock, code, bank, row, column in issued:
        group, index = divmod(bank, org.banks_per_group)
        whole = code in (Command.PREab, Command.REFab)
        place = (0, None, None) if whole else (0, group, index)
        checker.issue(
            TracedCommand(
                clock * rank.ck_per_clock,
                code,
                *place,
                row if code is Command.ACT else None,
                column * org.burst_length if code in (Command.RD, Command.WR) else None,
            )
        )


def test_requests_layers_and_growth_over_the_bus():
    """Prefill, then decode steps of three requests of other lengths, in one call as many as there are; places suffice
    for two of them at once. Chunks are granted on the way, a request goes and another one takes its slot."""
    shape = AttentionShape(num_q_heads=4, num_kv_heads=2, head_dim=16)
    pair, layers = Pair(RANK, shape, 2, 1), range(2)
    assert isinstance(pair.rtl, PimDevice)
    before = pair.rtl.interventions
    for request, tokens in ((0, 33), (3, 1), (1, 130)):
        pair.both(lambda device, request=request: device.open(request))
        for layer in layers:
            cost = pair.append(request, layer, tokens)
            assert cost.bytes_streamed == 0
            assert cost.host_bus_bytes >= 2 * 2 * tokens * 16 * 2
    for step in range(6):
        if step == 3:
            pair.both(lambda device: device.release(0))
            pair.both(lambda device: device.open(0))
            for layer in layers:
                pair.append(0, layer, APPENDED_TOKENS + 1)  # beside requests that have begun to decode
        for layer in layers:
            for request in (0, 1, 3):
                pair.append(request, layer, 1 + (step == 4))
            pair.attend(layer, (3, 0, 1) if step % 2 else (0, 1))
    commands = pair.close()
    kinds = {c.command for c in commands}
    assert {Command.WR, Command.REFab, Command.PIM_MAC, Command.PIM_WR_SB, Command.PIM_RD_RB} <= kinds
    assert Command.RD not in kinds
    assert pair.rtl.interventions > before


@pytest.mark.parametrize("seed", range(4))
def test_random_shapes_and_tokens(seed):
    """Any number of heads, layers and tokens; layers need not be in step, nor attended in order."""
    rng = np.random.default_rng(seed)
    heads, layers = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    shape = AttentionShape(num_q_heads=heads * int(rng.integers(1, 3)), num_kv_heads=heads, head_dim=16)
    pair = Pair(RANK, shape, layers, seed)
    pair.both(lambda device: device.open(2))
    for _ in range(8):
        layer = int(rng.integers(layers))
        pair.append(2, layer, int(rng.choice([1, 2, 7, 16, 70, 300])))
        pair.attend(layer, (2,))
        if rng.random() < 0.3:
            pair.attend(layer, (2,))
    pair.close()


def test_one_layer_is_counted_by_the_device():
    """The program of the last layer advances T, so after the first step nothing but START is configured."""
    shape = AttentionShape(num_q_heads=2, num_kv_heads=1, head_dim=16)
    pair = Pair(RANK, shape, 1, 5)
    pair.both(lambda device: device.open(0))
    pair.append(0, 0, 20)
    pair.attend(0, (0,))
    before = pair.rtl.interventions
    for _ in range(4):
        pair.append(0, 0, 1)
        pair.attend(0, (0,))
    assert pair.rtl.interventions == before
    pair.close()


def test_refusals_change_nothing():
    shape = AttentionShape(num_q_heads=3, num_kv_heads=3, head_dim=16)
    with pytest.raises(ParameterError, match="words of the programs of all layers must be at most 64"):
        open_device("rtl", RANK, shape, 9)
    pair = Pair(RANK, shape, 3, 6)
    rtl = pair.rtl
    with pytest.raises(UnknownNameError):
        rtl.attend(0, {0: pair.vectors(3)})
    pair.both(lambda device: device.open(0))
    too_many = pair.vectors(3, rtl.max_tokens + 1)
    clock = rtl.host.clock
    with pytest.raises(OutOfMemoryError):
        rtl.write_kv(0, 0, 0, too_many, too_many)
    with pytest.raises(ParameterError):
        rtl.write_kv(0, 0, 1, too_many[:, :1], too_many[:, :1])
    assert rtl.host.clock == clock
    pair.append(0, 0, rtl.max_tokens)
    pair.attend(0, (0,))
    pair.close()
    rtl.close()


def test_a_program_that_cannot_run_is_an_error():
    """The device's table differs from the host's view of it: an error, and no endless wait."""
    shape = AttentionShape(num_q_heads=2, num_kv_heads=1, head_dim=16)
    pair = Pair(RANK, shape, 1, 7)
    pair.both(lambda device: device.open(0))
    pair.append(0, 0, 3)
    release = pair.rtl.cache.release(0)
    pair.rtl.host.configure(release.operations)
    with pytest.raises(RankError, match="stopped with kv_heads unfinished"):
        pair.rtl.attend(0, {0: pair.vectors(2)})
    pair.rtl.cache.open(0, 3)
    with pytest.raises(RankError, match="an earlier call of the device did not come to its end"):
        pair.rtl.attend(0, {0: pair.vectors(2)})
    pair.rtl.release(0)  # as generate does in any case: it does no harm
    pair.rtl.close()


def test_a_wait_for_work_that_never_ends_is_given_up():
    with open_device("rtl", RANK, AttentionShape(num_q_heads=4, num_kv_heads=1, head_dim=16), 1) as device:
        begin = device.host.clock
        with pytest.raises(RankError, match="0 of 1 kv_heads have finished, and no other for 300 clocks"):
            device.programs.wait(1, limit=300)
        assert device.host.clock - begin == 300
