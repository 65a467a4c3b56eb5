"""Merge unit of the rank PU: equal to its golden model, with the stated cycles."""

from __future__ import annotations

import numpy as np
import pytest

from pimhw.generate import component_verilog
from pimhw.pipeline import layout_of
from pimhw.rank_pu.merge import Merge
from pimsim.lint import lint_warnings
from pimsim.oracles import from_bits
from pimsim.pysim import run_pysim
from pimsim.stimulus import corners, random_numbers
from pimsim.verilated import VerilatedUnit
from pimspec.errors import ParameterError
from pimspec.formats import BF16, FP16, FP32
from pimspec.golden.merge import Partial, merge_all, normalise
from pimspec.params.rank_pu import MergeParams

STALLS = {"none": (0.0, 0.0), "idle": (0.4, 0.0), "backpressure": (0.0, 0.4), "both": (0.4, 0.4)}
VARIANTS = {
    "default": MergeParams(head_dim=64),
    "one-lane": MergeParams(head_dim=8, lanes=1, exp_depth=1, bits_per_cycle=4),
    "deep": MergeParams(
        head_dim=64, lanes=8, mul_depth=4, add_depth=5, exp_depth=4, narrow_depth=2, bits_per_cycle=1, format=BF16
    ),
}
# merge_cycles, then emit_cycles for (1 partial, 2 partials) normalised: written out, so no side can change alone.
CYCLES = {"default": (23, 18, 18), "one-lane": (14, 12, 11), "deep": (28, 34, 33)}


def expected_of(operands, params: MergeParams) -> dict[str, np.ndarray]:
    """Partials folded left to right; one result for each `last`."""
    num_beats = params.num_beats
    results = {"o": [], "m": [], "l": [], "normalised": []}
    fold = []
    for k in range(0, len(operands["last"]), num_beats):
        fold.append(Partial(operands["o"][k : k + num_beats].ravel(), operands["m"][k], operands["l"][k]))
        if not operands["last"][k]:
            continue
        total = merge_all(fold)
        o = normalise(total, params.format) if operands["normalise"][k] else total.o
        results["o"].append(o.reshape(num_beats, params.lanes))
        for name, value in (("m", total.m), ("l", total.l), ("normalised", operands["normalise"][k])):
            results[name].append(np.full(num_beats, value))
        fold = []
    return {name: np.concatenate(values).astype(np.int64) for name, values in results.items()}


def make_operands(folds, params: MergeParams, seed: int, *, plain: bool = False, flags=None) -> dict:
    """`folds` are numbers of partials. Partials like those of attention; some equal, some empty, some special.

    The fields read with the first beat only hold noise in the others.
    """
    rng = np.random.default_rng(seed)
    count, num_beats = int(np.sum(folds)), params.num_beats
    o = (rng.normal(size=(count, num_beats, params.lanes)) * 30).astype(np.float32).view(np.uint32).astype(np.int64)
    m = (rng.normal(size=count) * 6).astype(np.float32).view(np.uint32).astype(np.int64)
    l = (rng.random(count) * 500 + 1).astype(np.float32).view(np.uint32).astype(np.int64)  # noqa: E741
    if not plain:
        kind = rng.integers(0, 12, count)
        m = np.where(kind == 0, np.roll(m, 1), m)
        m = np.where(kind == 1, FP32.inf | FP32.sign_mask, m)
        l = np.where(kind == 1, 0, l)  # noqa: E741
        o[kind == 1] = 0
        m = np.where(kind == 2, rng.choice(corners(FP32), count), m)
        m = np.where(kind == 3, rng.integers(0, 2, count) << 31, m)
        m = np.where(kind == 4, random_numbers(rng, count, FP32, 120, 136), m)
        l = np.where(kind == 5, rng.choice(corners(FP32), count), l)  # noqa: E741
        special = rng.choice(corners(FP32), o.shape)
        o = np.where((kind == 6)[:, None, None], special, o)
    last = np.zeros(count, dtype=np.int64)
    last[np.cumsum(folds) - 1] = 1
    flag = rng.integers(0, 2, count) if flags is None else np.full(count, int(flags))

    def spread(values, bits):
        noise = rng.integers(0, 1 << bits, (count, num_beats))
        noise[:, 0] = values
        return noise.ravel()

    return {
        "o": o.reshape(-1, params.lanes),
        "m": spread(m, 32),
        "l": spread(l, 32),
        "last": spread(last, 1),
        "normalise": spread(flag, 1),
    }


def unit_for(params: MergeParams) -> VerilatedUnit:
    text = component_verilog(Merge(params=params), "merge")
    return VerilatedUnit(verilog=text, top="merge", inputs=params.inputs, outputs=params.outputs)


def compare(results, expected, seed: int) -> None:
    for name, want in expected.items():
        bad = np.flatnonzero((results[name] != want).reshape(len(want), -1).any(axis=1))
        assert len(bad) == 0, (
            f"{name}[{bad[0]}] is {results[name][bad[0]]}, not {want[bad[0]]}; {len(bad)} wrong (seed {seed})"
        )


@pytest.mark.parametrize("variant", VARIANTS)
def test_rtl_equals_golden(variant, count_vectors):
    params = VARIANTS[variant]
    with unit_for(params) as unit:
        for seed, (idle, refuse) in enumerate(STALLS.values()):
            folds = np.random.default_rng(seed).integers(1, 7, 150)
            operands = make_operands(folds, params, seed)
            expected = expected_of(operands, params)
            run = unit.run(operands, len(expected["m"]), idle=idle, refuse=refuse, seed=seed)
            compare(run.results, expected, seed)
            count_vectors("RTL merge (Verilator), partials", int(folds.sum()))


@pytest.mark.parametrize("stalls", STALLS)
def test_pysim_equals_golden(stalls, count_vectors):
    params = MergeParams(head_dim=16)
    operands = make_operands([1, 2, 1, 3, 4, 2, 1, 1, 2], params, 8)
    expected = expected_of(operands, params)
    idle, refuse = STALLS[stalls]
    run = run_pysim(Merge(params=params), params, operands, len(expected["m"]), idle=idle, refuse=refuse, seed=8)
    compare(run.results, expected, 8)
    count_vectors("RTL merge in pysim, partials", 17)


@pytest.mark.parametrize("variant", VARIANTS)
def test_cycles_are_as_stated(variant):
    params = VARIANTS[variant]
    n = params.num_beats
    emit = {k: params.emit_cycles(num_partials=k, normalise=True) for k in (1, 2)}
    assert (params.merge_cycles, emit[1], emit[2]) == CYCLES[variant]
    assert (
        params.emit_cycles(num_partials=1, normalise=False) == params.emit_cycles(num_partials=2, normalise=False) == n
    )
    for flag in (False, True):
        with unit_for(params) as unit:
            operands = make_operands([1, 3, 2, 1, 1], params, 3, plain=True, flags=flag)
            run = unit.run(operands, 5 * n)
        firsts, lasts = run.accepted_at[0::n], run.accepted_at[n - 1 :: n]
        np.testing.assert_array_equal(lasts - firsts, n - 1)
        np.testing.assert_array_equal(np.diff(run.delivered_at)[np.arange(1, 5 * n) % n != 0], 1)
        lead = params.weigh_cycles + 1  # from the end of one partial to the first beat of the next
        tail = params.mul_depth + params.add_depth
        assert lasts[2] - lasts[1] == lead + n
        assert lasts[3] - lasts[2] == params.merge_cycles == lead + n + tail
        ends = run.delivered_at[n - 1 :: n]
        for fold, (partials, final) in enumerate(((1, 0), (3, 3), (2, 5), (1, 6), (1, 7))):
            took = params.emit_cycles(num_partials=partials, normalise=flag)
            assert ends[fold] - lasts[final] == took + (tail if partials > 1 else 0)
        np.testing.assert_array_equal(firsts[[1, 4, 6, 7]] - ends[:4], 1)
        if not flag:
            assert run.delivered_at[n] - lasts[3] == params.latency_cycles
            assert firsts[7] - firsts[6] == params.interval_cycles


@pytest.mark.parametrize("format", [FP16, BF16], ids=str)
def test_merged_result_against_float64(format):
    """``o / l`` of the whole: weights exact to 2**-14 each, the rest is FP32, the output rounds once to `format`."""
    params = MergeParams(head_dim=32, format=format)
    folds = [1, 2, 3, 8, 16]
    operands = make_operands(folds, params, 17, plain=True, flags=True)
    n, worst = params.num_beats, 0.0
    with unit_for(params) as unit:
        got = from_bits(unit.run(operands, len(folds) * n).results["o"], format).astype(np.float64)
    o, m, l = (from_bits(operands[k], FP32).astype(np.float64) for k in "oml")  # noqa: E741
    o, m, l = o.reshape(-1, n * params.lanes), m[::n], l[::n]  # noqa: E741
    start = 0
    for fold, partials in enumerate(folds):
        part = slice(start, start + partials)
        weight = np.exp2(m[part] - m[part].max())
        total = (weight[:, None] * o[part]).sum(axis=0) / (weight * l[part]).sum()
        magnitude = (weight[:, None] * np.abs(o[part])).sum(axis=0) / (weight * l[part]).sum()
        error = np.abs(got[fold * n : (fold + 1) * n].ravel() - total)
        bound = np.abs(total) * 2.0**-format.precision + magnitude * 2 * (partials - 1) * 2.0**-14
        bound += magnitude * 2.0**-20 + 2.0 ** (format.emin - format.fraction_bits)
        assert (error <= bound).all()
        worst = max(worst, float((error / np.abs(total).max()).max()))
        start += partials
    print(f"{format}: largest error {worst:.2e} of the largest element")


@pytest.mark.parametrize("variant", VARIANTS)
def test_lint_is_silent(variant, tmp_path):
    source = tmp_path / "merge.v"
    source.write_text(component_verilog(Merge(params=VARIANTS[variant]), "merge"))
    assert lint_warnings(source, "merge") == []


def test_parameters_are_checked():
    for wrong in ({"lanes": 3}, {"head_dim": 30}, {"head_dim": 4}, {"format": FP32}, {"bits_per_cycle": 3}):
        with pytest.raises(ParameterError):
            MergeParams(**wrong)


def test_hardware_layout_is_the_contracts():
    params = MergeParams()
    assert layout_of(params.inputs).size == params.inputs.width
    assert layout_of(params.outputs).size == params.outputs.width
