"""Instruction words of DPA programs, the faults of a program, and the micro-ops it becomes.

A word has 64 bits: the opcode in bits 5..0, then the operands of the opcode from bit 6 upwards; all other bits are
zero. A program is a sequence of words; it is checked whole, then run (``docs/decisions/0003-dpa-programs.md``).
:mod:`pimspec.golden.dpa` interprets it; :mod:`pimcompiler.assembler` writes and reads it as text.

Words used below: T is the live token count of the request at the start of the program; X are the address registers, 32
bits each and 0 at the start; a segment is ``segment_tokens`` tokens of the context, a row step ``row_lines * chips`` of
them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import NamedTuple

from .errors import ParameterError, require
from .fields import Field, FieldTable

__all__ = [
    "INSTRUCTIONS",
    "OPCODE_BITS",
    "OPERAND_REGISTER_BITS",
    "STRIDE_BITS",
    "WORD_BITS",
    "Fault",
    "InputKind",
    "Instruction",
    "InstructionSpec",
    "LoopKind",
    "MacMode",
    "MicroKind",
    "MicroOp",
    "Opcode",
    "OutputKind",
    "SplitWord",
    "pack_word",
    "split_word",
    "unpack_word",
]

WORD_BITS = 64
OPCODE_BITS = 6
OPERAND_REGISTER_BITS = 3
STRIDE_BITS = 32
"""Width of a stride, of an immediate number and of an address register."""


class Opcode(enum.IntEnum):
    """Operation code, 6 bits wide. 0 is none, so that memory full of zeros is no program."""

    END = 1
    NOP = 2
    MOVI = 3
    ADDI = 4
    LOOP = 5
    WR_INP = 6
    SOFTMAX = 7
    MAC = 8
    RD_OUT = 9
    MERGE = 10
    BARRIER = 11


class LoopKind(enum.IntEnum):
    """Source of the count of a LOOP; 2 bits wide, 3 is a LOOP fault."""

    IMM = 0
    """The operand `count`."""
    SEGMENTS = 1
    """Segments of the context."""
    ROWS = 2
    """Row steps of the segment of the enclosing SEGMENTS loop."""


class InputKind(enum.IntEnum):
    """Data that WR_INP writes into the operand buffers."""

    QUERIES = 0
    PROBS = 1


class MacMode(enum.IntEnum):
    """Modes of :mod:`pimspec.golden.dot`."""

    TREE = 0
    LANE = 1


class OutputKind(enum.IntEnum):
    """Results that RD_OUT reads from the bank PUs."""

    SCORES = 0
    SUMS = 1


class Fault(enum.IntEnum):
    """Reason why a program does not run; the code is four bits wide. The lowest that applies to an instruction wins."""

    NONE = 0
    WATCHDOG = 1
    """As many instructions as the watchdog allows, and none of them END."""
    PC = 2
    """The program ran past its last word."""
    BAD_OPCODE = 3
    RESERVED = 4
    """Bits that are not operands, or operands that this form does not use, are not zero."""
    REGISTER = 5
    """No such address register."""
    LOOP = 6
    """Loops nested too deep, an empty body or one beyond the enclosing body, ROWS outside SEGMENTS, SEGMENTS inside
    SEGMENTS, or a LOOP of kind 3."""
    ORDER = 7
    """An instruction where the sequence of attention does not allow it."""
    BAD_ENTRY = 8
    """A query or output entry beyond those of the slot, or misaligned."""
    UNMAPPED = 9
    """A virtual row without a chunk."""
    PERMISSION = 10
    """A chunk that is not the slot's, or that it may not read."""
    TOKENS = 11
    """T would pass the greatest token count."""


class MicroKind(enum.IntEnum):
    """Kind of a micro-op, 4 bits wide."""

    WR_QUERIES = 1
    SOFTMAX = 2
    MAC_K = 3
    RD_SCORES = 4
    WR_PROBS = 5
    MAC_V = 6
    RD_SUMS = 7
    MERGE = 8
    BARRIER = 9
    END = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroOp:
    """Micro-op that the second pass issues to the queues; fields that a kind does not use are 0.

    Parameters
    ----------
    kind : MicroKind
    slot : int
        Slot, for all kinds.
    buffer_entry : int
        WR_QUERIES, MERGE: number of the first query or output in the rank's buffers.
    last_query : int
        WR_QUERIES, SOFTMAX, MERGE: queries of the kv_head less one.
    row : int
        MAC_K, MAC_V: physical row.
    lines : int
        Token lines: SOFTMAX, of the segment; MAC_K, RD_SCORES, WR_PROBS, MAC_V, of the row step.
    last_keep : int
        SOFTMAX: bit c set if chip c has a token in the last line of the segment.
    scale : int
        SOFTMAX: FP32 bits.
    first, final : int
        SOFTMAX, RD_SUMS, MERGE: whether the segment is the first, or the last, of the context.
    normalise : int
        MERGE: deliver 16-bit results.
    static_order : int
        All kinds: no overlap of banks and bus.
    """

    kind: MicroKind
    slot: int
    buffer_entry: int = 0
    last_query: int = 0
    row: int = 0
    lines: int = 0
    last_keep: int = 0
    scale: int = 0
    first: int = 0
    final: int = 0
    normalise: int = 0
    static_order: int = 0


@dataclass(frozen=True, kw_only=True)
class InstructionSpec:
    """Specification of one opcode.

    Parameters
    ----------
    operands : tuple of Field
        Operands from bit 6 upwards.
    summary : str
        Description in one line.
    pseudo_code : str
        Effect, faults first.
    choices : mapping of str to enum
        Operands whose numbers have names.
    signed : frozenset of str
        Operands that are two's complement in text.
    """

    operands: tuple[Field, ...] = ()
    summary: str
    pseudo_code: str
    choices: Mapping[str, type[enum.IntEnum]] = field(default_factory=dict, hash=False)
    signed: frozenset[str] = frozenset()

    @cached_property
    def table(self) -> FieldTable:
        """Fields of the whole word, without the zeros above."""
        return FieldTable(Field(name="opcode", width=OPCODE_BITS), *self.operands)


def _register(name: str) -> Field:
    return Field(name=name, width=OPERAND_REGISTER_BITS)


def _number(name: str) -> Field:
    return Field(name=name, width=STRIDE_BITS)


INSTRUCTIONS: Mapping[Opcode, InstructionSpec] = MappingProxyType(
    {
        Opcode.END: InstructionSpec(
            operands=(Field(name="advance", width=1),),
            summary="End the program; with `advance`, the request has one more token from now on.",
            pseudo_code="if state != IDLE: fault ORDER\n"
            "if advance and T + 1 > greatest token count: fault TOKENS\n"
            "issue END; once it is done: T_cur = T + advance",
        ),
        Opcode.NOP: InstructionSpec(summary="Do nothing.", pseudo_code=""),
        Opcode.MOVI: InstructionSpec(
            operands=(_register("rd"), _number("imm")),
            summary="Set an address register.",
            pseudo_code="X[rd] = imm",
        ),
        Opcode.ADDI: InstructionSpec(
            operands=(_register("rd"), _register("rs"), _number("imm")),
            summary="Add a number to an address register.",
            pseudo_code="X[rd] = (X[rs] + imm) mod 2**32",
            signed=frozenset({"imm"}),
        ),
        Opcode.LOOP: InstructionSpec(
            operands=(Field(name="kind", width=2), Field(name="count", width=16), Field(name="length", width=12)),
            summary="Repeat the next `length` words as often as the constant says, or the live token count.",
            pseudo_code="if kind != IMM and count != 0: fault RESERVED\n"
            "if loops == loop_depth or length == 0 or pc + 1 + length > end of enclosing body: fault LOOP\n"
            "if kind == 3 or kind == SEGMENTS in SEGMENTS or kind == ROWS outside SEGMENTS: fault LOOP\n"
            "n = {IMM: count, SEGMENTS: ceil(T / segment_tokens), ROWS: row steps of the segment}[kind]\n"
            "repeat n times: words pc + 1 .. pc + length",
            choices={"kind": LoopKind},
        ),
        Opcode.WR_INP: InstructionSpec(
            operands=(Field(name="what", width=1), _register("rs"), _number("stride")),
            summary="Write the queries of a kv_head, or the probabilities of a row step, into the operand buffers.",
            pseudo_code="QUERIES: if state != IDLE: fault ORDER\n"
            "         if X[rs] % queries_at_once != 0 or X[rs] + queries_at_once > num_entries: fault BAD_ENTRY\n"
            "         issue WR_QUERIES(buffer_entry = first_entry + X[rs]); X[rs] += stride\n"
            "         segment = 0; state = QUERIES\n"
            "PROBS:   if rs != 0 or stride != 0: fault RESERVED\n"
            "         if state != PROBS: fault ORDER\n"
            "         issue WR_PROBS(lines of row step v); state = PROBED",
            choices={"what": InputKind},
            signed=frozenset({"stride"}),
        ),
        Opcode.SOFTMAX: InstructionSpec(
            summary="Begin a segment.",
            pseudo_code="if state != QUERIES or not in a SEGMENTS loop or its index != segment: fault ORDER\n"
            "note tokens, row steps n, first and final of the segment; k = v = 0\n"
            "issue SOFTMAX(lines of the segment, last_keep, scale); state = SCORES",
        ),
        Opcode.MAC: InstructionSpec(
            operands=(Field(name="mode", width=1), _register("rs"), _number("stride")),
            summary="Stream a virtual row: of K against the queries (tree), or of V against probabilities (lane).",
            pseudo_code="if state != {TREE: SCORES, LANE: PROBED}[mode]: fault ORDER\n"
            "row = translate(X[rs])   # faults UNMAPPED, PERMISSION\n"
            "TREE: issue MAC_K(row, lines of row step k); state = SCORED\n"
            "LANE: issue MAC_V(row, lines of row step v); v += 1; state = SUMS if v == n else PROBS\n"
            "X[rs] += stride",
            choices={"mode": MacMode},
            signed=frozenset({"stride"}),
        ),
        Opcode.RD_OUT: InstructionSpec(
            operands=(Field(name="what", width=1),),
            summary="Read the scores of a row step, or the sums of a segment, from the bank PUs.",
            pseudo_code="SCORES: if state != SCORED: fault ORDER\n"
            "        issue RD_SCORES(lines of row step k); k += 1; state = PROBS if k == n else SCORES\n"
            "SUMS:   if state != SUMS: fault ORDER\n"
            "        issue RD_SUMS; state = SUMMED",
            choices={"what": OutputKind},
        ),
        Opcode.MERGE: InstructionSpec(
            operands=(_register("rs"), _number("stride")),
            summary="Fold the sums of the segment into o, m and l of the kv_head.",
            pseudo_code="if state != SUMMED or not first and X[rs] != buffer_entry of the first MERGE: fault ORDER\n"
            "if X[rs] % queries_at_once != 0 or X[rs] + queries_at_once > num_entries: fault BAD_ENTRY\n"
            "issue MERGE(buffer_entry = first_entry + X[rs])\n"
            "if final: X[rs] += stride; state = IDLE\n"
            "else: segment += 1; state = QUERIES",
            signed=frozenset({"stride"}),
        ),
        Opcode.BARRIER: InstructionSpec(
            summary="Later micro-ops of the request wait until all earlier ones are done.",
            pseudo_code="if state != IDLE: fault ORDER\nissue BARRIER",
        ),
    }
)


_OPCODES = frozenset(map(int, Opcode))


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """A decoded instruction word.

    Parameters
    ----------
    opcode : Opcode
    operands : mapping of str to int
        Operands by name; those left out are 0.

    Raises
    ------
    ParameterError
        If an operand is not one of the opcode, does not fit, or is set though this form does not use it.
    """

    opcode: Opcode
    operands: Mapping[str, int] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        widths = {f.name: f.width for f in INSTRUCTIONS[self.opcode].operands}
        for name, value in self.operands.items():
            require(name in widths, f"operand of {self.opcode.name}", name, f"one of {tuple(widths)}")
            require(0 <= value < 1 << widths[name], f"{name} of {self.opcode.name}", value, f"{widths[name]} bits wide")
        whole = {name: int(self.operands.get(name, 0)) for name in widths}
        used = _uses_its_operands(self.opcode, whole)
        require(used, f"operands of {self.opcode.name}", dict(whole), "0 where this form does not use them")
        object.__setattr__(self, "operands", MappingProxyType(whole))


def pack_word(instruction: Instruction) -> int:
    """The word of an instruction."""
    return INSTRUCTIONS[instruction.opcode].table.pack_int(opcode=int(instruction.opcode), **instruction.operands)


class SplitWord(NamedTuple):
    """A word taken apart: `clean` unless bits beside the operands, or operands that its form does not use, are set."""

    opcode: Opcode
    operands: Mapping[str, int]
    clean: bool


def _uses_its_operands(opcode: Opcode, operands: Mapping[str, int]) -> bool:
    """True if only those operands are set that this form of the instruction uses."""
    if opcode is Opcode.LOOP and operands["kind"] != LoopKind.IMM:
        return operands["count"] == 0
    if opcode is Opcode.WR_INP and operands["what"] == InputKind.PROBS:
        return operands["rs"] == operands["stride"] == 0
    return True


@lru_cache(maxsize=1 << 14)
def split_word(word: int) -> SplitWord | None:
    """Take any word apart; None if its opcode does not exist."""
    number = word & (1 << OPCODE_BITS) - 1
    if number not in _OPCODES:
        return None
    opcode = Opcode(number)
    table = INSTRUCTIONS[opcode].table
    operands = table.unpack_int(word)
    del operands["opcode"]
    clean = word >> table.width == 0 and _uses_its_operands(opcode, operands)
    return SplitWord(opcode, MappingProxyType(operands), clean)


def unpack_word(word: int) -> Instruction:
    """The inverse of :func:`pack_word`.

    Raises
    ------
    ParameterError
        If the word has no opcode, or bits set that the instruction does not use.
    """
    require(0 <= word < 1 << WORD_BITS, "a word", word, "of 64 bits")
    parts = split_word(word)
    if parts is None:
        raise ParameterError(f"word {word:#018x} has no opcode: {word & (1 << OPCODE_BITS) - 1} is none")
    if not parts.clean:
        raise ParameterError(f"word {word:#018x} has bits set that {parts.opcode.name} does not use")
    return Instruction(opcode=parts.opcode, operands=parts.operands)
