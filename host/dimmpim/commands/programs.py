"""`dimmpim asm`, `disasm` and `isa`: DPA programs as text and as words."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import click

from pimspec.errors import ParameterError, require
from pimspec.files import write_atomically
from pimspec.isa_docs import c_header, markdown
from pimspec.isa_text import assemble, disassemble

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
