"""Parameters: refusals and their texts, presets, sidecars."""

from __future__ import annotations

import pickle

import pytest

from pimspec.dram.organization import dram_preset
from pimspec.errors import ParameterError, UnknownNameError, UnsupportedFormatError
from pimspec.formats import BF16, FP16, FP32, format_named
from pimspec.params.arith import DotParams, Exp2Params, FpAddParams, FpMulParams, FpNarrowParams, ReciprocalParams
from pimspec.params.presets import PRESETS, preset_named
from pimspec.sidecar import params_from_sidecar, unit_sidecar


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: DotParams(lanes=0), ParameterError, r"lanes must be a power of two in 1\.\.64, not 0"),
        (lambda: DotParams(lanes=3), ParameterError, "not 3"),
        (lambda: DotParams(format=FP32), UnsupportedFormatError, "one of fp16, bf16, not fp32"),
        (
            lambda: DotParams(add_depth=2, interval=1),
            ParameterError,
            r"interval must be add_depth\.\.16 = 2\.\.16, not 1",
        ),
        (lambda: DotParams(mul_depth=9), ParameterError, r"depth must be 1\.\.3, not 9"),
        (lambda: FpMulParams(depth=0), ParameterError, r"depth must be 1\.\.3, not 0"),
        (lambda: FpMulParams(format=BF16, depth=5), ParameterError, r"depth must be 1\.\.4, not 5"),
        (lambda: FpAddParams(depth=6), ParameterError, r"depth must be 1\.\.5, not 6"),
        (lambda: FpNarrowParams(format=FP32), UnsupportedFormatError, "one of fp16, bf16, not fp32"),
        (lambda: Exp2Params(depth=-1), ParameterError, "not -1"),
        (lambda: ReciprocalParams(bits_per_cycle=3), ParameterError, "1, 2 or 4, not 3"),
        (lambda: format_named("fp8"), UnknownNameError, "unknown format 'fp8'.*allowed: bf16, fp16, fp32"),
        (lambda: preset_named("tinny"), UnknownNameError, r"unknown preset 'tinny' \(did you mean 'tiny'\?\)"),
        (lambda: preset_named("tiny").unit("dto"), UnknownNameError, "unknown unit of preset tiny 'dto'"),
    ],
)
def test_bad_parameters_are_refused(make, error, text):
    with pytest.raises(error, match=text):
        make()


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda p: p.name)
def test_presets_stand_on_a_dram_part_and_match_its_column(preset):
    part = dram_preset(preset.dram)
    dot = preset.unit("dot")
    if preset.name != "tiny":
        assert dot.lanes * 2 == part.organization.column_access_bytes
        assert dot.interval * preset.rank.ck_per_clock >= part.timing.nCCD_L
        assert (dot.interval - 1) * preset.rank.ck_per_clock < part.timing.nCCD_L
    assert dot.format is preset.format in (FP16, BF16)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda p: p.name)
def test_sidecars_lead_back_to_the_parameters(preset):
    for name, params in preset.units.items():
        assert params_from_sidecar(unit_sidecar(params, name)) == params


def test_presets_cannot_be_changed():
    with pytest.raises(TypeError):
        PRESETS["tiny"].units["dot"] = None


def test_a_sidecar_of_another_version_is_refused():
    sidecar = unit_sidecar(FpAddParams(), "x") | {"sidecar_version": 99}
    with pytest.raises(ParameterError, match="sidecar_version must be 1, not 99"):
        params_from_sidecar(sidecar)


@pytest.mark.parametrize("name", PRESETS)
def test_a_rank_with_its_derived_numbers_can_be_pickled(name):
    rank = PRESETS[name].rank.with_dpa()
    assert rank.chip.read_clocks > 0
    assert rank.engine.constraints
    copy = pickle.loads(pickle.dumps(rank))
    assert copy == rank
    assert copy.dpa == rank.dpa
