"""Random host sessions with the DPA controller: good and bad programs, good and bad tables, arbitrary words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pimspec.isa import (
    INSTRUCTIONS,
    WORD_BITS,
    InputKind,
    Instruction,
    LoopKind,
    MacMode,
    Opcode,
    OutputKind,
    pack_word,
)
from pimspec.params.dpa import ConfigOp, DpaParams

__all__ = ["SessionCommand", "attention_words", "random_session"]


@dataclass(frozen=True, kw_only=True)
class SessionCommand:
    """One action of a host; `kind` is config, run (until no start waits), or status."""

    kind: str
    op: int = 0
    slot: int = 0
    index: int = 0
    value: int = 0


def _word(opcode: Opcode, **operands: int) -> int:
    return pack_word(Instruction(opcode=opcode, operands=operands))


def attention_words(*, rows: int, heads: int, k_row: int, v_row: int, stride: int, advance: bool) -> list[int]:
    """Words of an attention program for `heads` kv_heads, each of whose row steps lie `stride` virtual rows apart."""
    k_steps = [_word(Opcode.MAC, mode=MacMode.TREE, rs=2, stride=stride), _word(Opcode.RD_OUT, what=OutputKind.SCORES)]
    v_steps = [_word(Opcode.WR_INP, what=InputKind.PROBS), _word(Opcode.MAC, mode=MacMode.LANE, rs=3, stride=stride)]
    segment = [
        _word(Opcode.SOFTMAX),
        _word(Opcode.LOOP, kind=LoopKind.ROWS, length=2),
        *k_steps,
        _word(Opcode.LOOP, kind=LoopKind.ROWS, length=2),
        *v_steps,
        _word(Opcode.RD_OUT, what=OutputKind.SUMS),
        _word(Opcode.MERGE, rs=1, stride=rows),
    ]
    head = [
        _word(Opcode.WR_INP, what=InputKind.QUERIES, rs=0, stride=rows),
        _word(Opcode.ADDI, rd=2, rs=4, imm=0),
        _word(Opcode.ADDI, rd=3, rs=4, imm=(v_row - k_row) & 0xFFFFFFFF),
        _word(Opcode.LOOP, kind=LoopKind.SEGMENTS, length=len(segment)),
        *segment,
        _word(Opcode.ADDI, rd=4, rs=4, imm=2),
    ]
    return [
        _word(Opcode.MOVI, rd=4, imm=k_row),
        _word(Opcode.LOOP, kind=LoopKind.IMM, count=heads, length=len(head)),
        *head,
        _word(Opcode.BARRIER),
        _word(Opcode.END, advance=int(advance)),
    ]


class _Host:
    def __init__(self, params: DpaParams, rng: np.random.Generator) -> None:
        self.params, self.rng = params, rng
        self.commands: list[SessionCommand] = []

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def number(self, below: int) -> int:
        return int(self.rng.integers(below))

    def bits(self, width: int) -> int:
        return int.from_bytes(self.rng.bytes(8), "little") & ((1 << width) - 1)

    def config(self, op: ConfigOp, *, slot: int = 0, index: int = 0, value: int = 0) -> None:
        self.commands.append(SessionCommand(kind="config", op=int(op), slot=slot, index=index, value=value))

    def table(self, op: ConfigOp, values: Mapping[str, int], *, slot: int = 0, index: int = 0) -> None:
        p = self.params
        tables = {
            ConfigOp.SET_REQUEST: p.request,
            ConfigOp.SET_DIRECTORY: p.directory_entry,
            ConfigOp.SET_LEAF: p.leaf_entry,
            ConfigOp.SET_OWNER: p.owner_entry,
        }
        self.config(op, slot=slot, index=index, value=tables[op].pack_int(**values))

    def directories(self, slot: int) -> None:
        """Fill a directory: each slot has a leaf of its own, some share another one, and some entries are missing."""
        p = self.params
        for entry in range(p.directory_entries):
            leaf = slot % p.leaves if entry == 0 else self.number(p.leaves)
            self.table(ConfigOp.SET_DIRECTORY, {"valid": int(self.chance(0.9)), "leaf": leaf}, slot=slot, index=entry)

    def owner(self, chunk: int) -> None:
        valid, readable = int(self.chance(0.98)), int(self.chance(0.98))
        values = {"valid": valid, "slot": chunk % self.params.num_slots, "readable": readable}
        self.table(ConfigOp.SET_OWNER, values, index=chunk)

    def leaf(self, leaf: int, entry: int) -> None:
        p = self.params
        chunk = self.number(p.num_chunks)
        if self.chance(0.97):  # mostly one of the slot that uses the leaf
            chunk = min(chunk // p.num_slots * p.num_slots + leaf % p.num_slots, leaf % p.num_slots + p.num_slots)
        index = leaf * p.leaf_entries + entry
        self.table(ConfigOp.SET_LEAF, {"valid": int(self.chance(0.97)), "chunk": chunk}, index=index)

    def request(self, slot: int, program: int, length: int) -> None:
        p, rows = self.params, self.params.queries_at_once
        tokens = self.number(3 * p.segment_tokens) + 1 if self.chance(0.95) else p.max_tokens
        places = p.queries // rows
        first = self.number(places) // 2
        values = {
            "program": program,
            "length": length,
            "tokens": tokens,
            "first_entry": first * rows,
            "num_entries": (self.number(places - first) + 1) * rows,
            "last_query": self.number(rows),
            "normalise": self.number(2),
            "static_order": self.number(2),
        }
        if self.chance(0.1):
            name = list(values)[self.number(len(values))]
            values[name] = self.bits(p.request.places[name].width)
        self.table(ConfigOp.SET_REQUEST, values, slot=slot)

    def program(self) -> list[int]:
        """Words of an attention program: correct, or with a few faults, or arbitrary."""
        p = self.params
        if self.chance(0.1):
            return [self.any_word() for _ in range(self.number(24) + 1)]
        heads = self.number(3)
        k_row = self.number(p.leaf_entries * p.chunk_rows) if self.chance(0.9) else self.number(2 * p.virtual_rows)
        words = attention_words(
            rows=p.queries_at_once,
            heads=heads,
            k_row=k_row,
            v_row=k_row + 1,
            stride=self.number(5),
            advance=self.chance(0.8),
        )
        for _ in range(self.number(4) if self.chance(0.6) else 0):
            place = self.number(len(words))
            how = self.number(5)
            if how == 0:
                words[place] ^= 1 << self.number(WORD_BITS if self.chance(0.2) else 24)
            elif how == 1:
                words[place] = self.any_word()
            elif how == 2:
                del words[place]
            elif how == 3:
                words.insert(place, self.any_word())
            else:
                other = self.number(len(words))
                words[place], words[other] = words[other], words[place]
            words = words or [0]
        return words[: p.program_words]

    def any_word(self) -> int:
        if self.chance(0.1):
            return self.bits(WORD_BITS)
        opcodes = list(INSTRUCTIONS)
        opcode = opcodes[self.number(len(opcodes))]
        operands = {}
        for field in INSTRUCTIONS[opcode].operands:
            small = min(field.width, 1 + self.number(6))
            operands[field.name] = self.bits(field.width if self.chance(0.1) else small)
        if opcode is Opcode.LOOP and operands["kind"] != LoopKind.IMM and self.chance(0.9):
            operands["count"] = 0
        return INSTRUCTIONS[opcode].table.pack_int(opcode=int(opcode), **operands)

    def step(self) -> None:
        """Add a new program in some slot, a few starts, and now and then other changes."""
        p = self.params
        slot = self.number(p.num_slots)
        if self.chance(0.7):
            self.config(ConfigOp.RELEASE, slot=slot)
            self.directories(slot)
        words = self.program()
        program = self.number(p.program_words - len(words) + 1)
        for k, word in enumerate(words):
            self.config(ConfigOp.WRITE_WORD, index=program + k, value=word)
        self.request(slot, program, len(words))
        scale = self.bits(32) if self.chance(0.05) else 0x3E000000 | self.bits(23)
        self.config(ConfigOp.SET_SCALE, slot=slot, value=scale)
        for _ in range(self.number(3) + 1 if self.chance(0.97) else 17):
            self.config(ConfigOp.START, slot=slot)
        if self.chance(0.3):
            self.owner(self.number(p.num_chunks))
            self.leaf(self.number(p.leaves), self.number(p.leaf_entries))
        if self.chance(0.2):
            op, index = self.number(16), self.bits(p.config_index_bits)
            self.commands.append(
                SessionCommand(
                    kind="config", op=op, slot=self.bits(p.slot_bits), index=index, value=self.bits(WORD_BITS)
                )
            )
        if self.chance(0.7):
            self.commands.append(SessionCommand(kind="run"))
        if self.chance(0.5):
            self.commands.append(SessionCommand(kind="status", slot=self.number(p.num_slots)))


def random_session(params: DpaParams, rng: np.random.Generator, *, num_programs: int) -> list[SessionCommand]:
    """Actions of a host from reset on, with `num_programs` programs, a last run, and the status of every slot."""
    host = _Host(params, rng)
    for chunk in range(params.num_chunks):
        host.owner(chunk)
    for leaf in range(params.leaves):
        for entry in range(params.leaf_entries):
            host.leaf(leaf, entry)
    for slot in range(params.num_slots):
        host.directories(slot)
    for _ in range(num_programs):
        host.step()
    host.commands.append(SessionCommand(kind="run"))
    host.commands += [SessionCommand(kind="status", slot=slot) for slot in range(params.num_slots)]
    return host.commands
