"""Assembler and disassembler of DPA programs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pimcompiler import assembler as isa_text
from pimcompiler.assembler import assemble, disassemble
from pimspec.errors import ParameterError
from pimspec.isa import Instruction, LoopKind, Opcode, pack_word

REGISTERS = st.integers(0, 7)
NUMBERS = st.integers(0, 2**32 - 1)


def _word(opcode, **operands):
    return pack_word(Instruction(opcode=opcode, operands=operands))


PLAIN = st.one_of(
    st.builds(lambda a: [_word(Opcode.END, advance=a)], st.integers(0, 1)),
    st.sampled_from([[_word(o)] for o in (Opcode.NOP, Opcode.SOFTMAX, Opcode.BARRIER)]),
    st.builds(lambda r, n: [_word(Opcode.MOVI, rd=r, imm=n)], REGISTERS, NUMBERS),
    st.builds(lambda r, s, n: [_word(Opcode.ADDI, rd=r, rs=s, imm=n)], REGISTERS, REGISTERS, NUMBERS),
    st.builds(lambda r, n: [_word(Opcode.WR_INP, rs=r, stride=n)], REGISTERS, NUMBERS),
    st.just([_word(Opcode.WR_INP, what=1)]),
    st.builds(lambda m, r, n: [_word(Opcode.MAC, mode=m, rs=r, stride=n)], st.integers(0, 1), REGISTERS, NUMBERS),
    st.builds(lambda w: [_word(Opcode.RD_OUT, what=w)], st.integers(0, 1)),
    st.builds(lambda r, n: [_word(Opcode.MERGE, rs=r, stride=n)], REGISTERS, NUMBERS),
)


def _loop(kind, count, parts):
    body = [word for part in parts for word in part]
    return [_word(Opcode.LOOP, kind=kind, count=count if kind == 0 else 0, length=len(body)), *body]


PARTS = st.recursive(
    PLAIN,
    lambda inner: st.builds(
        _loop, st.sampled_from(LoopKind), st.integers(0, 65535), st.lists(inner, min_size=1, max_size=4)
    ),
    max_leaves=20,
)


@given(st.lists(PARTS, max_size=8))
def test_programs_round_trip(parts):
    words = [word for part in parts for word in part]
    text = disassemble(words)
    assert ".word" not in text
    assert assemble(text) == words
    assert disassemble(assemble(text)) == text


@given(st.lists(st.integers(0, 2**64 - 1) | PLAIN.map(lambda part: part[0]) | st.integers(5, 2**36), max_size=12))
def test_any_words_round_trip(words):
    assert assemble(disassemble(words)) == words


def test_every_form_gives_its_word():
    text = """
        movi x1, -1        ; comment
        MOVI x1, 0x10      # comment
        addi x2, x1, -2
        loop 0 {
            nop
        }
        wr_inp queries, x3 += 4
        wr_inp queries,x3
        mac lane, x4 += -16
        merge x5
        .word 0xffffffffffffffff
        end
    """
    normal = disassemble(assemble(text))
    assert normal.splitlines() == [
        "movi x1, 4294967295",
        "movi x1, 16",
        "addi x2, x1, -2",
        "loop 0 {",
        "    nop",
        "}",
        "wr_inp queries, x3 += 4",
        "wr_inp queries, x3",
        "mac lane, x4 += -16",
        "merge x5",
        ".word 0xffffffffffffffff",
        "end",
    ]
    assert disassemble(assemble(normal)) == normal


def test_the_example_of_the_module_assembles():
    example = isa_text.__doc__.split("::\n")[1]
    words = assemble(example)
    assert len(words) == 14
    assert words[1] == _word(Opcode.LOOP, kind=0, count=8, length=11)


def test_loops_that_do_not_nest_become_words():
    outer = _word(Opcode.LOOP, count=2, length=2)
    words = [outer, _word(Opcode.LOOP, count=3, length=5), *[_word(Opcode.NOP)] * 6]
    text = disassemble(words)
    assert f".word {words[1]:#018x}" in text
    assert assemble(text) == words


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("nop\nfly", "p.s:2: unknown instruction 'fly'; allowed: addi, barrier"),
        ("nop x1", "p.s:1: nop: takes 0 operands, not 1"),
        ("movi x1", "p.s:1: movi: takes 2 operands, not 1"),
        ("movi x8, 1", "'x8' is not a register, x0 to x7"),
        ("movi x1, one", "'one' is not a number"),
        ("movi x1, 4294967296", "4294967296 does not fit 32 bits"),
        ("movi x1, -2147483649", "does not fit 32 bits"),
        ("mac side, x1", "'side' must be tree or lane"),
        ("mac tree, x1 += x2", "'x2' is not a number"),
        ("wr_inp", "takes queries and a register, or probs"),
        ("wr_inp probs, x1", "takes 1 operand, not 2"),
        ("end soon", "'soon' must be advance, or nothing"),
        ("loop 3", "loop must end with {"),
        ("loop many {", "'many' must be a count, segments or rows"),
        ("loop 65536 {\nnop\n}", "65536 does not fit 16 bits"),
        ("nop\n\nloop rows {\nnop", "p.s:3: loop without }"),
        ("}", "p.s:1: } without loop"),
        ("loop 2 {\n}", "p.s:2: the loop has 0 words"),
        ("loop 2 {\n" + "nop\n" * 4096 + "}", "the loop has 4096 words"),
        (".word -1", "-1 is negative"),
        (".word 0x10000000000000000", "does not fit 64 bits"),
    ],
)
def test_errors_give_the_line_and_the_reason(text, error):
    with pytest.raises(ParameterError) as caught:
        assemble(text, "p.s")
    assert error in str(caught.value)
    assert str(caught.value).startswith("p.s:")


def test_nesting_is_bounded_where_a_depth_is_given():
    def nested(depth):
        return "loop 2 {\n" * depth + "nop\n" + "}\n" * depth

    assert len(assemble(nested(40))) == 41
    assert len(assemble(nested(4), loop_depth=4)) == 5
    with pytest.raises(ParameterError, match=r"program:5: loops are nested more than 4 deep"):
        assemble(nested(5), loop_depth=4)
    two_in_turn = nested(4) * 2
    assert len(assemble(two_in_turn, loop_depth=4)) == 10
