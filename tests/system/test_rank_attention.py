"""Decode attention on the RTL of a whole rank: equal to the golden model bit for bit, at legal command timing."""

from __future__ import annotations

import numpy as np
import pytest

from dimmpim.ranks import open_rank
from pimhost.driver.decode_step import golden_step, placement_of, run_step
from pimhost.kv_file import DecodeStep, synthetic_step
from pimsim.rule_checker import RuleChecker
from pimspec.attention.placement import KvKind, KvPlacement, KvRegion
from pimspec.attention.shape import TOKEN_PER_CHIP, AttentionShape
from pimspec.golden.merge import normalise
from pimspec.hostif.window_lines import Descriptor
from pimspec.params.presets import preset_named

TINY = preset_named("tiny").rank


def check_rules(params, commands):
    """Every rule of the table holds, and the refresh interval from the first refresh on."""
    RuleChecker((params.timing, params.organization), params.engine.constraints).check_trace(commands)


def check_step(params, step, **options):
    with open_rank(params) as sim:
        run = run_step(sim, step, **options)
    golden = golden_step(params, step)
    text = f"{step.shape}, {step.num_tokens} tokens, {step.source}, {options}"
    if options.get("normalise", True):
        np.testing.assert_array_equal(run.output, normalise(golden, params.format), text)
    else:
        np.testing.assert_array_equal(run.output, golden.o, text)
    np.testing.assert_array_equal(run.statistics, np.stack([golden.m, golden.l], axis=1), text)
    check_rules(params, run.commands)
    return run


def shape_of(group, heads, params):
    return AttentionShape(num_q_heads=group * heads, num_kv_heads=heads, head_dim=params.head_dim)


@pytest.mark.parametrize("tokens", [1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 257, 1000])
@pytest.mark.parametrize("normalised", [True, False])
def test_contexts(tokens, normalised):
    check_step(TINY, synthetic_step(shape_of(2, 1, TINY), tokens, tokens), normalise=normalised)


@pytest.mark.parametrize(("group", "heads", "tokens"), [(1, 1, 40), (1, 5, 70), (2, 9, 33), (2, 20, 5), (1, 17, 130)])
def test_heads_in_a_row(group, heads, tokens):
    check_step(TINY, synthetic_step(shape_of(group, heads, TINY), tokens, heads))


@pytest.mark.parametrize("tokens", [1, 40, 300])
def test_static_order_gives_the_same_bits_later(tokens):
    step = synthetic_step(shape_of(2, 2, TINY), tokens, 3)
    together, static_order = check_step(TINY, step), check_step(TINY, step, static_order=True)
    assert static_order.clocks > together.clocks


def special_step(kind, seed):
    """A step with values that a model never has, but a memory might."""
    rng = np.random.default_rng(seed)
    step = synthetic_step(shape_of(2, 1, TINY), 75, seed)
    q, k, v = step.q.copy(), step.k.copy(), step.v.copy()
    if kind == "any bits":
        k, v = (rng.integers(0, 1 << 16, x.shape, dtype=np.uint16).view(np.float16) for x in (k, v))
    elif kind == "infinite v":
        v[0, rng.integers(0, 75, 9), rng.integers(0, 16, 9)] = np.inf
        v[0, 3, 5] = -np.inf
    elif kind == "nan k":
        k[0, 17, 3] = np.nan
    elif kind == "large scores":
        q, k = (q * 200).astype(np.float16), (k * 200).astype(np.float16)
    elif kind == "zeros":
        q, v = np.zeros_like(q), np.where(v > 0, np.float16(0), np.float16(-0.0))
    return DecodeStep(shape=step.shape, q=q, k=k, v=v, source=f"{kind}, seed {seed}")


@pytest.mark.parametrize("kind", ["any bits", "infinite v", "nan k", "large scores", "zeros"])
def test_special_values(kind):
    for seed in range(3):
        check_step(TINY, special_step(kind, seed), normalise=False)


def test_steps_one_after_the_other_on_one_rank():
    with open_rank(TINY) as sim:
        for seed in range(4):
            step = synthetic_step(shape_of(2, 3, TINY), 20 + 50 * seed, seed)
            run = run_step(sim, step)
            np.testing.assert_array_equal(run.output, normalise(golden_step(TINY, step), TINY.format))
            placement_of(TINY, step.shape, step.num_tokens)


def test_heads_that_are_not_alike():
    """Other numbers of queries, tokens and ways of working in a row, given as fast as the rank takes them."""
    params = TINY.for_shape(AttentionShape(num_q_heads=4, num_kv_heads=1, head_dim=16)).with_dpa(
        num_slots=4, program_words=64, chunk_bytes=4 * 1024, directory_entries=4, leaf_entries=64, watchdog=4095
    )  # that of test_rank_programs: one build for both
    rng = np.random.default_rng(12)
    with open_rank(params) as sim:
        sim.take()
        for batch in range(12):
            heads, row = [], 0
            for _ in range(params.queries // params.queries_at_once):
                group, tokens = int(rng.integers(1, 5)), int(rng.choice([3, 20, 70, 300]))
                step = synthetic_step(shape_of(group, 1, params), tokens, int(rng.integers(99)))
                rows = -(-tokens // (params.row_lines * params.num_chips))
                regions = [
                    KvRegion(request=0, kind=kind, head_set=0, rank=0, rows=range(row + n * rows, row + (n + 1) * rows))
                    for n, kind in enumerate(KvKind)
                ]
                placement = KvPlacement(
                    organization=params.organization, shape=step.shape, mapping=TOKEN_PER_CHIP, regions=regions
                )
                for kind, vectors in ((KvKind.K, step.k), (KvKind.V, step.v)):
                    sim.port.poke(placement.writes(0, kind, 0, vectors))
                heads.append((step, row, row + rows))
                row += 2 * rows
            before = len(sim.finished)
            for n, (step, _, _) in enumerate(heads):
                sim.write_queries(n * params.queries_at_once, step.q.view(np.uint16))
            for n, (step, k_row, v_row) in enumerate(heads):
                descriptor = Descriptor(
                    k_row=k_row,
                    v_row=v_row,
                    tokens=step.num_tokens,
                    last_query=step.shape.num_q_heads - 1,
                    query=n * params.queries_at_once,
                    output=n * params.queries_at_once,
                    scale=step.shape.scale_bits,
                    normalise=0,
                    static_order=int(rng.random() < 0.3),
                )
                sim.submit(descriptor)
            sim.run(200_000, until_finished=before + len(heads))
            assert len(sim.finished) == before + len(heads), f"batch {batch}"
            for n, (step, _, _) in enumerate(heads):
                golden, queries = golden_step(params, step), step.shape.num_q_heads
                np.testing.assert_array_equal(
                    sim.read_outputs(n * params.queries_at_once, queries), golden.o, f"batch {batch}"
                )
                got = sim.read_statistics(n * params.queries_at_once, queries)
                np.testing.assert_array_equal(got, np.stack([golden.m, golden.l], axis=1), f"batch {batch}")
        check_rules(params, sim.traced_commands(sim.trace()))


def test_random_shapes():
    rng = np.random.default_rng(11)
    with open_rank(TINY) as sim:
        commands = []
        for seed in range(25):
            group, heads, tokens = (int(n) for n in (rng.integers(1, 3), rng.integers(1, 7), rng.integers(1, 400)))
            step = synthetic_step(shape_of(group, heads, TINY), tokens, seed)
            run = run_step(sim, step, static_order=bool(rng.random() < 0.2))
            want = normalise(golden_step(TINY, step), TINY.format)
            np.testing.assert_array_equal(run.output, want, f"{group} x {heads} heads, {tokens} tokens, seed {seed}")
            commands += run.commands
    check_rules(TINY, commands)
