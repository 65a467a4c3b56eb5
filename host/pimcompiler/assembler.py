"""Assembler and disassembler: DPA programs as text.

A line holds one instruction; ``;`` or ``#`` begins a comment. ``loop ... {`` repeats what follows up to its ``}``. A
register with post-increment is written ``x1 += 64``, or ``x1`` alone if it stays. Numbers are decimal or 0x...; a
negative one stands for its two's complement. ``.word 0x...`` is any word.

::

    movi x3, 1
    loop 8 {                    ; kv_heads
        wr_inp queries, x0 += 1
        loop segments {
            softmax
            loop rows {
                mac tree, x2 += 16
                rd_out scores
            }
            loop rows {
                wr_inp probs
                mac lane, x3 += 16
            }
            rd_out sums
            merge x1 += 1
        }
    }
    end advance
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import IntEnum

from pimspec.errors import ParameterError
from pimspec.isa import (
    INSTRUCTIONS,
    STRIDE_BITS,
    WORD_BITS,
    InputKind,
    Instruction,
    LoopKind,
    MacMode,
    Opcode,
    OutputKind,
    pack_word,
    split_word,
)

__all__ = ["assemble", "disassemble"]

_INDENT = "    "
_REGISTER = re.compile(r"x([0-7])")
_MOVING = re.compile(r"(x[0-7])\s*\+=\s*(\S+)")


def _number(text: str, bits: int) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        raise ParameterError(f"{text!r} is not a number") from None
    if not -(1 << bits - 1) <= value < 1 << bits:
        raise ParameterError(f"{text} does not fit {bits} bits")
    return value & (1 << bits) - 1


def _unsigned(text: str, bits: int) -> int:
    if text.startswith("-"):
        raise ParameterError(f"{text} is negative")
    return _number(text, bits)


def _register(text: str) -> int:
    match = _REGISTER.fullmatch(text)
    if not match:
        raise ParameterError(f"{text!r} is not a register, x0 to x7")
    return int(match[1])


def _moving(text: str) -> dict[str, int]:
    """Operands of ``x1 += 64``, or of ``x1``."""
    match = _MOVING.fullmatch(text)
    if not match:
        return {"rs": _register(text)}
    return {"rs": _register(match[1]), "stride": _number(match[2], STRIDE_BITS)}


def _choice(text: str, names: type[IntEnum]) -> IntEnum:
    try:
        return names[text.upper()]
    except KeyError:
        allowed = " or ".join(name.lower() for name in names.__members__)
        raise ParameterError(f"{text!r} must be {allowed}") from None


def _taking(count: int, given: Sequence[str]) -> Sequence[str]:
    if len(given) != count:
        raise ParameterError(f"takes {count} operand{'s' * (count != 1)}, not {len(given)}")
    return given


def _end(given: Sequence[str]) -> dict[str, int]:
    if not given:
        return {"advance": 0}
    if list(given) != ["advance"]:
        raise ParameterError(f"{', '.join(given)!r} must be advance, or nothing")
    return {"advance": 1}


def _movi(given: Sequence[str]) -> dict[str, int]:
    rd, imm = _taking(2, given)
    return {"rd": _register(rd), "imm": _number(imm, STRIDE_BITS)}


def _addi(given: Sequence[str]) -> dict[str, int]:
    rd, rs, imm = _taking(3, given)
    return {"rd": _register(rd), "rs": _register(rs), "imm": _number(imm, STRIDE_BITS)}


def _wr_inp(given: Sequence[str]) -> dict[str, int]:
    if not given:
        raise ParameterError("takes queries and a register, or probs")
    what = _choice(given[0], InputKind)
    if what is InputKind.PROBS:
        _taking(1, given)
        return {"what": what}
    return {"what": what} | _moving(_taking(2, given)[1])


def _mac(given: Sequence[str]) -> dict[str, int]:
    mode, register = _taking(2, given)
    return {"mode": _choice(mode, MacMode)} | _moving(register)


def _rd_out(given: Sequence[str]) -> dict[str, int]:
    return {"what": _choice(_taking(1, given)[0], OutputKind)}


def _merge(given: Sequence[str]) -> dict[str, int]:
    return _moving(_taking(1, given)[0])


def _nothing(given: Sequence[str]) -> dict[str, int]:
    _taking(0, given)
    return {}


_READERS: dict[Opcode, Callable[[Sequence[str]], dict[str, int]]] = {
    Opcode.END: _end,
    Opcode.NOP: _nothing,
    Opcode.MOVI: _movi,
    Opcode.ADDI: _addi,
    Opcode.WR_INP: _wr_inp,
    Opcode.SOFTMAX: _nothing,
    Opcode.MAC: _mac,
    Opcode.RD_OUT: _rd_out,
    Opcode.MERGE: _merge,
    Opcode.BARRIER: _nothing,
}


class _Assembler:
    def __init__(self, loop_depth: int | None) -> None:
        self.loop_depth = loop_depth
        self.words: list[int] = []
        self.open: list[tuple[int, int, dict[str, int]]] = []  # line, word, operands of each loop that is open

    def take(self, number: int, text: str) -> None:
        """Assemble one line, given without its comment."""
        name, _, rest = text.partition(" ")
        if text == "}":
            self.close()
        elif name == "loop":
            if not rest.endswith("{"):
                raise ParameterError("loop must end with {")
            if self.loop_depth is not None and len(self.open) >= self.loop_depth:
                raise ParameterError(f"loops are nested more than {self.loop_depth} deep")
            self.open.append((number, len(self.words), self.loop(rest[:-1].strip())))
            self.words.append(0)
        elif name == ".word":
            self.words.append(_unsigned(rest.strip(), WORD_BITS))
        elif name.upper() in Opcode.__members__:
            opcode = Opcode[name.upper()]
            given = [part.strip() for part in rest.split(",")] if rest.strip() else []
            try:
                operands = _READERS[opcode](given)
            except ParameterError as error:
                raise ParameterError(f"{name}: {error}") from None
            self.words.append(pack_word(Instruction(opcode=opcode, operands=operands)))
        else:
            names = ", ".join(sorted(opcode.name.lower() for opcode in Opcode))
            raise ParameterError(f"unknown instruction {name!r}; allowed: {names}, .word")

    @staticmethod
    def loop(text: str) -> dict[str, int]:
        """Operands of a loop, without its length."""
        if text in ("segments", "rows"):
            return {"kind": LoopKind[text.upper()]}
        if not text[:1].isdigit():
            raise ParameterError(f"loop: {text!r} must be a count, segments or rows")
        return {"kind": LoopKind.IMM, "count": _unsigned(text, 16)}

    def close(self) -> None:
        if not self.open:
            raise ParameterError("} without loop")
        _, at, operands = self.open.pop()
        length = len(self.words) - at - 1
        if not 1 <= length < 1 << 12:
            raise ParameterError(f"the loop has {length} words, must be 1..4095")
        self.words[at] = pack_word(Instruction(opcode=Opcode.LOOP, operands=operands | {"length": length}))


def assemble(text: str, name: str = "program", *, loop_depth: int | None = None) -> list[int]:
    """Words of a program.

    Parameters
    ----------
    text : str
    name : str
        File name for the text of errors.
    loop_depth : int, optional
        Most loops that may be nested, as many as the controller has counters for; by default any number.

    Raises
    ------
    ParameterError
        With the text ``name:line: what is wrong``.
    """
    assembler = _Assembler(loop_depth)
    number = 0
    for number, line in enumerate(text.splitlines(), start=1):
        code = " ".join(re.split(r"[;#]", line, maxsplit=1)[0].split()).lower()
        if code:
            try:
                assembler.take(number, code)
            except ParameterError as error:
                raise ParameterError(f"{name}:{number}: {error}") from None
    if assembler.open:
        raise ParameterError(f"{name}:{assembler.open[-1][0]}: loop without }}")
    return assembler.words


def _signed(value: int) -> int:
    return value - (1 << STRIDE_BITS) if value >> STRIDE_BITS - 1 else value


def _instruction_text(word: int) -> str:
    """Text of an instruction other than LOOP, or ``.word``."""
    parts = split_word(word)
    if parts is None or not parts.clean or parts.opcode is Opcode.LOOP:
        return f".word {word:#018x}"
    opcode, operands, _ = parts
    spec, shown = INSTRUCTIONS[opcode], []
    if opcode is Opcode.END:
        return "end advance" if operands["advance"] else "end"
    only_choice = opcode is Opcode.WR_INP and operands["what"] == InputKind.PROBS
    for f in spec.operands:
        value = operands[f.name]
        if f.name in spec.choices:
            shown.append(spec.choices[f.name](value).name.lower())
        elif only_choice:
            continue
        elif f.name == "stride":
            shown[-1] += f" += {_signed(value)}" if value else ""
        elif f.name in ("rd", "rs"):
            shown.append(f"x{value}")
        else:
            shown.append(str(_signed(value) if f.name in spec.signed else value))
    return f"{opcode.name.lower()} {', '.join(shown)}".rstrip()


def disassemble(words: Sequence[int]) -> str:
    """Text of a program, from which :func:`assemble` makes the same words."""
    lines: list[str] = []
    ends = [len(words)]
    for at, word in enumerate(words):
        while at == ends[-1]:
            ends.pop()
            lines.append(f"{_INDENT * (len(ends) - 1)}}}")
        indent, parts = _INDENT * (len(ends) - 1), split_word(word)
        if parts and parts.clean and parts.opcode is Opcode.LOOP:
            kind, count, length = (parts.operands[name] for name in ("kind", "count", "length"))
            if length and at + 1 + length <= ends[-1] and kind in list(LoopKind):
                shown = str(count) if kind == LoopKind.IMM else LoopKind(kind).name.lower()
                lines.append(f"{indent}loop {shown} {{")
                ends.append(at + 1 + length)
                continue
        lines.append(indent + _instruction_text(word))
    lines += [f"{_INDENT * depth}}}" for depth in reversed(range(len(ends) - 1))]
    return "".join(f"{line}\n" for line in lines)
