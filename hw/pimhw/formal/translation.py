"""Proof of isolation in the translation: it allows nothing that the owner table does not grant."""

from __future__ import annotations

from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Cat, Cover, Elaboratable, Module, Mux, ResetSignal, Signal, Value
from amaranth.lib import data

from pimspec.fields import index_bits
from pimspec.isa import Fault
from pimspec.params.dpa import DpaParams

from ..dpa.translation import TRANSLATION_CLOCKS, Translation
from ..pipeline import layout_of
from .opened import Opened

__all__ = ["TranslationProof"]


class TranslationProof(Elaboratable):
    """Isolation in the translation, for any requests and any table contents and writes.

    The only assumption is that no table is written while a request is under way; :class:`~.dispatcher.DispatcherProof`
    proves it of the dispatcher. Any one entry of each table is tracked: a shadow register has its content at reset, and
    takes each write. Proved of each request:

    - without a fault, the owner of the chunk of `row` is valid and readable and is the slot of the request; so a
      foreign slot never gets a row;
    - `fault` and `row` follow from the tables, if the request reads the tracked entries: for all entries, as any one
      may be tracked.

    Parameters
    ----------
    params : DpaParams
    """

    def __init__(self, params: DpaParams) -> None:
        self.params = params

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = self.params
        dut = Translation(params=p)
        opened = Opened(dut)
        m.submodules.dut = opened.fragment
        request = data.StructLayout({"live": 1, "slot": p.slot_bits, "vrow": 32})
        asked = Signal(request)
        m.d.comb += [
            Assume(~ResetSignal()),
            asked.eq(AnySeq(request.size)),
            dut.advance.eq(AnySeq(1)),
            dut.write.eq(AnySeq(len(dut.write.as_value()))),
            dut.slot.eq(asked.slot),
            dut.vrow.eq(asked.vrow),
        ]
        under_way = [Signal(request, name=f"under_way{k}") for k in range(TRANSLATION_CLOCKS)]
        with m.If(dut.advance):
            m.d.sync += [after.eq(before) for before, after in zip([asked, *under_way], under_way, strict=False)]
        with m.If((asked.live & dut.advance) | Cat(r.live for r in under_way).any()):
            m.d.comb += Assume(~Cat(dut.write.directory, dut.write.leaf, dut.write.owner).any())

        begun = Signal()
        m.d.sync += begun.eq(1)
        m.d.comb += Assert(begun | ~Cat(r.live for r in under_way).any())
        shadow, address = {}, {}
        for name, table, bits in (
            ("directory", p.directory_entry, dut.directory_bits),
            ("leaf", p.leaf_entry, dut.leaf_index_bits),
            ("owner", p.owner_entry, p.chunk_bits),
        ):
            shadow[name], address[name] = (
                Signal(layout_of(table), name=f"shadow_{name}"),
                Signal(bits, name=f"any_{name}"),
            )
            m.d.comb += address[name].eq(AnyConst(bits))
            cell = opened.cell(m, name, address=address[name])
            with m.If(dut.write[name] & (dut.write.index[:bits] == address[name])):
                m.d.sync += shadow[name].eq(dut.write.value)
            with m.Elif(~begun):
                m.d.sync += shadow[name].eq(cell)
            m.d.comb += Assert(~begun | (cell == shadow[name]))

        self._isolation(m, dut, under_way[-1], address["owner"], shadow["owner"])
        self._exact(m, dut, opened, under_way, address, shadow)
        return m

    def _isolation(self, m: Module, dut: Translation, request: data.View, chunk: Signal, owner: data.View) -> None:
        granted = request.live & (dut.fault == Fault.NONE)
        foreign = owner.slot != request.slot
        with m.If(granted & ((dut.row >> index_bits(self.params.chunk_rows)) == chunk)):
            m.d.comb += Assert(owner.valid & ~foreign & owner.readable)
            m.d.comb += Cover(1)
        m.d.comb += Cover(request.live & foreign & (dut.fault == Fault.PERMISSION))

    def _exact(self, m: Module, dut: Translation, opened: Opened, under_way: list, address: dict, shadow: dict) -> None:
        """The result, and for the induction each stage on the way to it."""
        p = self.params
        row_bits, entry_bits, leaf_bits = (index_bits(n) for n in (p.chunk_rows, p.leaf_entries, p.directory_entries))
        low = row_bits + entry_bits
        stage = data.StructLayout({"slot": p.slot_bits, "vrow": low, "unmapped": 1})
        stages = [data.View(stage, opened.signal(name)) for name in ("at_leaf", "at_owner", "out")]
        directory, leaf, owner = (shadow[name] for name in ("directory", "leaf", "owner"))
        # Conditions that a request reads the tracked entry of the directory, and that of the leaves.
        reads: list[tuple[Value, Value]] = []
        for request, at in zip(under_way, stages, strict=True):
            first, second, beyond = Signal(), Signal(), Signal()
            m.d.comb += [
                beyond.eq(request.vrow[p.vrow_bits :].any()),
                first.eq(~beyond & (Cat(request.vrow[low : low + leaf_bits], request.slot) == address["directory"])),
                second.eq(first & (Cat(request.vrow[row_bits:low], directory.leaf) == address["leaf"])),
            ]
            with m.If(request.live):
                m.d.comb += Assert((at.slot == request.slot) & (at.vrow == request.vrow[:low]))
                m.d.comb += Assert(~beyond | at.unmapped)
            reads.append((first & request.live, second & request.live))
        chunk = opened.signal("chunk")
        with m.If(reads[0][0]):
            m.d.comb += Assert((opened.read("directory") == directory) & ~stages[0].unmapped)
        with m.If(reads[1][0]):
            m.d.comb += Assert(stages[1].unmapped == ~directory.valid)
        with m.If(reads[1][1]):
            m.d.comb += Assert(opened.read("leaf") == leaf)
        with m.If(under_way[2].live & (chunk == address["owner"])):
            m.d.comb += Assert(opened.read("owner") == owner)
        with m.If(under_way[2].live & stages[2].unmapped):
            m.d.comb += Assert(dut.fault == Fault.UNMAPPED)
        with m.If(reads[2][1]):
            none = ~directory.valid | ~leaf.valid
            m.d.comb += Assert((stages[2].unmapped == none) & (chunk == leaf.chunk))
            with m.If(leaf.chunk == address["owner"]):
                mine = owner.valid & owner.readable & (owner.slot == under_way[2].slot)
                m.d.comb += [
                    Assert(dut.fault == Mux(none, Fault.UNMAPPED, Mux(mine, Fault.NONE, Fault.PERMISSION))),
                    Assert(dut.row == Cat(under_way[2].vrow[:row_bits], leaf.chunk)),
                    Cover(dut.fault == Fault.NONE),
                    Cover(dut.fault == Fault.UNMAPPED),
                ]
