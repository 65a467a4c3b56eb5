"""DPA programs: the golden model, the RTL and the timing model do the same, whatever the program."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

import dimmpim
from pimspec.params.presets import preset_named

from .conftest import timeless

HEADS = {"num_q_heads": 4, "num_kv_heads": 2}
COMPILED = dimmpim.attention_program(**HEADS)

ONE_HEAD = """
wr_inp queries, {queries}
loop segments {{
    softmax
    loop rows {{
        mac tree, {k} += {stride}
        rd_out scores
    }}
    loop rows {{
        wr_inp probs
        mac lane, {v} += {stride}
    }}
    rd_out sums
    merge {output}
}}
"""


def head(queries, k, v, output, stride=4):
    """Attention of one kv_head; numbers of entries and of virtual rows."""
    moves = f"movi x0, {queries}\nmovi x1, {output}\nmovi x3, {k}\nmovi x4, {v}\n"
    return moves + ONE_HEAD.format(queries="x0", k="x3", v="x4", output="x1", stride=stride)


PROGRAMS = {
    "compiled": COMPILED,
    "the second kv_head alone, into the first entries": head(2, 2, 3, 0) + "end",
    "kv_heads in another order, with a barrier": head(2, 2, 3, 0) + "barrier\n" + head(0, 0, 1, 2) + "end advance",
    "queries of one kv_head on K and V of the other": head(0, 2, 3, 0) + "end",
    "rows of V taken as K, and rows of K as V": head(0, 1, 0, 0) + head(2, 3, 2, 2) + "end",
    "the first block again and again": head(0, 0, 1, 0, stride=0) + "end",
    "an output that is overwritten": head(0, 0, 1, 0) + head(2, 2, 3, 0) + "end",
    "no attention at all": "loop 3 {\nnop\n}\nend",
}
FAULTS = {
    "ORDER": ("nop\nmac tree, x0\nend", 1, 0, "mac tree, x0"),
    "UNMAPPED": ("wr_inp queries, x0\nloop segments {\nsoftmax\nmovi x3, 9999\nmac tree, x3\n}\nend", 4, 9999, "mac"),
    "BAD_OPCODE": (".word 0x3f\nend", 0, 0, ".word 0x000000000000003f"),
    "BAD_ENTRY": ("movi x0, 6\nwr_inp queries, x0\nend", 1, 0, "wr_inp queries, x0"),
    "PC": ("nop", 1, 0, None),
}


def run(program, backend="golden", **options):
    return dimmpim.run_program(program, backend=backend, **{"tokens": 150, **HEADS, **options})


@pytest.mark.parametrize("normalise", [True, False], ids=["normalised", "o_partial"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_rtl_is_the_golden_model_in_every_bit(name, normalise):
    program = PROGRAMS[name]
    golden, rtl = (run(program, backend, normalise=normalise) for backend in ("golden", "rtl"))
    assert rtl.golden_mismatches == 0
    np.testing.assert_array_equal(rtl.entries, golden.entries)
    np.testing.assert_array_equal(rtl.output_bits, golden.output_bits)
    np.testing.assert_array_equal(rtl.statistics_bits, golden.statistics_bits)
    assert rtl.micro_ops == golden.micro_ops
    assert rtl.tokens_after == 150 + ("advance" in program)
    assert (rtl.clocks is None) == (len(rtl.entries) == 0)
    assert golden.clocks is None


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_timing_model_has_the_clocks_and_commands_of_rtl(name):
    rtl, timing = (run(PROGRAMS[name], backend, trace=True) for backend in ("rtl", "timing"))
    assert timing.output is None
    assert timing.micro_ops == rtl.micro_ops
    assert timing.commands == rtl.commands
    assert timing.clocks == rtl.clocks


def test_a_v_row_of_one_access_may_follow_itself():
    """130 tokens: the last row of the first segment, then a single access to the same row for the second one."""
    assert run(PROGRAMS["the first block again and again"], "rtl", tokens=130).golden_mismatches == 0


@pytest.mark.parametrize("seed", range(5))
def test_rtl_is_the_golden_model_wherever_a_program_reads(seed):
    """Random rows and strides, of which many hold nothing; NaN have the same bits."""
    rng, text = np.random.default_rng(seed), ""
    for _ in range(int(rng.integers(1, 4))):
        queries, output = (2 * int(n) for n in rng.integers(0, 2, 2))
        k, v, stride = (int(n) for n in (*rng.integers(0, 12, 2), rng.integers(1, 6)))
        text += head(queries, k, v, output, stride=stride)
    golden, rtl = (run(text + "end", backend, tokens=int(20 + 40 * seed)) for backend in ("golden", "rtl"))
    assert rtl.fault is dimmpim.Fault.NONE
    np.testing.assert_array_equal(rtl.output_bits, golden.output_bits)
    np.testing.assert_array_equal(rtl.statistics_bits, golden.statistics_bits)


def test_compiled_attention_is_attention():
    data = dimmpim.synthetic_qkv(**HEADS, head_dim=16, num_tokens=300, seed=5)
    ran = dimmpim.run_program(COMPILED, data=data, normalise=False)
    expected = dimmpim.attention(*data, preset="tiny")
    np.testing.assert_array_equal(ran.output.astype(np.float32), expected.output)
    np.testing.assert_array_equal(ran.statistics_bits.astype(np.uint32).view(np.float32), expected.statistics)
    np.testing.assert_array_equal(ran.relative_l2_error, expected.relative_l2_error)
    assert dimmpim.run_program(COMPILED, data=data).max_error < 1e-3


def test_layers_are_further_kv_heads():
    """Two layers of two kv_heads: what each layer gives alone, one after the other."""
    q, k, v = dimmpim.synthetic_qkv(num_q_heads=8, num_kv_heads=4, head_dim=16, num_tokens=90)
    both = dimmpim.run_program(dimmpim.attention_program(**HEADS, num_layers=2), data=(q, k, v))
    for layer in range(2):
        heads, kv = slice(4 * layer, 4 * layer + 4), slice(2 * layer, 2 * layer + 2)
        alone = dimmpim.run_program(COMPILED, data=(q[heads], k[kv], v[kv]))
        np.testing.assert_array_equal(both.output_bits[heads], alone.output_bits)


def test_words_are_as_good_as_text():
    words = dimmpim.assemble(COMPILED)
    np.testing.assert_array_equal(run(words).output_bits, run(COMPILED).output_bits)
    assert run(words).words == tuple(words)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_the_same_everywhere(fault):
    text, pc, row, instruction = FAULTS[fault]
    for backend in ("golden", "rtl", "timing"):
        ran = run(text, backend)
        assert (ran.fault.name, ran.fault_pc, ran.fault_row) == (fault, pc, row)
        assert (ran.micro_ops, ran.clocks, ran.tokens_after) == ((), None, 150)
        shown = ran.fault_instruction
        assert shown == instruction if instruction is None else shown.startswith(instruction)


def test_a_trace_holds_the_commands():
    traced = run(COMPILED, "timing", trace=True).commands
    assert {"PIM_MAC", "ACT", "PIM_RD_RB"} <= {command.command.name for command in traced}


def test_the_rank_is_that_of_the_preset():
    """Tests here share the build of the preset `tiny`."""
    assert dimmpim.preset("tiny").rank_for(dimmpim.AttentionShape(**HEADS, head_dim=16)) == preset_named("tiny").rank


# `dimmpim run`.

OPTIONS = ("--q-heads", "4", "--kv-heads", "2", "--tokens", "150")


@pytest.fixture
def files(tmp_path):
    words = dimmpim.assemble(COMPILED)
    (tmp_path / "p.s").write_text(COMPILED)
    (tmp_path / "p.bin").write_bytes(struct.pack(f"<{len(words)}Q", *words))
    (tmp_path / "p.hex").write_text("".join(f"{word:016x}\n" for word in words))
    (tmp_path / "wrong.s").write_text("nop\njump\n")
    (tmp_path / "fault.s").write_text(FAULTS["UNMAPPED"][0])
    (tmp_path / "odd.bin").write_bytes(b"\0\0\0")
    (tmp_path / "image").write_bytes(b"\xff\xfe\xfd")
    (tmp_path / "empty.s").write_text("; nothing\n")
    return tmp_path


@pytest.mark.parametrize("backend", ["golden", "rtl", "timing"])
def test_the_command_writes_what_the_api_gives(backend, files, command_json):
    own = timeless(run(COMPILED, backend).to_dict())
    for program in ("p.s", "p.bin", "p.hex"):
        assert command_json("run", program, *OPTIONS, "--backend", backend) == own


def test_the_command_prints_figures_and_micro_ops(files, command):
    status, printed, _ = command("run", "p.s", *OPTIONS, "--backend", "timing", "--micro-ops", "--trace-commands", "c")
    ran = run(COMPILED, "timing")
    assert status == 0
    assert f"{ran.clocks:,}" in printed
    lines = [line.split()[0] for line in printed.splitlines() if line.strip() and line.split()[0].isupper()]
    assert lines[: len(ran.micro_ops)] == [op.kind.name for op in ran.micro_ops]
    assert (files / "c").stat().st_size > 0


@pytest.mark.parametrize("backend", ["golden", "rtl", "timing"])
def test_a_fault_is_printed_and_ends_with_status_1(backend, files, command):
    status, printed, errors = command("run", "fault.s", *OPTIONS, "--backend", backend, "--json", "out.json")
    assert (status, errors) == (1, "")
    assert "UNMAPPED at word 4: mac tree, x3" in printed
    assert "9,999" in printed
    document = json.loads((files / "out.json").read_text())
    assert (document["fault"], document["fault_pc"], document["fault_row"]) == ("UNMAPPED", 4, 9999)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("wrong.s",), "wrong.s:2: unknown instruction 'jump'"),
        (("odd.bin",), "bytes of odd.bin must be a multiple of 8, not 3"),
        (("image",), "image is neither text nor words of 64 bits"),
        (("empty.s",), "words of the program must be 1..1024, not 0"),
        (("gone.s",), "gone.s"),
        (("/dev/zero",), "/dev/zero has more than 1,048,576 bytes"),
        (("p.s", "--kv-heads", "3"), "num_q_heads must be a multiple of num_kv_heads (3), not 8"),
        (("p.s", "--kv-heads", "64", "--q-heads", "64"), "places of queries must be at most 16"),
        (("p.s", "--tokens", "1048576"), "chunks"),
        (("p.s", "--kv", "x.npz", "--tokens", "3"), "--kv and --tokens exclude each other"),
        (("p.s", "--kv", "x.npz"), "--kv requires --layer and --step"),
        (("p.s", "--trace-commands", "c.csv"), "--trace-commands requires --backend rtl or timing"),
        (("p.s", "--threads", "2"), "--threads 2 requires --backend rtl"),
        (("p.s", "--preset", "ddr4-3200-x8-8gb-bf16"), "format of the preset must be fp16"),
        (("p.s", "--json", "nowhere/x"), "--json must be a file in a folder that exists"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(arguments, text, files, command):
    before = sorted(files.iterdir())
    status, _, errors = command("run", *arguments)
    assert status == 2
    assert text in errors
    assert len(errors.strip().splitlines()) == 1
    assert sorted(files.iterdir()) == before
