"""A whole rank as one Verilog top under Icarus and Verilator: the same as the joined models, clock for clock."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dimmpim.rank_run import golden_step, open_rank, run_step
from pimhost.kv_file import synthetic_step
from pimhw.pim_rank import rank_verilog
from pimsim.cocotb_run import run_bench
from pimsim.rank_simulator import RankRecording
from pimsim.tools import icarus_available
from pimspec.attention import AttentionShape
from pimspec.commands import COMMAND_BITS
from pimspec.golden.merge import normalise
from pimspec.presets import preset_named

TINY = preset_named("tiny").rank


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Attention of two kv_heads, and a host that reads and writes its own rows before."""
    folder = tmp_path_factory.mktemp("rank")
    shape = AttentionShape(num_q_heads=4, num_kv_heads=2, head_dim=16)
    step = synthetic_step(shape, 37, 5)
    with open_rank(TINY) as sim:
        sim.recording = RankRecording()
        lines = [bytes(range(k, k + TINY.line_bytes)) for k in range(3)]
        sim.write_columns(1, 900, [0, 5, 7], lines, mask=0b110)
        sim.read_columns(1, 900, [0, 5, 7])
        run = run_step(sim, step)
        np.testing.assert_array_equal(run.output, normalise(golden_step(TINY, step), TINY.format))
        document = sim.recording.document(sim.issued, sim.clock, TINY.access_bytes)
    (folder / "recording.json").write_text(json.dumps(document))
    (folder / "pim_rank.v").write_text(rank_verilog(TINY))
    return folder


@pytest.mark.parametrize("simulator", ["icarus", pytest.param("verilator", marks=pytest.mark.slow)])
def test_one_top_is_the_same(recorded, simulator):
    if simulator == "icarus" and not icarus_available():
        pytest.skip("Icarus Verilog is not installed (iverilog, vvp)")
    org = TINY.organization
    bank_bits, column_bits = (n.bit_length() - 1 for n in (TINY.num_banks, org.column_accesses_per_row))
    outcome = run_bench(
        simulator=simulator,
        sources=[recorded / "pim_rank.v"],
        top="pim_rank",
        bench="pimsim.benches.rank_bench",
        folder=recorded / simulator,
        environment={
            "DIMMPIM_RECORDING": str(recorded / "recording.json"),
            "DIMMPIM_CHIPS": str(TINY.num_chips),
            "DIMMPIM_BANKS": str(TINY.num_banks),
            "DIMMPIM_WRITE_CLOCKS": str(TINY.chip.write_clocks),
            "DIMMPIM_HOST_WIDTHS": json.dumps([COMMAND_BITS, bank_bits, org.row_bits, column_bits]),
        },
    )
    assert (outcome.num_tests, outcome.num_failures) == (1, 0), outcome.log.read_text()[-3000:]
