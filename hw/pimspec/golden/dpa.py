"""Golden DPA controller: configuration, translation, and interpretation of programs. Hardware: ``pimhw.dpa``.

The hardware interprets a program twice: the first pass checks and issues nothing, the second issues micro-ops. Nothing
that a program depends on changes in between, so both passes see the same. Here, one pass collects the micro-ops, and a
fault discards them.

The host may do operations while a program is in service, from :meth:`DpaDevice.begin` to :meth:`DpaDevice.finish`.
Those that :meth:`DpaDevice.touches` wait for its end; the others are done at once. A program issues what was checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

from ..errors import require
from ..formats import FP32
from ..isa import WORD_BITS, Fault
from ..params.dpa import MAX_PENDING, ConfigOp, ConfigOperation, ConfigRefusal, DpaParams, SlotState
from .dpa_program import Outcome, interpret

__all__ = ["DpaDevice", "Outcome", "Slot"]


@dataclass(kw_only=True)
class Slot:
    """State of a slot, which holds a resident request.

    Parameters
    ----------
    request : dict of str to int
        :attr:`DpaParams.request`; `tokens` is T_cur. Empty before SET_REQUEST.
    scale : int
        FP32 bits.
    has_request, has_scale : bool
        Set since the last RELEASE.
    directory : list of int
        Leaf of each entry, -1 if invalid.
    pending, programs_done : int
        Waiting starts, and programs that have run completely.
    fault, fault_pc, fault_row
        Fault of the last start, as in :class:`Outcome`; they stay until RELEASE.
    """

    directory: list[int]
    request: dict[str, int] = field(default_factory=dict)
    scale: int = 0
    has_request: bool = False
    has_scale: bool = False
    pending: int = 0
    programs_done: int = 0
    fault: Fault = Fault.NONE
    fault_pc: int = 0
    fault_row: int = 0

    @property
    def state(self) -> SlotState:
        if self.fault:
            return SlotState.FAULTED
        return SlotState.READY if self.has_request and self.has_scale else SlotState.EMPTY

    @property
    def tokens(self) -> int:
        """T_cur; 0 before SET_REQUEST."""
        return self.request.get("tokens", 0)


class DpaDevice:
    """Golden DPA controller as the host sees it.

    Parameters
    ----------
    params : DpaParams

    Attributes
    ----------
    slots : list of Slot
    program : list of int
        Words of the program memory.
    leaves : list of int
        Chunk of each entry of each leaf, -1 if invalid.
    owners : list of (slot, readable) or None
        Owner of each physical chunk.
    interventions : Counter of ConfigOp
        Accepted operations. START is data-driven (the rank is told that queries are there), so all the others are the
        host's share of the work.
    """

    def __init__(self, params: DpaParams) -> None:
        self.params = params
        self.slots = [Slot(directory=[-1] * params.directory_entries) for _ in range(params.num_slots)]
        self.program = [0] * params.program_words
        self.leaves = [-1] * (params.leaves * params.leaf_entries)
        self.owners: list[tuple[int, bool] | None] = [None] * params.num_chunks
        self.interventions: Counter[ConfigOp] = Counter()
        self._served = params.num_slots - 1
        self._named: list[set[int]] = [set() for _ in range(params.num_slots)]  # leaves, by slot, since RELEASE
        self._in_service: Outcome | None = None

    def configure(self, op: int, slot: int = 0, index: int = 0, value: int = 0) -> ConfigRefusal:
        """Do a :class:`~pimspec.params.dpa.ConfigOp`, or return the reason of a refusal; then nothing changes."""
        require(0 <= value < 1 << WORD_BITS, "value", value, f"{WORD_BITS} bits wide")
        require(slot >= 0 and index >= 0, "slot and index", (slot, index), "0 or more")
        if op not in _OPERATIONS:
            return ConfigRefusal.BAD_OP
        refusal = _OPERATIONS[ConfigOp(op)](self, slot, index, value)
        if refusal is ConfigRefusal.NONE:
            self.interventions[ConfigOp(op)] += 1
        return refusal

    def apply(self, operations: Iterable[ConfigOperation]) -> list[ConfigRefusal]:
        """Do the operations in order; returns the refusal, or NONE, of each."""
        return [self.configure(o.op, o.slot, o.index, o.value) for o in operations]

    def _write_word(self, slot: int, index: int, value: int) -> ConfigRefusal:
        if index >= self.params.program_words:
            return ConfigRefusal.RANGE
        self.program[index] = value
        return ConfigRefusal.NONE

    def _idle(self, slot: int) -> ConfigRefusal:
        """NONE if the slot exists and has no starts left."""
        if slot >= self.params.num_slots:
            return ConfigRefusal.RANGE
        return ConfigRefusal.BUSY if self.slots[slot].pending else ConfigRefusal.NONE

    def _set_request(self, slot: int, index: int, value: int) -> ConfigRefusal:
        if refusal := self._idle(slot):
            return refusal
        p, given = self.params, self.params.request.unpack_int(value)
        good = (
            given["length"] > 0
            and given["program"] + given["length"] <= p.program_words
            and given["tokens"] > 0
            and given["num_entries"] > 0
            and given["first_entry"] % p.queries_at_once == 0
            and given["first_entry"] + given["num_entries"] <= p.queries
            and given["last_query"] < p.queries_at_once
        )
        if not good:
            return ConfigRefusal.BAD_VALUE
        self.slots[slot].request, self.slots[slot].has_request = given, True
        return ConfigRefusal.NONE

    def _set_scale(self, slot: int, index: int, value: int) -> ConfigRefusal:
        if refusal := self._idle(slot):
            return refusal
        bits = value & (1 << FP32.width) - 1
        if not 1 << FP32.fraction_bits <= bits < FP32.inf:
            return ConfigRefusal.BAD_VALUE
        self.slots[slot].scale, self.slots[slot].has_scale = bits, True
        return ConfigRefusal.NONE

    def _set_directory(self, slot: int, index: int, value: int) -> ConfigRefusal:
        p, given = self.params, self.params.directory_entry.unpack_int(value)
        if index >= p.directory_entries or given["leaf"] >= p.leaves:
            return ConfigRefusal.RANGE
        if refusal := self._idle(slot):
            return refusal
        self.slots[slot].directory[index] = given["leaf"] if given["valid"] else -1
        if given["valid"]:
            self._named[slot].add(given["leaf"])
        return ConfigRefusal.NONE

    def _set_leaf(self, slot: int, index: int, value: int) -> ConfigRefusal:
        given = self.params.leaf_entry.unpack_int(value)
        if index >= len(self.leaves) or given["chunk"] >= self.params.num_chunks:
            return ConfigRefusal.RANGE
        self.leaves[index] = given["chunk"] if given["valid"] else -1
        return ConfigRefusal.NONE

    def _set_owner(self, slot: int, index: int, value: int) -> ConfigRefusal:
        given = self.params.owner_entry.unpack_int(value)
        if index >= self.params.num_chunks or given["slot"] >= self.params.num_slots:
            return ConfigRefusal.RANGE
        self.owners[index] = (given["slot"], bool(given["readable"])) if given["valid"] else None
        return ConfigRefusal.NONE

    def _start(self, slot: int, index: int, value: int) -> ConfigRefusal:
        if slot >= self.params.num_slots:
            return ConfigRefusal.RANGE
        chosen = self.slots[slot]
        if chosen.state is not SlotState.READY:
            return ConfigRefusal.NOT_READY
        if chosen.pending == MAX_PENDING:
            return ConfigRefusal.FULL
        chosen.pending += 1
        return ConfigRefusal.NONE

    def _release(self, slot: int, index: int, value: int) -> ConfigRefusal:
        if refusal := self._idle(slot):
            return refusal
        done = self.slots[slot].programs_done
        self.slots[slot] = Slot(directory=[-1] * self.params.directory_entries, programs_done=done)
        self._named[slot].clear()
        return ConfigRefusal.NONE

    def translate(self, slot: int, row: int) -> tuple[Fault, int]:
        """Physical row of a slot's virtual row, or the fault and 0."""
        p = self.params
        if row >= p.virtual_rows:
            return Fault.UNMAPPED, 0
        number, within = divmod(row, p.chunk_rows)
        entry, place = divmod(number, p.leaf_entries)
        leaf = self.slots[slot].directory[entry]
        chunk = self.leaves[leaf * p.leaf_entries + place] if leaf >= 0 else -1
        if chunk < 0:
            return Fault.UNMAPPED, 0
        if self.owners[chunk] != (slot, True):
            return Fault.PERMISSION, 0
        return Fault.NONE, chunk * p.chunk_rows + within

    def touches(self, op: int, index: int = 0, value: int = 0) -> bool:
        """True if an operation would write what the program in service reads: then it waits."""
        if self._in_service is None:
            return False
        slot, p = self._served, self.params
        if op == ConfigOp.WRITE_WORD:
            request = self.slots[slot].request
            return request["program"] <= index < request["program"] + request["length"]
        if op == ConfigOp.SET_LEAF:
            fits = index < len(self.leaves) and p.leaf_entry.unpack_int(value)["chunk"] < p.num_chunks
            return fits and index // p.leaf_entries in self._named[slot]
        if op == ConfigOp.SET_OWNER:
            given = p.owner_entry.unpack_int(value)
            if index >= p.num_chunks or given["slot"] >= p.num_slots:
                return False
            before = self.owners[index]
            return (before is not None and before[0] == slot) or bool(given["valid"] and given["slot"] == slot)
        return False

    def run_next(self) -> Outcome | None:
        """Outcome of one start, of the next slot after the last one served that has any; None if none has."""
        return None if self.begin() is None else self.finish()

    def begin(self) -> int | None:
        """Take the next slot after the last one served that has a start into service; None if none has."""
        assert self._in_service is None
        count = self.params.num_slots
        for slot in ((self._served + 1 + n) % count for n in range(count)):
            chosen = self.slots[slot]
            if chosen.pending:
                break
        else:
            return None
        self._served = slot
        translate = partial(self.translate, slot)
        self._in_service = interpret(self.params, slot, chosen.request, chosen.scale, self.program, translate)
        return slot

    def finish(self) -> Outcome:
        """End the service of the slot, and return its outcome."""
        outcome, self._in_service = self._in_service, None
        assert outcome is not None
        chosen = self.slots[self._served]
        if outcome.fault:
            chosen.fault, chosen.fault_pc, chosen.fault_row = outcome.fault, outcome.fault_pc, outcome.fault_row
            chosen.pending = 0
        else:
            chosen.pending -= 1
            chosen.programs_done += 1
            chosen.request["tokens"] += outcome.advance
        return outcome


_OPERATIONS = {
    ConfigOp.WRITE_WORD: DpaDevice._write_word,
    ConfigOp.SET_REQUEST: DpaDevice._set_request,
    ConfigOp.SET_SCALE: DpaDevice._set_scale,
    ConfigOp.SET_DIRECTORY: DpaDevice._set_directory,
    ConfigOp.SET_LEAF: DpaDevice._set_leaf,
    ConfigOp.SET_OWNER: DpaDevice._set_owner,
    ConfigOp.START: DpaDevice._start,
    ConfigOp.RELEASE: DpaDevice._release,
}
