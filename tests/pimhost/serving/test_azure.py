"""The whole Azure conversation trace, where it is available."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pimhost.models import shape_named
from pimhost.serving.figures import measure
from pimhost.serving.simulator import simulate
from pimhost.systems.l3 import L3
from pimhost.systems.node import DGX_A100
from pimhost.workloads.readers import read_trace

AZURE = Path(__file__).parents[4] / "shared" / "data" / "traces" / "azure2023_conv.csv.gz"


@pytest.mark.slow
@pytest.mark.skipif(not AZURE.exists(), reason="the trace is not part of the project")
def test_19366_requests_take_less_than_a_minute():
    begin = time.process_time()
    workload = read_trace(AZURE)
    system = L3(shape_named("Llama-3.1-70B"), DGX_A100)
    figures = measure([simulate(system, workload)], system.energy_model())
    assert time.process_time() - begin < 60
    assert (figures.requests, figures.finished, figures.refused) == (19_366, 19_366, 0)
    assert figures.output_tokens == workload.output_tokens.sum()
    assert figures.prefill_tokens == workload.prompt_tokens.sum()
