"""Serving systems: their memory, their times by hand, the scheduler of L3, and user classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pimhost.driver.kv_cache import LazyKvCache
from pimhost.models import shape_named
from pimhost.serving.batch import Load, Prefill, SubBatch
from pimhost.serving.outcome import Status
from pimhost.serving.simulator import Admission, simulate
from pimhost.systems.cpu_offload import CpuOffload
from pimhost.systems.gpu_only import GpuOnly
from pimhost.systems.hbm_pim import HbmPim, HbmPimExtended
from pimhost.systems.l3 import L3
from pimhost.systems.node import DGX_A100, Node
from pimhost.systems.rank_pim import RankPim
from pimhost.systems.registry import SYSTEMS, system_named
from pimhost.workloads.lengths import synthetic_workload
from pimhost.workloads.workload import Workload
from pimspec.attention.shape import AttentionShape
from pimspec.errors import ParameterError, UnknownNameError
from pimspec.params.presets import preset_named

GPT, LLAMA = shape_named("GPT-175B"), shape_named("Llama-3.1-70B")


def load(contexts=(), lanes=(), chunks=(), completed=0):
    return Load(
        context=np.array(contexts, np.int64),
        context_sum=sum(contexts),
        lane=np.array(lanes, np.int64),
        chunks=tuple(chunks),
        completed=completed,
    )


# Memory.


def test_paged_memory_is_what_the_weights_leave():
    geometry = GpuOnly(GPT, DGX_A100).geometry()
    weights = 2 * (GPT.num_layers * GPT.layer_parameters + 2 * GPT.vocab_size * GPT.hidden_size)
    assert geometry.unit_bytes == 16 * GPT.kv_bytes_per_token()
    assert geometry.capacity_bytes == pytest.approx(8 * 72e9 - weights, abs=2 * geometry.unit_bytes)


def test_more_gpus_than_kv_heads_hold_them_twice():
    geometry = GpuOnly(LLAMA, DGX_A100).geometry()
    assert geometry.unit_bytes == 16 * LLAMA.kv_bytes_per_token()
    four_kv_heads = replace(LLAMA, num_kv_heads=4)
    twice = GpuOnly(four_kv_heads, DGX_A100).geometry()
    assert twice.unit_bytes == 2 * 16 * four_kv_heads.kv_bytes_per_token()
    with pytest.raises(ParameterError, match="tp_size must be a divisor of the q_heads, 28, not 8"):
        GpuOnly(shape_named("Qwen2.5-7B"), DGX_A100)


@pytest.mark.parametrize(("shape", "pools", "layers", "heads"), [(GPT, 1, 24, 6), (LLAMA, 16, 20, 8)])
def test_l3_grants_chunks_as_the_dpa_controller_does(shape, pools, layers, heads):
    node = replace(DGX_A100, rank_bytes=8 << 30)  # the rank of the preset, so that the two can be compared
    geometry = L3(shape, node).geometry()
    fitted = AttentionShape(num_q_heads=shape.num_q_heads, num_kv_heads=shape.num_kv_heads, head_dim=128)
    dpa = preset_named(node.preset).rank.for_shape(fitted).with_dpa(num_slots=1).require_dpa()
    cache = LazyKvCache(dpa, 2 * layers * heads)
    assert geometry.num_pools == pools
    assert abs(geometry.pool_units - dpa.num_chunks) <= 1  # the last chunk of a rank is registers
    for tokens in (1, 511, 512, 513, 5000, 100_000):
        assert geometry.units_of(tokens) == cache.chunks_for(tokens)
        assert geometry.units(np.array([tokens])).tolist() == [geometry.units_of(tokens)]


def test_the_node_holds_two_tebibytes():
    for shape in (GPT, LLAMA):
        assert L3(shape, DGX_A100).geometry().capacity_bytes == 2 << 40
        assert CpuOffload(shape, DGX_A100).geometry().capacity_bytes == pytest.approx(2 << 40, rel=1e-4)
    assert HbmPimExtended(GPT, DGX_A100).geometry().capacity_bytes == pytest.approx(320e9, rel=1e-3)
    assert HbmPim(GPT, DGX_A100).geometry() == GpuOnly(GPT, DGX_A100).geometry()


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(ParameterError, match=r"weights of a GPU must be at most 72\.0 GB, not '175\.2 GB'"):
        GpuOnly(GPT, replace(DGX_A100, tp_size=2))


# Times.


def test_gpu_only_is_the_gpu_model():
    system = GpuOnly(LLAMA, DGX_A100)
    contexts = (1000, 3000, 17)
    step = system.times([load(contexts)], 3)
    for k in range(3):
        assert step.duration[k] == system.cost.decode_step_ns(3, sum(contexts) + 3 * k)
    mixed = int(system.times([load(contexts, chunks=[(512, 128)], completed=1)], 1).duration[0])
    cost = system.cost
    layer = cost.layer_ns(515) + cost.prefill_attention_ns(512, prefix=128) + cost.decode_attention_ns(3, 4017)
    assert mixed == 80 * layer + cost.lm_head_ns(4)


def test_hbm_pim_attends_at_sixteen_times_the_bandwidth():
    system, contexts = HbmPim(GPT, DGX_A100), (8000, 8000)
    times = system.times([load(contexts)], 2)
    dense = 96 * system.cost.layer_ns(2) + system.cost.lm_head_ns(2)
    for k in range(2):
        attention_s = (16_000 + 2 * k) * GPT.kv_bytes_per_token() / (16 * 8 * 2.039e12)
        assert times.duration[k] - dense == pytest.approx(attention_s * 1e9, abs=96)


def test_l3_times_equal_a_count_by_hand():
    """Sub-batch 0 decodes 2 requests in lanes 0 and 3, 1 decodes one and computes a prompt."""
    system = L3(GPT, DGX_A100)
    loads = [load((4000, 9000), (0, 3)), load((6000,), (1,), chunks=[(96, 0)], completed=1)]
    times = system.times(loads, 1)
    cost, clocks = system.cost, system.latency.table.clocks
    gpu = [cost.layer_ns(2), cost.layer_ns(1 + 96) + cost.prefill_attention_ns(96)]
    pim_ps = [int(clocks(6, np.array([n]))[0]) * 2500 for n in (9000, 6000)]  # 6 of 96 kv_heads in a rank, 2.5 ns
    pim = [round(ps / 1000) for ps in pim_ps]
    vector = 96 * 128 * 2
    down = [2 * 3 * vector + 96 * 2 * vector, 3 * vector]  # q, k, v of decodes; k and v of the prompt with 0's phase
    up = [2 * vector, vector]
    pcie, ddr = 8 * 16 * 16e9 / 8 * 128 / 130, 16 * 25.6e9
    transfer = [round(max(d / pcie, u / pcie, (d + u) / ddr) * 1e9) for d, u in zip(down, up, strict=True)]
    phases = [max(t, p + t // 4) + 2 * 800 for t, p in zip(transfer, pim, strict=True)]
    # Phase A: the GPU computes 0 while 1 attends. Phase B: the reverse.
    layer = max(gpu[0], phases[1]) + max(gpu[1], phases[0])
    assert int(times.duration[0]) == 96 * layer + cost.lm_head_ns(2) + cost.lm_head_ns(2)
    assert int(times.pim[0]) == 96 * (sum(pim_ps) // 1000)
    assert int(times.link_bytes[0]) == 96 * (sum(down) + sum(up))


@pytest.mark.parametrize("system", [L3, RankPim, CpuOffload, HbmPimExtended, HbmPim, GpuOnly])
def test_many_steps_equal_single_steps(system):
    made = system(LLAMA, DGX_A100)
    lanes = getattr(made, "num_lanes", 1)
    rng = np.random.default_rng(3)
    batches = [(rng.integers(1, 9000, 40).tolist(), rng.integers(0, lanes, 40).tolist()) for _ in range(2)]
    batches = batches[: made.num_sub_batches]
    together = made.times([load(*batch) for batch in batches], 50)
    for k in (0, 1, 17, 49):
        alone = made.times([load([n + k for n in contexts], lanes) for contexts, lanes in batches], 1)
        for name in ("duration", "gpu", "pim", "pim_mean", "link_bytes"):
            assert getattr(together, name)[k] == getattr(alone, name)[0], name


def test_a_transfer_stops_only_its_own_rankset():
    four, one = (L3(GPT, replace(DGX_A100, ranks_per_channel=n)) for n in (4, 1))
    transfer = four.transfer_ns(10, 500)
    long, short = np.array([10 * transfer]), np.array([0])
    assert four.attending_ns(long, 10, 500)[0] == 10 * transfer + transfer // 4 + 1600
    assert one.attending_ns(long, 10, 500)[0] == 11 * transfer + 1600
    assert four.attending_ns(short, 10, 500)[0] == transfer + 1600


# The scheduler of L3.


class FakeTurn:
    """A turn with a queue of prompts, and memory for some of them."""

    def __init__(self, decodes, prompts, room):
        self.sub_batches = [SubBatch() for _ in range(2)]
        for number, batch in enumerate(self.sub_batches):
            for lane, context in enumerate(decodes[number]):
                batch.append((0, context, 100, lane % 4, 1, 1))
        self.prefills, self.chunks = [], {}
        self.queue, self.room = list(prompts), room

    @property
    def waiting(self):
        return len(self.queue)

    @property
    def blocked(self):
        return bool(self.queue) and not self.room

    def admit(self, sub_batch):
        if not self.queue or not self.room:
            return None
        self.room -= 1
        new = Prefill(
            request=len(self.prefills), sub_batch=sub_batch, lane=0, target=self.queue.pop(0), granted=1, order=0
        )
        self.prefills.append(new)
        return new

    def chunk(self, prefill, tokens):
        self.chunks[prefill.request] = (prefill.sub_batch, tokens)


def test_each_sub_batch_gets_one_prompt_if_pim_is_idle():
    turn = FakeTurn(([], []), [100] * 9, room=9)
    L3(GPT, DGX_A100).plan(turn)
    assert list(turn.chunks.values()) == [(0, 100), (1, 100)]


def test_prompts_are_added_until_the_gpu_is_the_slower_side():
    system = L3(GPT, DGX_A100)
    turn = FakeTurn(([9000] * 24, [9000] * 24), [2000] * 90, room=90)
    system.plan(turn)
    attention = system.attention_ps(load([9001] * 24, [n % 4 for n in range(24)]), 1)[0][0] / 1e3
    for b in (0, 1):
        mine = [tokens for sub_batch, tokens in turn.chunks.values() if sub_batch == b]
        gpu = [
            system.cost.layer_ns(24 + sum(mine[:n])) + n * system.cost.prefill_attention_ns(2000)
            for n in (len(mine) - 1, len(mine))
        ]
        assert gpu[0] < 1.1 * attention
        assert gpu[1] > 0.9 * attention


def test_the_last_prompt_is_cut_when_memory_is_full_and_the_gpu_is_slower():
    turn = FakeTurn(([5000] * 4, [5000] * 4), [2000, 2000, 2000], room=2)
    system = L3(GPT, DGX_A100)
    system.plan(turn)
    tokens = [tokens for _, tokens in turn.chunks.values()]
    assert len(tokens) == 2
    assert all(64 <= n < 2000 and n % 64 == 0 for n in tokens)
    roomy = FakeTurn(([5000] * 4, [5000] * 4), [2000, 2000, 2000], room=3)
    system.plan(roomy)
    assert [n for _, n in roomy.chunks.values()] == [2000, 2000]


@pytest.mark.parametrize("shape", [GPT, LLAMA])
def test_the_predictor_is_as_good_as_chime_says(shape):
    predictor = L3(shape, DGX_A100).predictor
    assert predictor.median_error < 0.01
    assert predictor.p90_error < 0.02
    assert predictor.token_ns > 0


# All systems, whole runs.


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("admission", Admission)
def test_every_request_is_accounted_for(name, admission):
    work = synthetic_workload("OpenThoughts", 30, np.random.default_rng(4))
    node = replace(DGX_A100, rank_bytes=4 << 30, tp_size=8)
    outcome = simulate(SYSTEMS[name](GPT, node), work, admission=admission)
    assert set(outcome.status.tolist()) <= {Status.FINISHED, Status.REFUSED}
    finished = outcome.status == Status.FINISHED
    assert finished.sum() >= 25
    assert outcome.generated[finished].sum() == work.output_tokens[finished].sum()
    assert outcome.link_bytes == 0 or SYSTEMS[name].num_sub_batches == 2
    if SYSTEMS[name].num_sub_batches == 2:
        kv = GPT.kv_bytes_per_token()  # queries and outputs are as long as K or V
        assert outcome.link_bytes == (outcome.prefill_tokens + 2 * outcome.decoded_tokens) * kv


def test_the_order_of_the_systems_is_that_of_the_paper():
    work = synthetic_workload("OpenR1", 50, np.random.default_rng(1))
    rate = {}
    for name in ("CPU", "R-PIM", "GPU", "HBM-PIM", "L3"):
        outcome = simulate(SYSTEMS[name](GPT, DGX_A100), work)
        rate[name] = outcome.generated.sum() / outcome.end_ns
    assert sorted(rate, key=rate.get) == list(rate)


# Systems by name.

OWN = """
from pimhost.systems.gpu_only import GpuOnly

class OneAtATime(GpuOnly):
    name = "one at a time"

    def plan(self, turn):
        prompts = list(turn.prefills)
        if not prompts and not len(turn.sub_batches[0]):
            new = turn.admit(0)
            prompts = [new] if new else []
        for prefill in prompts:
            turn.chunk(prefill, prefill.left)
"""


def test_a_system_in_a_user_file_is_found(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    system = system_named(f"{tmp_path / 'mine.py'}:OneAtATime")(LLAMA, DGX_A100)
    work = Workload.of(
        "w", "", synthetic=True, arrival_ns=[0, 0, 0], prompt_tokens=[100, 50, 20], output_tokens=[5, 1, 9]
    )
    outcome = simulate(system, work)
    assert outcome.most_decodes == 1
    cost = system.cost
    first = cost.prefill_ns(100) + sum(cost.decode_step_ns(1, 101 + k) for k in range(4))
    assert outcome.finish_ns.tolist()[:2] == [first, first + cost.prefill_ns(50)]


def test_names(tmp_path):
    assert system_named("l3") is system_named("CHIME") is L3
    with pytest.raises(UnknownNameError, match="unknown system 'L4'"):
        system_named("L4")
    with pytest.raises(ParameterError, match="file of a system must be one that exists"):
        system_named("none.py:X")
    (tmp_path / "bad.py").write_text("1 / 0")
    with pytest.raises(ParameterError, match="ZeroDivisionError"):
        system_named(f"{tmp_path / 'bad.py'}:X")
    (tmp_path / "other.py").write_text("X = 3")
    with pytest.raises(ParameterError, match="a subclass of"):
        system_named(f"{tmp_path / 'other.py'}:X")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"channels": 6, "dp_size": 4}, "channels must be a multiple of 4 replicas, not 6"),
        ({"gpu_memory_share": 1.5}, "gpu_memory_share must be above 0 and at most 1, not 1.5"),
        ({"tp_size": 0}, "tp_size must be 1..8, not 0"),
        ({"rank_bytes": 5}, "rank_bytes must be 1048576..4398046511104, not 5"),
    ],
)
def test_impossible_machines_are_refused(arguments, reason):
    with pytest.raises(ParameterError, match=reason):
        Node(**arguments)
