"""Contract of Python and the C++ timing model."""

from __future__ import annotations

import ctypes

import pytest

from pimsim.timing.config import rank_config, rank_numbers
from pimsim.timing.contract import DPA_MEMBERS, HEADER, MEMBERS, config_struct, contract_header
from pimspec.errors import ParameterError
from pimspec.params.presets import preset_named

TINY = preset_named("tiny").rank
VALUES = rank_numbers(TINY.with_dpa())


def test_the_header_beside_the_model_is_the_one_it_is_compiled_with():
    assert HEADER.read_text() == contract_header(), "run `python -m pimsim.timing.contract`"


def test_the_header_has_the_codes_of_the_contract_and_no_line_is_too_long():
    lines = contract_header().splitlines()
    assert max(map(len, lines)) <= 120
    text = contract_header()
    for code in ("CMD_PIM_MAC = 19", "REFUSE_RESERVED = 11", "ISA_BARRIER = 11", "FAULT_TOKENS = 11", "LEVEL_BANK = 0"):
        assert f" {code}" in text


@pytest.mark.parametrize("name", ["banks", "slots", "rules", "isa_width", "request_tokens"])
def test_a_member_without_a_value_is_named(name):
    values = {key: value for key, value in VALUES.items() if key != name}
    with pytest.raises(ParameterError, match=rf"members of Config without a value must be none, not \['{name}'\]"):
        config_struct(values)


def test_a_value_without_a_member_is_named():
    with pytest.raises(ParameterError, match=r"values without a member of Config must be none, not \['bancs'\]"):
        config_struct(VALUES | {"bancs": 4})


def test_an_array_without_room_is_named():
    with pytest.raises(ParameterError, match="elements of rules must be at most 256, not 257"):
        config_struct(VALUES | {"rules": [(0, 0, 0, 0, 0)] * 257})


def test_each_member_holds_the_value_of_its_name():
    config = config_struct(VALUES)
    assert [name for name, _ in config._fields_] == list(MEMBERS)
    assert config.banks == TINY.num_banks
    assert (config.slots.first, config.slots.second) == VALUES["slots"]
    assert [tuple(rule) for rule in config.rules[: config.num_rules]] == VALUES["rules"]
    assert not any(any(rule) for rule in config.rules[config.num_rules :])
    assert list(config.isa_width) == list(VALUES["isa_width"])


def test_a_rank_without_a_dpa_controller_has_zeros_for_it():
    config = rank_config(TINY)
    for name in DPA_MEMBERS:
        offset, size = getattr(type(config), name).offset, getattr(type(config), name).size
        assert not any(ctypes.string_at(ctypes.addressof(config) + offset, size)), name
