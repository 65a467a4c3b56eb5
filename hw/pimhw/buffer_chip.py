"""The buffer chip of a PIM rank: host port, command engine, sequencer and rank PU."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out

from pimspec.dram.commands import Command
from pimspec.isa import MicroKind
from pimspec.params.pim_rank import PimRankParams

from .dpa.controller import DpaController
from .dram.command_engine import CommandEngine
from .host_side.access_queue import AccessQueue
from .host_side.host_port import HostPort, host_bus
from .pipeline import layout_of, pushed
from .rank_pu.reducer import Reducer
from .rank_pu.relayout import Relayout
from .rank_pu.segment_merger import SegmentMerger
from .rank_pu.softmax import Softmax
from .sequencer.bank_shadow import BankShadow
from .sequencer.bus_arbiter import BusArbiter
from .sequencer.descriptor_expander import DescriptorExpander
from .sequencer.issuer import Issuer
from .sequencer.lines import ProbLines
from .sequencer.result_reader import ResultReader
from .sequencer.row_feeder import RowFeeder
from .sequencer.stages import KStage, QueryLoader, VStage

__all__ = ["BufferChip"]


class BufferChip(wiring.Component):
    """Everything of a PIM rank but its DRAM chips.

    Decode attention of a kv_head, from a descriptor to the output memory::

        descriptor_expander -> issuer -> query loader -> K stage -\\
                          \\-------------------> V stage --> row feeder -> engine
        engine -> result reader -> softmax -> lines -> bus arbiter
                                \\-> reducer -> segment merger -> outputs

    K of an item runs while V of the one before does. Nothing waits for a whole phase but the softmax, which needs all
    scores of a segment for their maximum.

    Timing model: ``struct RankTiming`` of ``rank_timing.h``.

    Parameters
    ----------
    params : PimRankParams

    All outputs are registers or logic behind registers.

    Members
    -------
    host_valid, host, host_data, host_mask : In; host_out_valid, host_out_data : Out
        The host's DDR4 bus: see :class:`~.host_side.host_port.HostPort`. Byte ``chips * dq_beat + chip``.
    command : Out: valid, payload (params.chip.command)
    bus : Out: valid, payload (params.chip.bus)
    write_data, write_mask : Out
        Lines for the chips, chip by chip, ``params.chip.write_clocks`` after their command.
    read_data : In
        Lines from the chips, chip by chip, ``params.chip.read_clocks`` after their command.
    chip_status : In(8); chip_clear : Out(1)
    finished : Out(1)
        A kv_head has been finished: for an interrupt.
    faulted : Out(1)
        With a DPA controller: a program was stopped, likewise.
    """

    def __init__(self, *, params: PimRankParams) -> None:
        self.params, self.dpa = params, params.dpa
        p = params
        line = p.line_bytes
        super().__init__(
            {
                **host_bus(p),
                "command": Out(pushed(layout_of(p.chip.command))),
                "bus": Out(pushed(layout_of(p.chip.bus))),
                "write_data": Out(line * 8),
                "write_mask": Out(line),
                "read_data": In(line * 8),
                "chip_status": In(8),
                "chip_clear": Out(1),
                "finished": Out(1),
                **({} if params.dpa is None else {"faulted": Out(1)}),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = self.params
        m.submodules.host_port = self._host = HostPort(params=p)
        m.submodules.engine = self._engine = CommandEngine(params=p.engine)
        m.submodules.accesses = self._accesses = AccessQueue(params=p)
        m.submodules.feeder = self._feeder = RowFeeder(params=p)
        m.submodules.arbiter = self._arbiter = BusArbiter(params=p)
        m.submodules.reader = self._reader = ResultReader(params=p)
        m.submodules.softmax = self._softmax = Softmax(params=p.softmax)
        m.submodules.prob_lines = self._prob_lines = ProbLines(params=p)
        m.submodules.reducer = self._reducer = Reducer(params=p)
        m.submodules.segment_merger = self._segment_merger = SegmentMerger(params=p)
        self._shadows = [BankShadow(params=p) for _ in range(p.num_banks)]
        for b, shadow in enumerate(self._shadows):
            m.submodules[f"shadow{b}"] = shadow
        self._items(m)
        self._tasks(m)
        self._results(m)
        self._host_side(m)
        self._chip_side(m)
        return m

    def _items(self, m: Module) -> None:
        """Descriptors, and what passes through the stages."""
        p, host = self.params, self._host
        m.submodules.descriptor_expander = descriptor_expander = DescriptorExpander(params=p)
        m.submodules.issuer = issuer = Issuer(params=p)
        m.submodules.descriptors = descriptors = fifo.SyncFIFOBuffered(
            width=len(host.descriptor.payload.as_value()), depth=p.descriptor_queue
        )
        m.submodules.loader = self._loader = loader = QueryLoader(params=p)
        m.submodules.k_stage = self._k_stage = k_stage = KStage(params=p)
        m.submodules.v_stage = self._v_stage = v_stage = VStage(params=p)
        m.d.comb += [
            descriptors.w_data.eq(host.descriptor.payload),
            descriptors.w_en.eq(host.descriptor.valid),
            host.descriptor.ready.eq(descriptors.w_rdy),
            descriptor_expander.i.payload.eq(descriptors.r_data),
            descriptor_expander.i.valid.eq(descriptors.r_rdy),
            descriptors.r_en.eq(descriptor_expander.i.ready),
        ]
        from_program = self._micro_ops(m, descriptor_expander, issuer)
        wiring.connect(m, issuer.k, loader.i)
        wiring.connect(m, issuer.k_row, k_stage.row)
        wiring.connect(m, issuer.v, v_stage.i)
        wiring.connect(m, issuer.v_row, v_stage.row)
        wiring.connect(m, issuer.fold, self._segment_merger.item)
        wiring.connect(m, loader.o, k_stage.i)
        wiring.connect(m, k_stage.softmax, self._softmax.item)
        wiring.connect(m, k_stage.o, self._feeder.k)
        wiring.connect(m, v_stage.o, self._feeder.v)

        busy, under_way = Signal(8), Signal(range(p.SEGMENTS_AHEAD * 2 + 1))
        heads = Signal(8)  # handed to the issuer and not finished
        begun = issuer.i.valid & issuer.i.ready & (issuer.i.payload.kind == MicroKind.WR_QUERIES)
        started = loader.o.valid & loader.o.ready
        folded = self._segment_merger.item.valid & self._segment_merger.item.ready
        m.d.sync += [
            busy.eq(
                busy
                + (host.descriptor.valid & host.descriptor.ready)
                + (begun & from_program)
                - self._segment_merger.finished
            ),
            heads.eq(heads + begun - self._segment_merger.finished),
            host.done.eq(host.done + self._segment_merger.finished),
            self.finished.eq(self._segment_merger.finished),
            under_way.eq(under_way + started - folded),
        ]
        # Serial, for comparison: one item after the other, and banks and bus in turn.
        static_order, alone = Signal(), Signal()  # an item in serial order is under way, or was the last that began
        idle, scores = Signal(), Signal()
        with m.If(started):
            m.d.sync += alone.eq(loader.o.payload.static_order)
        m.d.comb += [
            static_order.eq(alone & (under_way != 0)),
            issuer.idle.eq(heads == 0),
            idle.eq(self._feeder.idle & Cat(s.idle for s in self._shadows).all()),
            scores.eq(Cat(s.score for s in self._shadows).any() | self._reader.o.valid),
            k_stage.set.eq(loader.set),
            k_stage.may_start.eq(~(loader.o.payload.static_order | alone) | (under_way == 0)),
            k_stage.queries_landed.eq(self._arbiter.queries_landed),
            loader.freed.eq(k_stage.queries_freed),
            loader.urgent.eq(~k_stage.busy),
            v_stage.row_landed.eq(self._arbiter.row_landed),
            host.busy.eq(busy),
            host.work.eq((busy != 0) | (host.queued != 0) | self._dpa_running),
            self._arbiter.enable.eq(~static_order | idle),
            self._feeder.enable.eq(~static_order | (idle & ~scores & self._arbiter.empty)),
        ]

    def _micro_ops(self, m: Module, descriptor_expander: DescriptorExpander, issuer: Issuer) -> Value:
        """Micro-ops of descriptors and, with a DPA controller, of programs; whether those now are of a program."""
        self._dpa_running = Signal()
        if self.dpa is None:
            wiring.connect(m, descriptor_expander.o, issuer.i)
            return Const(0)
        host = self._host
        m.submodules.dpa = dpa = DpaController(params=self.dpa)
        wiring.connect(m, host.config, dpa.config)
        program, within = Signal(), Signal()  # whose turn it is, and whether it is in the middle
        ours, theirs, to = descriptor_expander.o, dpa.o, issuer.i
        m.d.comb += [
            dpa.enable.eq(host.enable),
            dpa.slot.eq(host.slot),
            host.slot_status.eq(dpa.status),
            host.dpa_state.eq(dpa.state),
            self._dpa_running.eq(dpa.state.running),
            self.faulted.eq(dpa.faulted),
            to.valid.eq(Mux(program, theirs.valid, ours.valid)),
            *(
                to.payload[f.name].eq(Mux(program, theirs.payload[f.name], ours.payload[f.name]))
                for f in self.params.micro_op.fields
            ),
            theirs.ready.eq(program & to.ready),
            ours.ready.eq(~program & to.ready),
        ]
        ended = theirs.payload.kind == MicroKind.END
        with m.If(program):
            with m.If(theirs.valid & theirs.ready):
                m.d.sync += within.eq(~ended)
            with m.If(~within & ~theirs.valid):
                m.d.sync += program.eq(0)
        with m.Elif(theirs.valid & ~descriptor_expander.begun & ~ours.valid):
            m.d.sync += program.eq(1)
        return program

    def _tasks(self, m: Module) -> None:
        """Each bank's tasks: one of the host and one of the feeder in turn, if both wait."""
        p, engine = self.params, self._engine
        kinds = []
        for b, task in enumerate(engine.tasks):
            rows, host = self._feeder.tasks[b], self._accesses.tasks[b]
            offered, before, of_host = (Signal(name=f"{n}{b}") for n in ("offered", "before", "of_host"))
            m.d.comb += [
                of_host.eq(Mux(offered, before, host.valid & (~rows.valid | ~before))),
                task.valid.eq(host.valid | rows.valid),
                task.payload.eq(Mux(of_host, host.payload.as_value(), rows.payload.as_value())),
                host.ready.eq(task.ready & of_host),
                rows.ready.eq(task.ready & ~of_host),
            ]
            m.d.sync += offered.eq(task.valid & ~task.ready)  # what is offered stays until it is taken
            with m.If(task.valid):
                m.d.sync += before.eq(of_host)
            kinds.append(of_host)
        command = engine.command.payload
        bank = (command.bank_group << (p.engine.organization.banks_per_group - 1).bit_length()) + command.bank
        is_mac = engine.command.valid & (command.code == Command.PIM_MAC)
        mac = data.View(layout_of(p.mac_tag), command.tag[: p.mac_tag.width])
        for b, shadow in enumerate(self._shadows):
            m.d.comb += [
                shadow.accepted.eq(engine.tasks[b].valid & engine.tasks[b].ready & ~kinds[b]),
                shadow.issue.eq(is_mac & (bank == b)),
                shadow.resume.eq(command.resume),
                shadow.last.eq(command.last),
                shadow.count.eq(command.count),
                shadow.mac.eq(mac),
                engine.hold[b].eq(shadow.hold),
            ]
        place = command.tag[: p.host_tag.width]
        m.d.comb += [
            self._accesses.written.eq(engine.command.valid & (command.code == Command.WR)),
            self._accesses.read.eq(engine.command.valid & (command.code == Command.RD)),
            self._accesses.place.eq(place),
        ]

    def _results(self, m: Module) -> None:
        """Scores to the softmax, probabilities back to the banks, sums to the segment merger."""
        p, reader, arbiter, shadows = self.params, self._reader, self._arbiter, self._shadows
        wiring.connect(m, reader.o, arbiter.reads)
        wiring.connect(m, arbiter.bus, self._engine.bus)
        sums_used, sum_set = Signal(range(3)), Signal()
        row_done = Cat(s.row_done for s in shadows)
        v_step = self._v_stage.o
        taken = v_step.valid & v_step.ready & self._v_stage.first
        m.d.sync += [
            sums_used.eq(sums_used + taken - self._segment_merger.release),
            sum_set.eq(sum_set ^ self._segment_merger.release),
        ]
        standing = []
        for which in range(2):
            done = Cat(s.row_done & s.done_segment & (s.done_set == which) for s in shadows)
            banks = Signal(p.num_banks, name=f"sums{which}")
            read = reader.sums_taken & (sum_set == which)
            m.d.sync += banks.eq((banks | done) & ~read.replicate(p.num_banks))
            standing.append(banks.all())
        fold = self._segment_merger.item.payload
        m.d.comb += [
            reader.score.eq(Cat(s.score for s in shadows)),
            reader.slot.eq(Cat(s.slot for s in shadows)),
            reader.sums.eq(Mux(sum_set, standing[1], standing[0]) & self._segment_merger.item.valid),
            reader.sum_set.eq(sum_set),
            reader.sum_last_group_line.eq(fold.last_group_line),
            self._v_stage.sums_free.eq(sums_used != 2),
            self._prob_lines.row_done.eq(row_done),
        ]
        for b, shadow in enumerate(shadows):
            m.d.comb += [
                reader.step[b].eq(shadow.step),
                reader.token[b].eq(shadow.token),
                shadow.drained.eq(reader.drained[b]),
                shadow.task_drained.eq(reader.task_drained[b]),
                self._prob_lines.done_slot[b].eq(shadow.done_slot),
            ]
        for s in range(2):
            m.d.comb += [
                reader.lines[s].eq(self._k_stage.lines[s]),
                reader.last_group_line[s].eq(self._k_stage.last_group_line[s]),
            ]
        # Lines for the operand buffers: probabilities before queries.
        probs, queries, lines = self._prob_lines.o, self._loader.lines, arbiter.lines
        wiring.connect(m, self._softmax.o, self._prob_lines.i)
        m.d.comb += [
            lines.valid.eq(probs.valid | queries.valid),
            lines.payload.eq(Mux(probs.valid, probs.payload.as_value(), queries.payload.as_value())),
            probs.ready.eq(lines.ready),
            queries.ready.eq(lines.ready & ~probs.valid),
        ]
        # Lines of results.
        route = arbiter.route
        score = self._softmax.score
        chips = [self.read_data.word_select(c, p.access_bytes * 8) for c in range(p.num_chips)]
        m.d.comb += [
            score.valid.eq(arbiter.arriving & ~route.sum),
            score.payload.slot.eq(route.slot),
            score.payload.line.eq(route.line),
            score.payload.group_line.eq(route.group_line),
            self._k_stage.scored.eq(Cat(score.valid & ~route.slot, score.valid & route.slot)),
            self._reducer.valid.eq(arbiter.arriving & route.sum),
            self._reducer.sums.eq(self.read_data),
            self._reducer.dim.eq(route.dim),
            self._reducer.group_line.eq(route.group_line),
            self._reducer.release.eq(self._segment_merger.release),
            self._reducer.query.eq(self._segment_merger.query),
            self._reducer.beat.eq(self._segment_merger.beat),
            self._segment_merger.whole_group_lines.eq(self._reducer.whole_group_lines),
            self._segment_merger.vector.eq(self._reducer.vector),
            score.payload.scores.eq(Cat(chip.word_select(s, 32) for s in range(p.queries_per_line) for chip in chips)),
        ]
        wiring.connect(m, self._softmax.stats, self._segment_merger.stats)

    def _host_side(self, m: Module) -> None:
        host, accesses, engine = self._host, self._accesses, self._engine
        m.d.sync += self.chip_clear.eq(host.clear)
        m.d.comb += [
            host.valid.eq(self.host_valid),
            host.command.eq(self.host),
            host.dq_data.eq(self.host_data),
            host.dq_mask.eq(self.host_mask),
            self.host_out_valid.eq(host.out_valid),
            self.host_out_data.eq(host.out_data),
            host.chip_status.eq(self.chip_status),
            engine.enable.eq(host.enable),
            host.engine_idle.eq(engine.idle),
            host.queued.eq(accesses.level),
            host.queue_full.eq(accesses.full),
            accesses.push.eq(host.push),
            accesses.access.eq(host.access),
            host.read_valid.eq(accesses.reading),
            host.read_entry.eq(accesses.entry),
            self._loader.write_en.eq(host.query_en),
            self._loader.write_line.eq(host.query_line),
            self._loader.write_data.eq(self.host_data),
            self._segment_merger.read_line.eq(host.output_line),
            host.output_data.eq(self._segment_merger.line),
            self._segment_merger.read_output.eq(host.statistics_output),
            host.statistics.eq(Cat(self._segment_merger.m, self._segment_merger.l)),
        ]

    def _chip_side(self, m: Module) -> None:
        """The commands and the data bus. Lines are re-laid out on their way: towards the chips, and back."""
        p, host, engine, accesses, arbiter = self.params, self._host, self._engine, self._accesses, self._arbiter
        out, org = self.command.payload, p.engine.organization
        command = engine.command.payload
        mac = data.View(layout_of(p.mac_tag), command.tag[: p.mac_tag.width])
        bank_bits = (org.banks_per_group - 1).bit_length()
        burst_bits = (org.burst_length - 1).bit_length()
        m.d.comb += [
            self.command.valid.eq(engine.command.valid | host.direct_valid),
            out.code.eq(Mux(host.direct_valid, host.direct.code, command.code)),
            out.bank_group.eq(Mux(host.direct_valid, host.direct.bank >> bank_bits, command.bank_group)),
            out.bank.eq(Mux(host.direct_valid, host.direct.bank[:bank_bits] if bank_bits else 0, command.bank)),
            out.row.eq(Mux(host.direct_valid, host.direct.row, command.row)),
            out.column.eq(Mux(host.direct_valid, host.direct.column, command.column >> burst_bits)),
            out.count.eq(Mux(host.direct_valid, 1, command.count)),
            out.mode.eq(mac.mode),
            out.first.eq(mac.first),
            out.set.eq(mac.set),
            out.start.eq(mac.start),
            out.resume.eq(command.resume),
            self.bus.valid.eq(engine.bus_command.valid),
            self.bus.payload.eq(Cat(engine.bus_command.payload.read, engine.bus_command.payload.tag)),
        ]
        m.submodules.to_chips = to_chips = Relayout(params=p.relayout)
        m.submodules.to_host = to_host = Relayout(params=p.relayout)
        m.submodules.posted_relayout = posted = Relayout(params=p.relayout)
        posted_data, posted_mask = self._relaid(m, posted, self.host_data, self.host_mask)
        direct_data, direct_mask = self._relaid(m, to_chips, host.direct_data, host.direct_mask)
        m.d.comb += [
            to_host.i.eq(self._by_beat(self.read_data)),
            host.chip_data.eq(to_host.o),
            accesses.data.eq(posted_data),
            accesses.mask.eq(posted_mask),
        ]
        absent = Cat(bit.replicate(2) for bit in arbiter.write_absent)
        m.d.comb += [
            self.write_data.eq(
                Mux(arbiter.writing, arbiter.write_data, Mux(accesses.writing, accesses.write_data, direct_data))
            ),
            self.write_mask.eq(Mux(arbiter.writing, absent, Mux(accesses.writing, accesses.write_mask, direct_mask))),
        ]

    def _relaid(self, m: Module, relayout: Relayout, line: Value, mask: Value) -> tuple[Value, Value]:
        """A line of the host and its mask as the chips store them."""
        m.d.comb += relayout.i.eq(line)
        return self._by_chip(relayout.o.as_value()), self._relaid_mask(mask)

    def _by_chip(self, line: Value) -> Value:
        """From byte ``chips * beat + chip`` to chip by chip."""
        chips, beats = self.params.num_chips, self.params.access_bytes
        return Cat(line.word_select(chips * b + c, 8) for c in range(chips) for b in range(beats))

    def _by_beat(self, line: Value) -> Value:
        chips, beats = self.params.num_chips, self.params.access_bytes
        return Cat(line.word_select(beats * c + b, 8) for b in range(beats) for c in range(chips))

    def _relaid_mask(self, mask: Value) -> Value:
        """Mask bits follow their bytes: a 2x2 transpose of beats and chips, then chip by chip."""
        chips, beats = self.params.num_chips, self.params.access_bytes

        def source(beat: int, chip: int) -> int:
            return chips * (beat ^ 1) + (chip ^ 1) if beat % 2 != chip % 2 else chips * beat + chip

        return Cat(mask[source(b, c)] for c in range(chips) for b in range(beats))
