"""Translation of virtual to physical rows: directory, leaf, owner."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from pimspec.isa import Fault
from pimspec.params.dpa import DpaParams

from ..pipeline import layout_of

__all__ = ["TRANSLATION_CLOCKS", "Translation"]

TRANSLATION_CLOCKS = 3
"""Clocks from a virtual row to its physical row: a memory each."""


class Translation(wiring.Component):
    """Translation of one virtual row a clock, with a check that the slot may read it.

    Isolation rests on the owner table alone: `fault` is NONE only if it gives the chunk of `row` to `slot`, readable.

    Timing model: ``struct Interpreter`` of ``dpa.h``.

    Parameters
    ----------
    params : DpaParams

    Members
    -------
    advance : In(1)
        The pipeline moves; otherwise it, and the result, stand still.
    slot : In; vrow : In(32)
    fault : Out(4); row : Out
        Result for the input of TRANSLATION_CLOCKS clocks of `advance` before. `row` counts only without a fault.
    write : In
        `directory`, `leaf`, `owner`: write `value` at `index` of that table; for a directory with the slot above its
        entries. Not while a translation that depends on it is under way.
    look : In; owner : Out
        A physical chunk, and its owner in the next clock.
    """

    def __init__(self, *, params: DpaParams) -> None:
        self.params = p = params
        self.directory_bits = p.slot_bits + (p.directory_entries - 1).bit_length()
        self.leaf_index_bits = p.leaf_bits + (p.leaf_entries - 1).bit_length()
        self.index_bits = max(self.directory_bits, self.leaf_index_bits, p.chunk_bits, p.slot_bits + p.leaf_bits)
        entries = (p.directory_entry, p.leaf_entry, p.owner_entry)
        self.value_bits = max(entry.width for entry in entries)
        super().__init__(
            {
                "advance": In(1),
                "slot": In(p.slot_bits),
                "vrow": In(32),
                "fault": Out(Fault),
                "row": Out(p.row_bits),
                "look": In(p.chunk_bits),
                "owner": Out(layout_of(p.owner_entry)),
                "write": In(
                    data.StructLayout(
                        {"directory": 1, "leaf": 1, "owner": 1, "index": self.index_bits, "value": self.value_bits}
                    )
                ),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = self.params
        chunk_row_bits = (p.chunk_rows - 1).bit_length()
        entry_bits = (p.leaf_entries - 1).bit_length()
        read = {}
        for name, table, index_bits in (
            ("directory", p.directory_entry, self.directory_bits),
            ("leaf", p.leaf_entry, self.leaf_index_bits),
            ("owner", p.owner_entry, p.chunk_bits),
        ):
            layout = layout_of(table)
            m.submodules[name] = cells = memory.Memory(shape=layout, depth=1 << index_bits, init=[])
            port, read[name] = cells.write_port(), cells.read_port()
            m.d.comb += [
                port.en.eq(self.write[name]),
                port.addr.eq(self.write.index),
                port.data.eq(self.write.value),
                read[name].en.eq(self.advance),
            ]
            if name == "owner":
                look = cells.read_port()
                m.d.comb += [look.en.eq(1), look.addr.eq(self.look), self.owner.eq(look.data)]
        stage = data.StructLayout({"slot": p.slot_bits, "vrow": chunk_row_bits + entry_bits, "unmapped": 1})
        at_leaf, at_owner, out = (Signal(stage, name=name, reset_less=True) for name in ("at_leaf", "at_owner", "out"))
        chunk = Signal(p.chunk_bits, reset_less=True)
        vchunk = self.vrow >> chunk_row_bits
        directory, leaf, owner = (read[name].data for name in ("directory", "leaf", "owner"))
        m.d.comb += [
            read["directory"].addr.eq((self.slot << (p.directory_entries - 1).bit_length()) + (vchunk >> entry_bits)),
            read["leaf"].addr.eq((directory.leaf << entry_bits) + (at_leaf.vrow >> chunk_row_bits)),
            read["owner"].addr.eq(leaf.chunk),
        ]
        with m.If(self.advance):
            m.d.sync += [
                at_leaf.slot.eq(self.slot),
                at_leaf.vrow.eq(self.vrow),
                at_leaf.unmapped.eq(self.vrow[p.vrow_bits :].any()),
                at_owner.eq(at_leaf),
                at_owner.unmapped.eq(at_leaf.unmapped | ~directory.valid),
                out.eq(at_owner),
                out.unmapped.eq(at_owner.unmapped | ~leaf.valid),
                chunk.eq(leaf.chunk),
            ]
        allowed = owner.valid & (owner.slot == out.slot) & owner.readable
        m.d.comb += [
            self.fault.eq(Mux(out.unmapped, Fault.UNMAPPED, Mux(allowed, Fault.NONE, Fault.PERMISSION))),
            self.row.eq((chunk << chunk_row_bits) + out.vrow[:chunk_row_bits] if chunk_row_bits else chunk),
        ]
        return m
