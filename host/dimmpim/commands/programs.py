"""`dimmpim compile`, `asm`, `disasm` and `isa`: DPA programs as text and as words."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import click

from dimmpim.outputs import STDOUT, write_output
from pimcompiler.assembler import assemble, disassemble
from pimcompiler.attention import compile_attention
from pimspec.attention.shape import AttentionShape
from pimspec.errors import ParameterError, require
from pimspec.files import read_bytes, read_text
from pimspec.isa_docs import c_header, markdown
from pimspec.params.dpa import DpaSizes
from pimspec.params.presets import preset_named

from .options import HEADS, head_dim_option, kv_heads_option, out_option, preset_option
from .parameters import InputFile, command

MOST_PROGRAM_BYTES = 1 << 20
MOST_LAYERS = 1024
_SOURCE = click.argument("source", type=InputFile(), metavar="FILE")


def _hex(words: Sequence[int]) -> str:
    return "".join(f"{word:016x}\n" for word in words)


@command("compile")
@preset_option("ddr4-3200-x8-8gb")
@click.option("--q-heads", type=HEADS, default=8, show_default=True, help="Number of q_heads of a layer in this rank.")
@kv_heads_option("Number of kv_heads of a layer in this rank.")
@head_dim_option
@click.option(
    "--num-layers",
    type=click.IntRange(1, MOST_LAYERS),
    default=1,
    show_default=True,
    help="Layers that the memory of a request holds.",
)
@click.option(
    "--layer",
    "layers",
    type=click.IntRange(0),
    multiple=True,
    metavar="N",
    help="Layer to compute; repeatable [default: all layers].",
)
@out_option("Write the program to this file.")
def compile_command(
    preset_name: str,
    q_heads: int,
    kv_heads: int,
    head_dim: int,
    num_layers: int,
    layers: tuple[int, ...],
    out: Path | None,
) -> None:
    """Compile a decode step of attention into a DPA program, as text for `dimmpim asm`.

    One program serves every context length: its loops take their counts from the live token count.

    \b
    Examples:
      dimmpim compile
      dimmpim compile --preset ddr4-3200-x8-8gb-gqa8 --q-heads 32 --kv-heads 4 --out attention.s
      dimmpim compile --q-heads 4 --kv-heads 4 --num-layers 32 --layer 0 --layer 1
    """
    shape = AttentionShape(num_q_heads=q_heads, num_kv_heads=kv_heads, head_dim=head_dim)
    params = preset_named(preset_name).rank.for_shape(shape).with_dpa()
    program = compile_attention(params, shape, num_layers=num_layers, layers=layers or None)
    write_output(out or STDOUT, program.text)


@command()
@_SOURCE
@out_option("Write the words to this file.")
@click.option("--hex", "as_hex", is_flag=True, help="One word of 16 hexadecimal digits in each line, instead of bytes.")
def asm(source: Path, out: Path | None, as_hex: bool) -> None:
    """Assemble a DPA program into 64-bit little-endian words.

    Without --out, the words are printed in hexadecimal. The syntax is that of `dimmpim disasm`. A program may have as
    many nested loops and words as a controller of default parameters takes.

    \b
    Examples:
      dimmpim asm attention.s --out attention.bin
      dimmpim asm attention.s --hex --out attention.hex
      dimmpim asm attention.s
    """
    words = assemble(read_text(source, most=MOST_PROGRAM_BYTES), str(source), loop_depth=DpaSizes.loop_depth)
    if not words:
        raise ParameterError(f"{source} has no instruction")
    most = DpaSizes.program_words
    require(len(words) <= most, f"words of {source}", len(words), f"at most {most}, the program memory")
    write_output(out or STDOUT, _hex(words) if as_hex or not out else struct.pack(f"<{len(words)}Q", *words))


@command()
@_SOURCE
@out_option("Write the text to this file.")
def disasm(source: Path, out: Path | None) -> None:
    """Disassemble 64-bit little-endian words into the text of a DPA program, which `dimmpim asm` reads.

    \b
    Examples:
      dimmpim disasm attention.bin
      dimmpim disasm attention.bin --out attention.s
    """
    content = read_bytes(source, most=MOST_PROGRAM_BYTES)
    require(content != b"" and len(content) % 8 == 0, f"size of {source}", f"{len(content)} bytes", "a multiple of 8")
    write_output(out or STDOUT, disassemble(struct.unpack(f"<{len(content) // 8}Q", content)))


@command()
@click.option("--c-header", "as_header", is_flag=True, help="C header instead of Markdown.")
@out_option("Write the description to this file.")
def isa(as_header: bool, out: Path | None) -> None:
    """Print the instruction set: encodings, pseudo-code, faults and codes.

    \b
    Examples:
      dimmpim isa --out isa.md
      dimmpim isa --c-header --out dimmpim_isa.h
    """
    write_output(out or STDOUT, c_header() if as_header else markdown())
