"""A whole rank as one Verilog top under Icarus and Verilator: equal to the joined models, clock for clock."""

from __future__ import annotations

import numpy as np
import pytest

from dimmpim.ranks import open_rank
from pimhost.driver.decode_step import golden_step, run_step
from pimhost.kv_file import synthetic_step
from pimhw.pim_rank import rank_verilog
from pimsim.rank.recording import RankRecording
from pimsim.rank.replay import replay
from pimsim.tools import icarus_available
from pimspec.attention.shape import AttentionShape
from pimspec.golden.merge import normalise
from pimspec.params.presets import preset_named

TINY = preset_named("tiny").rank


@pytest.fixture(scope="module")
def recorded():
    """Recording: attention of two kv_heads, and a host that reads and writes its own rows before."""
    shape = AttentionShape(num_q_heads=4, num_kv_heads=2, head_dim=16)
    step = synthetic_step(shape, 37, 5)
    with open_rank(TINY) as sim:
        sim.port.recording = RankRecording()
        lines = [bytes(range(k, k + TINY.line_bytes)) for k in range(3)]
        sim.write_columns(1, 900, [0, 5, 7], lines, mask=0b110)
        sim.read_columns(1, 900, [0, 5, 7])
        run = run_step(sim, step)
        np.testing.assert_array_equal(run.output, normalise(golden_step(TINY, step), TINY.format))
        document = sim.port.recording.document(sim.port.issued, sim.clock, TINY.access_bytes)
    return document


@pytest.mark.parametrize(
    ("simulator", "waves"),
    [
        ("icarus", False),
        pytest.param("icarus", True, marks=pytest.mark.slow),
        pytest.param("verilator", False, marks=pytest.mark.slow),
    ],
)
def test_one_verilog_top_equals_the_joined_models(recorded, simulator, waves, tmp_path):
    if simulator == "icarus" and not icarus_available():
        pytest.skip("Icarus Verilog is not installed (iverilog, vvp)")
    outcome = replay(TINY, rank_verilog(TINY), recorded, simulator=simulator, folder=tmp_path, waves=waves)
    assert (outcome.num_tests, outcome.num_failures) == (1, 0), outcome.log.read_text()[-3000:]
    if waves:
        assert outcome.waveform is not None
        assert outcome.waveform.stat().st_size > 10_000
