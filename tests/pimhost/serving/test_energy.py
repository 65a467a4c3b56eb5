"""Energy of runs, worked out by hand; no part is lost, added or guessed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from pimhost.gpu.power import GPU_POWER, attention_work, dense_work, head_work
from pimhost.models import shape_named
from pimhost.serving.energy import measure_energy
from pimhost.serving.memory import InvariantError
from pimhost.serving.replicas import serve
from pimhost.serving.simulator import simulate
from pimhost.systems.gpu_only import GpuOnly
from pimhost.systems.hbm_pim import HbmPim, HbmPimExtended
from pimhost.systems.l3 import L3
from pimhost.systems.memory_energy import MemoryEnergy, pim_memory
from pimhost.systems.node import DGX_A100
from pimhost.systems.registry import SYSTEMS
from pimhost.workloads.lengths import synthetic_workload
from pimhost.workloads.workload import Workload

LLAMA = shape_named("Llama-3.1-70B")
A100 = GPU_POWER["A100"]
ALL_KNOWN = [name for name in SYSTEMS if name != "HBM-PIM-EXT"]


def requests(*rows):
    """A workload of (arrival_ns, prompt_tokens, output_tokens)."""
    arrival, prompt, output = zip(*rows, strict=True)
    return Workload.of("rows", "", synthetic=True, arrival_ns=arrival, prompt_tokens=prompt, output_tokens=output)


def energy_of(system, work, shape=LLAMA, node=DGX_A100):
    figures, outcomes = serve(SYSTEMS.get(system, system), shape, node, work)
    return figures.energy, outcomes


def test_gpu_energy_equals_a_count_by_hand():
    """A prompt of 100 tokens, two decode steps after it, then idle time until a second request at 2 s."""
    energy, (outcome,) = energy_of("GPU", requests((0, 100, 3), (2 * 10**9, 1, 1)))
    cost = GpuOnly(LLAMA, DGX_A100).cost
    prompts = [(n, dense_work(cost, n) + attention_work(cost, n, n * (n + 1) / 2, float(n))) for n in (100, 1)]
    decodes = [dense_work(cost, 1) + attention_work(cost, 1, float(n), float(n)) for n in (101, 102)]
    flop, num_bytes = 0.0, 0.0
    for work in (*(w for _, w in prompts), *decodes):
        whole = work.times(80) + head_work(cost, 1)
        flop, num_bytes = flop + whole.flop, num_bytes + whole.num_bytes
    parts = energy.parts_j
    assert parts.gpu_arithmetic == pytest.approx(8 * flop * 1.405e-12, rel=1e-6)
    assert parts.gpu_memory == pytest.approx(8 * num_bytes * 145.7e-12, rel=1e-6)
    assert parts.gpu_static == pytest.approx(8 * 114.5 * outcome.gpu_ns / 1e9)
    assert parts.gpu_idle == pytest.approx(8 * 114.5 * (outcome.end_ns - outcome.gpu_ns) / 1e9)
    assert parts.gpu_idle > 8 * 114.5 * 1.9
    assert [parts.values[name] for name in ("attention", "writes", "standby", "refresh", "channel", "link", "cpu")] == [
        0
    ] * 7
    assert energy.total_j == pytest.approx(math.fsum(v for v in parts.values.values() if v))
    assert energy.j_per_output_token == pytest.approx(energy.total_j / 4)
    assert energy.mean_w == pytest.approx(energy.total_j / (outcome.end_ns / 1e9))


def test_pim_energy_equals_a_count_by_hand():
    """8 kv_heads in 80 layers attend to 1,001 and 1,002 tokens; 1,002 tokens are written."""
    energy, (outcome,) = energy_of("L3", requests((0, 1000, 3)))
    parts, kv = energy.parts_j, LLAMA.kv_bytes_per_token()
    lines = 8 * 80 * 2 * 48_940 + 2003 * kv * 0.09492
    attention = 8 * 80 * 2 * 5150e-9 + 2003 * kv * 17.44e-12 + lines * 44e-12
    assert parts.attention == pytest.approx(attention, rel=1e-9)
    assert parts.writes == pytest.approx(1002 * kv * ((150 - 52) * 1.2 * 2.5 / 8 + 44) * 1e-12, rel=1e-9)
    assert parts.channel == pytest.approx(outcome.link_bytes * 44e-12)
    assert parts.link == pytest.approx(outcome.link_bytes * 8 * 167.9e-12)
    seconds, chips = outcome.end_ns / 1e9, 64 * 8
    opened = chips * 15 * 1.2e-3 * outcome.pim_mean_ns / 1e9
    assert parts.standby == pytest.approx(chips * 37 * 1.2e-3 * seconds + opened, rel=1e-9)
    assert parts.refresh == pytest.approx(chips * (250 - 37) * 1.2e-3 * 350 / 7800 * seconds, rel=1e-9)
    assert parts.cpu == 0


def test_a_cpu_and_a_rank_read_over_the_pins():
    work = requests((0, 1000, 3))
    for system in ("CPU", "R-PIM"):
        energy, (outcome,) = energy_of(system, work)
        read = (525 / 1024 + 348 / 8 + 44) * 1e-12
        assert energy.parts_j.attention == pytest.approx(outcome.kv_read_bytes * read, rel=1e-3)
        assert energy.parts_j.cpu == pytest.approx(2 * 225 * outcome.pim_ns / 1e9 if system == "CPU" else 0)


def test_more_queries_than_a_rank_has_lanes_for_take_passes():
    four, seven, eight, nine = (pim_memory(DGX_A100, queries) for queries in (4, 7, 8, 9))
    assert four.read_pj_per_byte < seven.read_pj_per_byte == eight.read_pj_per_byte
    assert nine.read_pj_per_byte == 2 * eight.read_pj_per_byte
    assert nine.head_nj == 2 * eight.head_nj
    assert eight == L3(LLAMA, DGX_A100).memory_energy()


@pytest.mark.parametrize("name", ALL_KNOWN)
def test_energy_adds_up(name):
    work = synthetic_workload("OpenThoughts", 12, np.random.default_rng(3))
    energy, outcomes = energy_of(name, work, node=replace(DGX_A100, tp_size=4, dp_size=2))
    values = energy.parts_j.values
    assert energy.missing == ()
    assert energy.total_j == pytest.approx(math.fsum(values.values()), rel=1e-12)
    end_ns = max(o.end_ns for o in outcomes)
    gpus = math.fsum(values[part] for part in ("gpu_idle", "gpu_static", "gpu_arithmetic", "gpu_memory"))
    least, most = (8 * watts * end_ns / 1e9 for watts in (A100.static_w, 400))
    assert least < gpus < most
    assert values["gpu_idle"] + values["gpu_static"] == pytest.approx(least)
    assert (values["attention"] == 0) == (name == "GPU")
    again, _ = energy_of(name, work, node=replace(DGX_A100, tp_size=4, dp_size=2))
    assert again == energy


def test_reading_is_cheapest_at_the_bank_and_dearest_over_the_pins():
    work = synthetic_workload("OpenThoughts", 6, np.random.default_rng(3))
    attention = {name: energy_of(name, work)[0].parts_j.attention for name in ("HBM-PIM", "L3", "R-PIM")}
    assert attention["HBM-PIM"] < attention["L3"] < attention["R-PIM"]


@pytest.mark.parametrize(
    ("system", "node", "parts", "reason"),
    [
        (
            "GPU",
            {"gpu": "H100"},
            ("gpu_idle", "gpu_static", "gpu_arithmetic", "gpu_memory"),
            "no measured power of H100",
        ),
        ("L3", {"gpu": "H100"}, ("gpu_idle", "gpu_static", "gpu_arithmetic", "gpu_memory", "link"), "PCIe 5.0 x16"),
        (
            "L3",
            {"preset": "ddr4-3200-x8-16gb"},
            ("attention", "writes", "standby", "refresh"),
            "no documented supply currents of ddr4-3200-x8-16gb",
        ),
        ("HBM-PIM-EXT", {}, ("standby", "refresh"), "no documented standby of HBM modules"),
    ],
)
def test_what_has_no_source_has_no_number(system, node, parts, reason):
    energy, _ = energy_of(system, requests((0, 50, 2)), node=replace(DGX_A100, **node))
    assert tuple(name for name, value in energy.parts_j.values.items() if value is None) == parts
    assert (energy.total_j, energy.j_per_output_token, energy.mean_w) == (None, None, None)
    assert any(reason in why for why in energy.missing)


def test_a_user_system_has_no_memory_energy_until_it_states_one():
    class Silent(HbmPimExtended):
        memory_energy = HbmPim.__mro__[2].memory_energy  # that of ServingSystem

    energy, _ = energy_of(Silent, requests((0, 50, 2)))
    assert energy.total_j is None
    assert energy.missing == ("HBM-PIM-EXT does not say what its memory takes",)

    class Known(HbmPimExtended):
        def memory_energy(self):
            return MemoryEnergy(standby_w=100.0)

    energy, (outcome,) = energy_of(Known, requests((0, 50, 2)))
    assert energy.parts_j.standby == pytest.approx(100 * outcome.end_ns / 1e9)


def test_a_run_without_output_takes_no_energy():
    energy, _ = energy_of("GPU", requests((0, 10**8, 2)))
    assert (energy.total_j, energy.j_per_output_token, energy.mean_w) == (0, None, None)


def test_energy_that_is_lost_is_noticed():
    system = GpuOnly(LLAMA, DGX_A100)
    outcome = simulate(system, requests((0, 100, 3)))
    outcome.gpu_memory_nj += 10**9
    with pytest.raises(InvariantError, match="energy of the GPUs lost or found"):
        measure_energy([outcome], system.energy_model())
    outcome.gpu_ns = outcome.end_ns + 1
    with pytest.raises(InvariantError, match="works for longer than the run"):
        measure_energy([outcome], system.energy_model())
