"""Synthetic workloads and workload summaries."""

from __future__ import annotations

import numpy as np
import pytest

from pimhost.workloads.lengths import LENGTHS, LengthMoments, draw_lengths, synthetic_workload
from pimhost.workloads.summary import csv_text, summarize
from pimhost.workloads.workload import Workload, with_arrival_rate
from pimspec.errors import ParameterError, UnknownNameError


def _workload(**changes):
    columns = {"arrival_ns": [0, 5, 5], "prompt_tokens": [1, 2, 3], "output_tokens": [4, 5, 6]}
    return Workload.of("w", "here", synthetic=True, **(columns | changes))


@pytest.mark.parametrize("name", LENGTHS)
def test_lengths_have_the_published_moments(name):
    lengths = LENGTHS[name]
    for moments in (lengths.prompt, lengths.output):
        drawn = draw_lengths(moments, 400_000, np.random.default_rng(2))
        assert drawn.dtype == np.int64
        assert drawn.min() >= 1
        assert drawn.mean() == pytest.approx(moments.mean, rel=0.02)
        # With the mean, the median fixes a lognormal; the deviation of a sample is too uncertain where it is large.
        spread = moments.std / moments.mean
        assert np.median(drawn) == pytest.approx(moments.mean / np.sqrt(1 + spread**2), rel=0.02)
        if spread < 1.5:
            assert drawn.std() == pytest.approx(moments.std, rel=0.05)


def test_no_deviation_means_one_length():
    assert set(draw_lengths(LengthMoments(mean=128, std=0), 50, np.random.default_rng(1))) == {128}
    with pytest.raises(ParameterError, match="mean must be"):
        LengthMoments(mean=float("nan"), std=1)
    with pytest.raises(ParameterError, match="std must be"):
        LengthMoments(mean=5, std=-1)


def test_the_same_seed_gives_the_same_bytes():
    first, second, other = (
        csv_text(with_arrival_rate(synthetic_workload("dolphin-r1", 200, rng), 3.0, rng))
        for rng in map(np.random.default_rng, (7, 7, 8))
    )
    assert first == second != other
    assert first.startswith("# synthetic: synthetic lognormal lengths")


def test_names_of_length_sets():
    with pytest.raises(UnknownNameError, match="did you mean 'OpenR1'"):
        synthetic_workload("OpenR2", 1, np.random.default_rng(1))
    with pytest.raises(ParameterError, match="count"):
        synthetic_workload("OpenR1", 0, np.random.default_rng(1))


def test_poisson_arrivals():
    drawn = with_arrival_rate(
        synthetic_workload("OpenR1", 20_000, np.random.default_rng(1)), 4.0, np.random.default_rng(2)
    )
    gaps = np.diff(drawn.arrival_ns)
    assert gaps.min() >= 0
    assert gaps.mean() == pytest.approx(0.25e9, rel=0.03)
    assert gaps.std() == pytest.approx(0.25e9, rel=0.03)
    assert summarize(drawn).requests_per_s == pytest.approx(4.0, rel=0.03)
    assert drawn.synthetic
    for rate in (0.0, -1.0, float("nan"), float("inf"), 1e-300):
        with pytest.raises(ParameterError, match="requests_per_s"):
            with_arrival_rate(drawn, rate, np.random.default_rng(1))


def test_summary():
    summary = summarize(_workload())
    assert (summary.requests, summary.duration_s, summary.requests_per_s) == (3, 5e-9, pytest.approx(4e8))
    assert (summary.prompt.mean, summary.prompt.p50, summary.prompt.p99, summary.prompt.total) == (2.0, 2, 3, 6)
    assert (summary.output.greatest, summary.both.total) == (6, 21)
    assert summarize(_workload(arrival_ns=[0, 0, 0])).requests_per_s is None


@pytest.mark.parametrize(
    "changes",
    [
        {"arrival_ns": [0, 5]},
        {"arrival_ns": [0, 5, 4]},
        {"arrival_ns": [-1, 0, 0]},
        {"prompt_tokens": [1, 0, 3]},
        {"output_tokens": [1, 2, 1 << 32]},
        {"arrival_ns": [], "prompt_tokens": [], "output_tokens": []},
    ],
)
def test_impossible_workloads_are_refused(changes):
    with pytest.raises(ParameterError):
        _workload(**changes)


def test_a_workload_does_not_change():
    workload = _workload()
    with pytest.raises(ValueError, match="read-only"):
        workload.prompt_tokens[0] = 9
    assert len(workload.first(2)) == 2
    assert len(workload.first(9)) == 3
