"""Full rank, 8 chips of 16 banks: contexts, real data, and its use of the bandwidth. Slow: large builds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dimmpim.ranks import open_rank
from pimhost.driver.decode_step import golden_step, placement_of, run_step
from pimhost.kv_file import load_step, synthetic_step
from pimhost.reference import reference_attention, relative_l2_error
from pimsim.rule_checker import RuleChecker, RuleViolationError
from pimspec.attention.placement import KvKind
from pimspec.attention.shape import AttentionShape
from pimspec.golden.merge import normalise
from pimspec.hostif.window_lines import Descriptor
from pimspec.params.presets import preset_named

pytestmark = pytest.mark.slow

RECORDING = Path(__file__).parents[3] / "shared" / "data" / "smollm2_qkv_declaration.npz"
MHA, GQA4, GQA8 = ((1, 128), (4, 128), (8, 128))


def rank_for(group, head_dim, preset="ddr4-3200-x8-8gb"):
    shape = AttentionShape(num_q_heads=group, num_kv_heads=1, head_dim=head_dim)
    return preset_named(preset).rank.for_shape(shape)


def check_run(run, step, params, text):
    golden = golden_step(params, step)
    np.testing.assert_array_equal(run.output, golden.o, text)
    np.testing.assert_array_equal(run.statistics, np.stack([golden.m, golden.l], axis=1), text)
    bits = normalise(golden).astype(np.uint32).view(np.float32)
    errors = relative_l2_error(bits, reference_attention(step.q, step.k, step.v).output)
    assert errors.max() <= 1e-3, text
    return errors


@pytest.mark.parametrize(("group", "head_dim"), [MHA, GQA4, GQA8], ids=["MHA-128", "GQA-4", "GQA-8"])
def test_contexts(group, head_dim):
    params = rank_for(group, head_dim)
    commands, errors = [], []
    with open_rank(params, threads=2) as sim:
        for tokens in (1, 2, 15, 16, 17, 1000, 1024, 8192, 8200):
            shape = AttentionShape(num_q_heads=2 * group, num_kv_heads=2, head_dim=head_dim)
            step = synthetic_step(shape, tokens, tokens)
            run = run_step(sim, step, normalise=False)
            errors.append(check_run(run, step, params, f"GQA-{group}, {tokens} tokens"))
            commands += run.commands
    RuleChecker((params.timing, params.organization), params.engine.constraints).check_trace(commands)
    assert np.median(np.concatenate(errors)) <= 2e-4


@pytest.mark.parametrize(
    ("group", "heads", "preset", "bus_tccd", "goal"),
    [
        (1, 8, "ddr4-3200-x8-8gb", "long", 0.88),
        (1, 8, "ddr4-3200-x8-16gb", "long", 0.86),
        (8, 16, "ddr4-3200-x8-8gb", "short", 0.88),
        (8, 16, "ddr4-3200-x8-16gb", "short", 0.86),
        (8, 16, "ddr4-3200-x8-8gb", "long", 0.77),
        (8, 16, "ddr4-3200-x8-16gb", "long", 0.75),
    ],
)
def test_utilization(group, heads, preset, bus_tccd, goal):
    """From the first descriptor to the end of the last kv_head, refresh and strict tFAW on, 8192 tokens."""
    params = replace(rank_for(group, 128, preset), bus_tccd=bus_tccd)
    shape = AttentionShape(num_q_heads=group * heads, num_kv_heads=heads, head_dim=128)
    step = synthetic_step(shape, 8192, 1)
    with open_rank(params, threads=2) as sim:
        run = run_step(sim, step, normalise=False)
    check_run(run, step, params, f"{shape} on {preset}")
    RuleChecker((params.timing, params.organization), params.engine.constraints).check_trace(run.commands)
    assert run.utilization_of_peak >= goal


@pytest.mark.skipif(not RECORDING.exists(), reason="the recording of SmolLM2 is not beside the checkout")
def test_all_layers_steps_and_heads_of_the_recording():
    """K and V of a layer are stored once; each step sees one token more."""
    params = rank_for(3, 64)
    with np.load(RECORDING) as file:
        layers = sorted(int(name[1:]) for name in file.files if name[0] == "Q")
        num_steps = len(file[f"Q{layers[0]}"])
    worst, count, commands = 0.0, 0, []
    for layer in layers:
        whole = load_step(RECORDING, layer, num_steps - 1)
        shape, rows = whole.shape, -(-whole.num_tokens // (params.row_lines * params.num_chips))
        with open_rank(params, threads=2) as sim:
            placement = placement_of(params, shape, whole.num_tokens)
            for kind, vectors in ((KvKind.K, whole.k), (KvKind.V, whole.v)):
                sim.port.poke(placement.writes(0, kind, 0, vectors))
            sim.take()
            for number in range(num_steps):
                step = load_step(RECORDING, layer, number)
                outputs = []
                for head in range(shape.num_kv_heads):
                    queries = step.q[3 * head : 3 * head + 3].view(np.uint16)
                    sim.write_queries(head * params.queries_at_once, queries)
                    sim.submit(
                        Descriptor(
                            k_row=2 * head * rows,
                            v_row=(2 * head + 1) * rows,
                            tokens=step.num_tokens,
                            last_query=2,
                            query=head * params.queries_at_once,
                            output=head * params.queries_at_once,
                            scale=shape.scale_bits,
                            normalise=0,
                        )
                    )
                sim.run(100_000, until_finished=shape.num_kv_heads * (number + 1))
                outputs = [sim.read_outputs(head * params.queries_at_once, 3) for head in range(shape.num_kv_heads)]
                golden = golden_step(params, step)
                np.testing.assert_array_equal(np.concatenate(outputs), golden.o, f"layer {layer}, step {number}")
                bits = normalise(golden).astype(np.uint32).view(np.float32)
                worst = max(worst, relative_l2_error(bits, reference_attention(step.q, step.k, step.v).output).max())
                count += len(step.q)
            commands = sim.traced_commands(sim.trace())
        RuleChecker((params.timing, params.organization), params.engine.constraints).check_trace(commands)
    assert worst <= 1e-3
    assert count == 9 * num_steps * len(layers)


def test_relaxed_power_is_not_legal_and_brings_nothing():
    """Bursts of ACT break tFAW at the start; then rows of staggered banks open further apart than tFAW anyway."""
    strict, relaxed = (rank_for(1, 128, name) for name in ("ddr4-3200-x8-8gb", "ddr4-3200-x8-8gb-relaxed"))
    assert relaxed == replace(strict, relaxed_faw=True)
    step = synthetic_step(AttentionShape(num_q_heads=2, num_kv_heads=2, head_dim=128), 1024, 1)
    runs = []
    for params in (strict, relaxed):
        with open_rank(params) as sim:
            runs.append(run_step(sim, step, normalise=False))
        check_run(runs[-1], step, params, "relaxed")
        RuleChecker((params.timing, params.organization), params.engine.constraints).check_trace(runs[-1].commands)
    assert runs[1].clocks == pytest.approx(runs[0].clocks, rel=0.01)
    with pytest.raises(RuleViolationError, match="FAW"):
        RuleChecker((strict.timing, strict.organization), strict.engine.constraints).check_trace(runs[1].commands)


@pytest.mark.skipif(not RECORDING.exists(), reason="the recording of SmolLM2 is not beside the checkout")
@pytest.mark.parametrize("data_mask", [True, False], ids=["DM", "no DM"])
def test_steps_of_the_recording_with_their_tokens_appended(data_mask):
    """Each step's token comes by APPEND, and is in the cells before the descriptor that follows at once."""
    params = replace(rank_for(3, 64), data_mask=data_mask)
    with np.load(RECORDING) as file:
        layer = min(int(name[1:]) for name in file.files if name[0] == "Q")
        num_steps = len(file[f"Q{layer}"])
    whole = load_step(RECORDING, layer, num_steps - 1)
    shape, each = whole.shape, params.row_lines * params.num_chips
    rows, first = -(-whole.num_tokens // each), load_step(RECORDING, layer, 0).num_tokens - 1
    heads, entries = range(shape.num_kv_heads), params.queries_at_once
    with open_rank(params, threads=2) as sim:
        placement = placement_of(params, shape, whole.num_tokens)
        for kind, vectors in ((KvKind.K, whole.k), (KvKind.V, whole.v)):
            sim.port.poke(placement.writes(0, kind, 0, vectors[:, :first]))
        sim.take()
        for number in range(num_steps):
            step = load_step(RECORDING, layer, number)
            row, token = divmod(step.num_tokens - 1, each)
            lines = sim.memory.lines
            places = [(2 * head + v) * rows + row for head in heads for v in (0, 1)]
            both = np.stack([step.k[:, -1], step.v[:, -1]], axis=1).reshape(len(places), -1).view(np.uint16)
            sim.append(places, [token] * len(places), [0, 1] * len(heads), both)
            assert sim.memory.lines - lines == len(places) * (params.window.query_lines + 1)
            for head in heads:
                sim.write_queries(head * entries, step.q[3 * head : 3 * head + 3].view(np.uint16))
                sim.submit(
                    Descriptor(
                        k_row=2 * head * rows, v_row=(2 * head + 1) * rows, tokens=step.num_tokens, last_query=2,
                        query=head * entries, output=head * entries, scale=shape.scale_bits, normalise=0,
                    )
                )  # fmt: skip
            sim.run(1_000_000, until_finished=(number + 1) * len(heads))
            golden = golden_step(params, step)
            outputs = np.concatenate([sim.read_outputs(head * entries, 3) for head in heads])
            np.testing.assert_array_equal(outputs, golden.o, f"step {number}")
            status = sim.status()  # nothing waits: the next vectors need not ask for room
            assert (status.refused, status.chip, status.queued) == (0, 0, 0)
