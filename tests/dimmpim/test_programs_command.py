"""`dimmpim asm`, `disasm`, `isa` and `capacity` as a user meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pimcompiler.assembler import assemble, disassemble
from pimcompiler.attention import compile_attention
from pimspec.attention.shape import AttentionShape
from pimspec.isa_docs import c_header, markdown
from pimspec.params.presets import preset_named

SOURCE = """\
movi x1, 3   ; a comment
loop 2 {
    addi x1, x1, -1
}
end advance
"""


def dimmpim(*arguments, cwd):
    command = [sys.executable, "-c", "from dimmpim.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_text_to_words_and_back(tmp_path):
    (tmp_path / "p.s").write_text(SOURCE)
    done = dimmpim("asm", "p.s", "--out", "p.bin", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    content = (tmp_path / "p.bin").read_bytes()
    words = [int.from_bytes(content[n : n + 8], "little") for n in range(0, len(content), 8)]
    assert words == assemble(SOURCE)
    shown = dimmpim("disasm", "p.bin", cwd=tmp_path)
    assert shown.stdout == disassemble(words) == SOURCE.replace("   ; a comment", "")
    dimmpim("disasm", "p.bin", "--out", "again.s", cwd=tmp_path)
    assert (tmp_path / "again.s").read_text() == shown.stdout


def test_hexadecimal(tmp_path):
    (tmp_path / "p.s").write_text(SOURCE)
    printed = dimmpim("asm", "p.s", cwd=tmp_path)
    assert [int(line, 16) for line in printed.stdout.split()] == assemble(SOURCE)
    dimmpim("asm", "p.s", "--hex", "--out", "p.hex", cwd=tmp_path)
    assert (tmp_path / "p.hex").read_text() == printed.stdout


def test_compile(tmp_path):
    arguments = ("--q-heads", "4", "--kv-heads", "2", "--head-dim", "16", "--preset", "tiny", "--num-layers", "2")
    shown = dimmpim("compile", *arguments, cwd=tmp_path)
    shape = AttentionShape(num_q_heads=4, num_kv_heads=2, head_dim=16)
    params = preset_named("tiny").rank.for_shape(shape).with_dpa()
    assert tuple(assemble(shown.stdout)) == compile_attention(params, shape, num_layers=2).words
    dimmpim("compile", *arguments, "--layer", "1", "--out", "p.s", cwd=tmp_path)
    assert len(assemble((tmp_path / "p.s").read_text())) < len(assemble(shown.stdout))


def test_instruction_set(tmp_path):
    assert dimmpim("isa", cwd=tmp_path).stdout == markdown()
    dimmpim("isa", "--c-header", "--out", "isa.h", cwd=tmp_path)
    assert (tmp_path / "isa.h").read_text() == c_header()
    docs = Path(__file__).parents[2] / "docs"
    assert (docs / "isa.md").read_text() == markdown(), "run `dimmpim isa --out docs/isa.md`"
    assert (docs / "dimmpim_isa.h").read_text() == c_header(), "run `dimmpim isa --c-header --out docs/dimmpim_isa.h`"


def test_capacity(tmp_path):
    done = dimmpim("capacity", "--trials", "1", "--kv-heads", "32", "--json", "out.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["lengths"].startswith("synthetic")
    assert len(document["points"]) == 4
    assert document["average"]["lazy"] >= 0.75 > document["average"]["static"]
    assert f"{document['average']['lazy']:.3f}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("asm", "bad.s"), "bad.s:2: unknown instruction 'jump'"),
        (("asm", "empty.s"), "empty.s has no instruction"),
        (("asm", "odd.bin"), "odd.bin is not a text file"),
        (("asm", "gone.s"), "No such file or directory: gone.s"),
        (("disasm", "odd.bin"), "size of odd.bin must be a multiple of 8, not '3 bytes'"),
        (("compile", "--kv-heads", "300", "--q-heads", "300"), "entries of queries must be at most 64"),
        (("compile", "--q-heads", "3", "--kv-heads", "2"), "num_q_heads"),
        (("compile", "--layer", "1"), "a layer must be 0..0, not 1"),
        (("capacity", "--preset", "huge"), "unknown preset 'huge'"),
        (("capacity", "--trials", "0"), "'--trials': 0 is not in the range 1<=x<=10000"),
        (("capacity", "--context", "5"), "context must be at least 30456"),
        (("capacity", "--seed", "-1"), "'--seed': -1 is not in the range 0<=x<="),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, text, tmp_path):
    (tmp_path / "bad.s").write_text("nop\njump 3\n")
    (tmp_path / "empty.s").write_text("; nothing\n")
    (tmp_path / "odd.bin").write_bytes(b"\xff\xfe\xfd")
    out = () if arguments[0] == "capacity" else ("--out", "out")
    done = dimmpim(*arguments, *out, cwd=tmp_path)
    assert done.returncode == 2
    assert text in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
