"""Instruction words, their tables, and the files generated from them."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pimspec.errors import ParameterError
from pimspec.golden.dot import MODE_LANE, MODE_TREE
from pimspec.isa import (
    INSTRUCTIONS,
    Fault,
    Instruction,
    MacMode,
    MicroKind,
    MicroOp,
    Opcode,
    pack_word,
    split_word,
    unpack_word,
)
from pimspec.isa_docs import c_header, markdown
from pimspec.params.dpa import ConfigOp
from pimspec.params.presets import PRESETS

DDR4 = PRESETS["ddr4-3200-x8-8gb"].rank.with_dpa().require_dpa()


@st.composite
def instructions(draw):
    opcode = draw(st.sampled_from(Opcode))
    operands = {f.name: draw(st.integers(0, (1 << f.width) - 1)) for f in INSTRUCTIONS[opcode].operands}
    if opcode is Opcode.LOOP and operands["kind"] != 0:
        operands["count"] = 0
    if opcode is Opcode.WR_INP and operands["what"] == 1:
        operands["rs"] = operands["stride"] = 0
    return Instruction(opcode=opcode, operands=operands)


@given(instructions())
def test_words_round_trip_and_are_laid_out_as_the_table_says(instruction):
    word = pack_word(instruction)
    assert unpack_word(word) == instruction
    table = DDR4.instructions[instruction.opcode]
    packed = table.pack({"opcode": instruction.opcode, **instruction.operands})
    assert int.from_bytes(packed.astype("<u4").tobytes(), "little") == word


@pytest.mark.parametrize(
    ("opcode", "operands", "word"),
    [
        (Opcode.END, {"advance": 1}, 1 | 1 << 6),
        (Opcode.NOP, {}, 2),
        (Opcode.MOVI, {"rd": 5, "imm": 0xDEADBEEF}, 3 | 5 << 6 | 0xDEADBEEF << 9),
        (Opcode.ADDI, {"rd": 1, "rs": 2, "imm": 3}, 4 | 1 << 6 | 2 << 9 | 3 << 12),
        (Opcode.LOOP, {"kind": 0, "count": 9, "length": 4}, 5 | 9 << 8 | 4 << 24),
        (Opcode.WR_INP, {"what": 0, "rs": 3, "stride": 8}, 6 | 3 << 7 | 8 << 10),
        (Opcode.SOFTMAX, {}, 7),
        (Opcode.MAC, {"mode": 1, "rs": 4, "stride": 16}, 8 | 1 << 6 | 4 << 7 | 16 << 10),
        (Opcode.RD_OUT, {"what": 1}, 9 | 1 << 6),
        (Opcode.MERGE, {"rs": 1, "stride": 2}, 10 | 1 << 6 | 2 << 9),
        (Opcode.BARRIER, {}, 11),
    ],
)
def test_words_equal_those_by_hand(opcode, operands, word):
    assert pack_word(Instruction(opcode=opcode, operands=operands)) == word


@pytest.mark.parametrize(
    ("word", "text"),
    [
        (0, "has no opcode: 0 is none"),
        (12, "has no opcode: 12 is none"),
        (2 | 1 << 63, "has bits set that NOP does not use"),
        (5 | 1 << 6 | 1 << 8, "has bits set that LOOP does not use"),
        (6 | 1 << 6 | 1 << 7, "has bits set that WR_INP does not use"),
        (1 << 64, "of 64 bits"),
    ],
)
def test_words_that_are_no_instruction_are_refused(word, text):
    with pytest.raises(ParameterError, match=text):
        unpack_word(word)


@given(st.integers(0, 2**64 - 1))
def test_any_word_can_be_split(word):
    parts = split_word(word)
    assert (parts is None) == (word % 64 not in range(1, 12))
    if parts and parts.clean:
        assert pack_word(Instruction(opcode=parts.opcode, operands=parts.operands)) == word


def test_bad_operands_are_refused():
    with pytest.raises(ParameterError, match="rd of MOVI must be 3 bits wide, not 8"):
        Instruction(opcode=Opcode.MOVI, operands={"rd": 8})
    with pytest.raises(ParameterError, match="operand of NOP"):
        Instruction(opcode=Opcode.NOP, operands={"rd": 0})
    with pytest.raises(ParameterError, match="0 where this form does not use them"):
        Instruction(opcode=Opcode.LOOP, operands={"kind": 2, "count": 1})


def test_modes_are_those_of_the_dot_product_unit():
    assert (MacMode.TREE, MacMode.LANE) == (MODE_TREE, MODE_LANE)


@pytest.mark.parametrize("name", PRESETS)
def test_field_widths_and_table_sizes_suffice(name):
    p = PRESETS[name].rank.with_dpa().require_dpa()
    assert {f.name for f in p.micro_op.fields} == {f.name for f in dataclasses.fields(MicroOp)}
    assert max(MicroKind) < 16
    assert max(ConfigOp) < 16
    assert max(Fault) < 16
    assert p.config.width == 4 + p.slot_bits + p.config_index_bits + 64
    assert p.num_chunks * p.chunk_rows <= PRESETS[name].rank.organization.rows
    assert p.leaves & (p.leaves - 1) == 0
    assert p.leaves >= p.num_slots + p.num_chunks / p.leaf_entries


def test_the_numbers_of_ddr4():
    p = DDR4
    assert (p.row_step_bytes, p.chunk_rows, p.row_step_tokens) == (128 << 10, 8, 512)
    assert (p.vrow_bits, p.leaves, p.request.width, p.max_tokens) == (16, 256, 64, (1 << 24) - 1)
    assert replace(p, chunk_bytes=4096).chunk_rows == 1
    assert replace(p, num_leaves=7).leaves == 7


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"program_words": 100}, "program_words must be a power of two, not 100"),
        ({"chunk_bytes": 3000}, "chunk_bytes must be a power of two"),
        ({"num_registers": 9}, r"num_registers must be 1\.\.8, not 9"),
        ({"num_slots": 0}, "num_slots must be"),
        ({"loop_depth": 0}, "loop_depth must be"),
        ({"chunk_bytes": 1 << 40}, "num_chunks must be 1 or more"),
        ({"watchdog": 0}, "watchdog must be"),
        ({"directory_entries": 1 << 30}, "bits of a virtual row must be at most 32"),
        ({"queries": 256}, "bits of a request must be at most 64"),
    ],
)
def test_bad_parameters_are_refused(changes, text):
    with pytest.raises(ParameterError, match=text):
        replace(DDR4, **changes)


def test_markdown_names_everything():
    text = markdown()
    for opcode, spec in INSTRUCTIONS.items():
        assert f"| {opcode.value} | {opcode.name} |" in text
        assert spec.summary in text
        assert spec.pseudo_code in text
    for fault in Fault:
        assert f"| {fault.value} | {fault.name} |" in text
    assert ":attr:" not in text
    assert "| 4 | RESERVED | Bits that are not operands" in text


def test_c_header_makes_the_same_words(tmp_path):
    text = c_header()
    constants = {name: int(value.rstrip("u"), 0) for name, value in re.findall(r"#define (\w+) (\w+)\n", text)}
    operands = {"rd": 1, "rs": 7, "imm": 0x12345678}
    word = constants["DIMMPIM_OP_ADDI"]
    for name, value in operands.items():
        assert constants[f"DIMMPIM_ADDI_{name.upper()}_MASK"] >= value
        word |= value << constants[f"DIMMPIM_ADDI_{name.upper()}_SHIFT"]
    assert word == pack_word(Instruction(opcode=Opcode.ADDI, operands=operands))
    assert constants["DIMMPIM_FAULT_PERMISSION"] == Fault.PERMISSION
    assert constants["DIMMPIM_LOOP_KIND_ROWS"] == 2
    if compiler := shutil.which("cc"):
        header = tmp_path / "isa.h"
        header.write_text(text)
        command = [compiler, "-std=c99", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-x", "c", header]
        subprocess.run(command, check=True)
