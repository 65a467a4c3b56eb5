"""`dimmpim compile`, `asm`, `disasm` and `isa`: DPA programs as text and as words."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import click

from pimcompiler.assembler import assemble, disassemble
from pimcompiler.attention import compile_attention
from pimspec.attention.shape import AttentionShape
from pimspec.errors import ParameterError, require
from pimspec.files import write_atomically
from pimspec.isa_docs import c_header, markdown
from pimspec.params.presets import preset_named

_OUT = click.option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write it here.")
_SOURCE = click.argument("source", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")


def _deliver(text: str, out: Path | None) -> None:
    """Into the file, or to the screen."""
    if out:
        write_atomically(out, text)
    else:
        click.echo(text, nl=False)


def _hex(words: Sequence[int]) -> str:
    return "".join(f"{word:016x}\n" for word in words)


@click.command("compile")
@click.option("--preset", "preset_name", default="ddr4-3200-x8-8gb", show_default=True, metavar="NAME")
@click.option("--q-heads", default=8, show_default=True)
@click.option("--kv-heads", default=8, show_default=True, help="That lie in this rank.")
@click.option("--head-dim", default=128, show_default=True)
@click.option("--num-layers", default=1, show_default=True, help="Layers that the memory of a request holds.")
@click.option("--layer", "layers", type=int, multiple=True, help="To compute, repeatable; all of them by default.")
@_OUT
def compile_command(
    preset_name: str,
    q_heads: int,
    kv_heads: int,
    head_dim: int,
    num_layers: int,
    layers: tuple[int, ...],
    out: Path | None,
) -> None:
    """Compile an attention step into a DPA program, as text for `dimmpim asm`.

    The program is the same for every context: its loops take their counts from the live token count.

    \b
    Examples:
      dimmpim compile
      dimmpim compile --preset ddr4-3200-x8-8gb-gqa8 --q-heads 32 --kv-heads 4 --out attention.s
      dimmpim compile --q-heads 4 --kv-heads 4 --num-layers 32 --layer 0 --layer 1
    """
    shape = AttentionShape(num_q_heads=q_heads, num_kv_heads=kv_heads, head_dim=head_dim)
    params = preset_named(preset_name).rank.for_shape(shape).with_dpa()
    _deliver(compile_attention(params, shape, num_layers=num_layers, layers=layers or None).text, out)


@click.command()
@_SOURCE
@_OUT
@click.option("--hex", "as_hex", is_flag=True, help="16 hexadecimal digits a line instead of bytes.")
def asm(source: Path, out: Path | None, as_hex: bool) -> None:
    """Assemble a DPA program into words of 64 bits, little-endian.

    Without --out, the words are printed in hexadecimal. The syntax is that of `dimmpim disasm`.

    \b
    Examples:
      dimmpim asm attention.s --out attention.bin
      dimmpim asm attention.s --hex --out attention.hex
      dimmpim asm attention.s
    """
    try:
        text = source.read_text()
    except UnicodeDecodeError:
        raise ParameterError(f"{source} is not a text file") from None
    words = assemble(text, str(source))
    require(bool(words), "the program", str(source), "at least one instruction")
    if out and not as_hex:
        write_atomically(out, struct.pack(f"<{len(words)}Q", *words))
    else:
        _deliver(_hex(words), out)


@click.command()
@_SOURCE
@_OUT
def disasm(source: Path, out: Path | None) -> None:
    """Print the words of a DPA program, 64 bits each, little-endian, as text that `dimmpim asm` reads.

    \b
    Examples:
      dimmpim disasm attention.bin
      dimmpim disasm attention.bin --out attention.s
    """
    content = source.read_bytes()
    require(len(content) % 8 == 0 and content != b"", f"bytes of {source}", len(content), "a multiple of 8, not 0")
    _deliver(disassemble(struct.unpack(f"<{len(content) // 8}Q", content)), out)


@click.command()
@click.option("--c-header", "as_header", is_flag=True, help="A C header instead of Markdown.")
@_OUT
def isa(as_header: bool, out: Path | None) -> None:
    """Print the instruction set: words, pseudo-code, faults and codes.

    \b
    Examples:
      dimmpim isa --out isa.md
      dimmpim isa --c-header --out dimmpim_isa.h
    """
    _deliver(c_header() if as_header else markdown(), out)
