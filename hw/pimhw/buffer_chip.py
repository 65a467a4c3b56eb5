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
from .host_side.chip_port import ChipPort
from .host_side.host_accesses import HostAccesses
from .host_side.host_port import HostPort, host_bus
from .host_side.order_gate import OrderGate
from .pipeline import layout_of, pushed, slots_follow
from .rank_pu.reducer import Reducer
from .rank_pu.segment_merger import SegmentMerger
from .rank_pu.softmax import Softmax
from .sequencer.bank_shadow import BankShadow
from .sequencer.bus_arbiter import BusArbiter
from .sequencer.descriptor_expander import DescriptorExpander
from .sequencer.issuer import Issuer
from .sequencer.lines import ProbLines
from .sequencer.micro_op_arbiter import MicroOpArbiter
from .sequencer.result_reader import ResultReader
from .sequencer.row_feeder import RowFeeder
from .sequencer.stages import KStage, QueryLoader, VStage
from .sequencer.sum_sets import SumSets
from .sequencer.task_arbiter import TaskArbiter
from .sequencer.work_tracker import WorkTracker

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
    host, host_data, host_mask : In; host_out_valid, host_out_data : Out
        The host's DDR4 bus: see :class:`~.host_side.host_port.HostPort`. Byte ``chips * dq_beat + chip``.
    command : Out: valid, payload (params.chip.command); late : Out(array): valid, payload (params.chip.late)
        Commands for the chips, in the first CK of a clock and in those after it.
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
        self.params = p = params
        line = p.line_bytes
        super().__init__(
            {
                **host_bus(p),
                "command": Out(pushed(layout_of(p.chip.command))),
                "late": Out(pushed(layout_of(p.chip.late))).array(p.ck_per_clock - 1),
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
        # host side
        self._host = HostPort(params=p)
        self._accesses = HostAccesses(params=p)
        self._chip_port = ChipPort(params=p)
        # micro-ops
        width = len(self._host.descriptor.payload.as_value())
        self._descriptors = fifo.SyncFIFOBuffered(width=width, depth=p.descriptor_queue)
        self._descriptor_gate = OrderGate(depth=p.descriptor_queue)
        self._descriptor_expander = DescriptorExpander(params=p)
        self._controller = None if p.dpa is None else DpaController(params=p.dpa)
        self._config_gate = None if p.dpa is None else OrderGate(depth=p.dpa.host_queue)
        self._micro_ops = None if p.dpa is None else MicroOpArbiter(params=p)
        self._issuer = Issuer(params=p)
        # stages of an item
        self._work = WorkTracker(params=p)
        self._loader = QueryLoader(params=p)
        self._k_stage, self._v_stage = KStage(params=p), VStage(params=p)
        self._feeder = RowFeeder(params=p)
        # banks
        self._tasks = [TaskArbiter(params=p) for _ in range(p.num_banks)]
        self._shadows = [BankShadow(params=p) for _ in range(p.num_banks)]
        self._engine = CommandEngine(params=p.engine)
        # data bus and results
        self._reader, self._sum_sets = ResultReader(params=p), SumSets(params=p)
        self._arbiter = BusArbiter(params=p)
        self._softmax, self._prob_lines = Softmax(params=p.softmax), ProbLines(params=p)
        self._reducer, self._segment_merger = Reducer(params=p), SegmentMerger(params=p)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.host_port = self._host
        m.submodules.accesses = self._accesses
        m.submodules.chip_port = self._chip_port
        m.submodules.descriptors, m.submodules.descriptor_gate = self._descriptors, self._descriptor_gate
        m.submodules.descriptor_expander = self._descriptor_expander
        m.submodules.issuer = self._issuer
        m.submodules.work_tracker = self._work
        m.submodules.loader = self._loader
        m.submodules.k_stage, m.submodules.v_stage = self._k_stage, self._v_stage
        m.submodules.feeder = self._feeder
        m.submodules.engine = self._engine
        m.submodules.reader, m.submodules.sum_sets = self._reader, self._sum_sets
        m.submodules.arbiter = self._arbiter
        m.submodules.softmax, m.submodules.prob_lines = self._softmax, self._prob_lines
        m.submodules.reducer, m.submodules.segment_merger = self._reducer, self._segment_merger
        for b, (tasks, shadow) in enumerate(zip(self._tasks, self._shadows, strict=True)):
            m.submodules[f"tasks{b}"] = tasks
            m.submodules[f"shadow{b}"] = shadow
        self._count_work(m, *self._micro_op_source(m))
        self._items(m)
        self._banks(m)
        self._results(m)
        self._result_lines(m)
        self._host_side(m)
        self._chip_side(m)
        return m

    def _micro_op_source(self, m: Module) -> tuple[Value, Value]:
        """Descriptors, and programs if there is a DPA controller; whether a micro-op is of a program, and one runs."""
        host, expander, issuer, descriptors = self._host, self._descriptor_expander, self._issuer, self._descriptors
        accesses, gate = self._accesses, self._descriptor_gate
        m.d.comb += [
            descriptors.w_data.eq(host.descriptor.payload),
            descriptors.w_en.eq(host.descriptor.valid),
            host.descriptor.ready.eq(descriptors.w_rdy),
            expander.i.payload.eq(descriptors.r_data),
            expander.i.valid.eq(descriptors.r_rdy & gate.open),
            descriptors.r_en.eq(gate.released),
            gate.accepted.eq(host.descriptor.valid & host.descriptor.ready),
            gate.released.eq(expander.i.valid & expander.i.ready),
            gate.waiting.eq(accesses.waiting),
            gate.mark.eq(accesses.oldest_marks.descriptors),
            gate.cleared.eq(accesses.cleared.descriptors),
            accesses.marks.descriptors.eq(gate.count),
        ]
        dpa, arbiter, config_gate = self._controller, self._micro_ops, self._config_gate
        if dpa is None or arbiter is None or config_gate is None:
            wiring.connect(m, expander.o, issuer.i)
            return Const(0), Const(0)
        m.submodules.dpa = dpa
        m.submodules.micro_ops = arbiter
        m.submodules.config_gate = config_gate
        wiring.connect(m, host.config, dpa.config)
        wiring.connect(m, expander.o, arbiter.descriptor)
        wiring.connect(m, arbiter.o, issuer.i)
        m.d.comb += [
            config_gate.accepted.eq(host.config.valid & host.config.ready),
            config_gate.released.eq(dpa.config_taken),
            config_gate.waiting.eq(accesses.waiting),
            config_gate.mark.eq(accesses.oldest_marks.configs),
            config_gate.cleared.eq(accesses.cleared.configs),
            accesses.marks.configs.eq(config_gate.count),
            dpa.config_open.eq(config_gate.open),
            dpa.enable.eq(host.enable),
            dpa.slot.eq(host.slot),
            host.slot_status.eq(dpa.status),
            host.dpa_state.eq(dpa.state),
            self.faulted.eq(dpa.faulted),
            arbiter.begun.eq(expander.begun),
            arbiter.program.valid.eq(dpa.o.valid),
            dpa.o.ready.eq(arbiter.program.ready),
            *(arbiter.program.payload[f.name].eq(dpa.o.payload[f.name]) for f in self.params.micro_op.fields),
        ]
        return arbiter.of_program, dpa.state.running

    def _count_work(self, m: Module, of_program: Value, running: Value) -> None:
        """What has begun and not finished, and what must wait for it; `running`: so does the DPA controller."""
        host, work, issuer, item = self._host, self._work, self._issuer, self._loader.o
        merger, arbiter = self._segment_merger, self._arbiter
        idle, scores = Signal(), Signal()  # no row step is under way; a score stands or is read
        m.d.sync += self.finished.eq(merger.finished)
        m.d.comb += [
            work.accepted.eq(host.descriptor.valid & host.descriptor.ready),
            work.begun.eq(issuer.i.valid & issuer.i.ready & (issuer.i.payload.kind == MicroKind.WR_QUERIES)),
            work.of_program.eq(of_program),
            work.next_static_order.eq(item.payload.static_order),
            work.started.eq(item.valid & item.ready),
            work.merged.eq(merger.item.valid & merger.item.ready),
            work.finished.eq(merger.finished),
            issuer.idle.eq(work.issuer_idle),
            host.busy.eq(work.busy),
            host.done.eq(work.done),
            host.work.eq((work.busy != 0) | (host.queued != 0) | ~host.append.clean | running),
            self._k_stage.may_start.eq(work.may_start),
            # In static order banks and bus take turns.
            idle.eq(self._feeder.idle & Cat(s.idle for s in self._shadows).all()),
            scores.eq(Cat(s.score for s in self._shadows).any() | self._reader.o.valid),
            arbiter.enable.eq(~work.static_order | idle),
            self._feeder.enable.eq(~work.static_order | (idle & ~scores & arbiter.empty)),
        ]

    def _items(self, m: Module) -> None:
        """Items through the stages, to row steps."""
        issuer, loader, k_stage, v_stage = self._issuer, self._loader, self._k_stage, self._v_stage
        wiring.connect(m, issuer.k, loader.i)
        wiring.connect(m, issuer.k_row, k_stage.row)
        wiring.connect(m, issuer.v, v_stage.i)
        wiring.connect(m, issuer.v_row, v_stage.row)
        wiring.connect(m, issuer.fold, self._segment_merger.item)
        wiring.connect(m, loader.o, k_stage.i)
        wiring.connect(m, k_stage.softmax, self._softmax.item)
        wiring.connect(m, k_stage.o, self._feeder.k)
        wiring.connect(m, v_stage.o, self._feeder.v)
        m.d.comb += [
            k_stage.set.eq(loader.set),
            k_stage.queries_landed.eq(self._arbiter.queries_landed),
            loader.freed.eq(k_stage.queries_freed),
            loader.urgent.eq(~k_stage.busy),
            v_stage.row_landed.eq(self._arbiter.row_landed),
        ]

    def _banks(self, m: Module) -> None:
        """Tasks to the bank machines, and what is known of the bank PUs from their commands."""
        p, engine, accesses = self.params, self._engine, self._accesses
        command = engine.command.payload
        bank = (command.bank_group << (p.engine.organization.banks_per_group - 1).bit_length()) + command.bank
        is_mac = engine.command.valid & (command.code == Command.PIM_MAC)
        mac = data.View(layout_of(p.mac_tag), command.tag[: p.mac_tag.width])
        for b, (tasks, shadow) in enumerate(zip(self._tasks, self._shadows, strict=True)):
            wiring.connect(m, accesses.tasks[b], tasks.host)
            wiring.connect(m, self._feeder.tasks[b], tasks.rows)
            wiring.connect(m, tasks.o, engine.tasks[b])
            m.d.comb += [
                shadow.accepted.eq(tasks.o.valid & tasks.o.ready & ~tasks.of_host),
                shadow.issue.eq(is_mac & (bank == b)),
                shadow.resume.eq(command.resume),
                shadow.last.eq(command.last),
                shadow.count.eq(command.count),
                shadow.mac.eq(mac),
                engine.hold[b].eq(shadow.hold),
            ]
        m.d.comb += [
            accesses.written.eq(engine.command.valid & (command.code == Command.WR)),
            accesses.read.eq(engine.command.valid & (command.code == Command.RD)),
            accesses.place.eq(command.tag[: p.host_tag.width]),
        ]

    def _results(self, m: Module) -> None:
        """Which results are read, and lines for the operand buffers."""
        reader, arbiter, shadows, sums = self._reader, self._arbiter, self._shadows, self._sum_sets
        merger, v_step, prob_lines = self._segment_merger, self._v_stage.o, self._prob_lines
        wiring.connect(m, reader.o, arbiter.reads)
        wiring.connect(m, arbiter.bus, self._engine.bus)
        m.d.comb += [
            sums.taken.eq(v_step.valid & v_step.ready & self._v_stage.first),
            sums.done.eq(Cat(s.row_done & s.done_segment for s in shadows)),
            sums.read.eq(reader.sums_taken),
            sums.release.eq(merger.release),
            self._v_stage.sums_free.eq(sums.free),
            reader.score.eq(Cat(s.score for s in shadows)),
            reader.slot.eq(Cat(s.slot for s in shadows)),
            reader.sums.eq(sums.stand & merger.item.valid),
            reader.sum_set.eq(sums.oldest),
            reader.sum_last_group_line.eq(merger.item.payload.last_group_line),
            prob_lines.row_done.eq(Cat(s.row_done for s in shadows)),
        ]
        for b, shadow in enumerate(shadows):
            m.d.comb += [
                reader.step[b].eq(shadow.step),
                reader.token[b].eq(shadow.token),
                shadow.drained.eq(reader.drained[b]),
                shadow.task_drained.eq(reader.task_drained[b]),
                sums.done_set[b].eq(shadow.done_set),
                prob_lines.done_slot[b].eq(shadow.done_slot),
            ]
        for s in range(2):
            m.d.comb += [
                reader.lines[s].eq(self._k_stage.lines[s]),
                reader.last_group_line[s].eq(self._k_stage.last_group_line[s]),
            ]
        # Probabilities before queries.
        probs, queries, lines = prob_lines.o, self._loader.lines, arbiter.lines
        wiring.connect(m, self._softmax.o, prob_lines.i)
        m.d.comb += [
            lines.valid.eq(probs.valid | queries.valid),
            lines.payload.eq(Mux(probs.valid, probs.payload.as_value(), queries.payload.as_value())),
            probs.ready.eq(lines.ready),
            queries.ready.eq(lines.ready & ~probs.valid),
        ]

    def _result_lines(self, m: Module) -> None:
        """Scores to the softmax, sums to the reducer and on to the segment merger."""
        p, arbiter, reducer, merger = self.params, self._arbiter, self._reducer, self._segment_merger
        route, score = arbiter.route, self._softmax.score
        chips = [self.read_data.word_select(c, p.access_bytes * 8) for c in range(p.num_chips)]
        m.d.comb += [
            score.valid.eq(arbiter.arriving & ~route.sum),
            score.payload.slot.eq(route.slot),
            score.payload.line.eq(route.line),
            score.payload.group_line.eq(route.group_line),
            score.payload.scores.eq(Cat(chip.word_select(s, 32) for s in range(p.queries_per_line) for chip in chips)),
            self._k_stage.scored.eq(Cat(score.valid & ~route.slot, score.valid & route.slot)),
            reducer.valid.eq(arbiter.arriving & route.sum),
            reducer.sums.eq(self.read_data),
            reducer.dim.eq(route.dim),
            reducer.group_line.eq(route.group_line),
            reducer.release.eq(merger.release),
            reducer.query.eq(merger.query),
            reducer.beat.eq(merger.beat),
            merger.whole_group_lines.eq(reducer.whole_group_lines),
            merger.vector.eq(reducer.vector),
        ]
        wiring.connect(m, self._softmax.stats, merger.stats)

    def _host_side(self, m: Module) -> None:
        """The host's buses, and what the host port writes and reads."""
        host, accesses, engine = self._host, self._accesses, self._engine
        wiring.connect(m, host.append, accesses.append)
        m.d.sync += self.chip_clear.eq(host.clear)
        m.d.comb += [
            *slots_follow(host.slots, self.host),
            host.dq_data.eq(self.host_data),
            host.dq_mask.eq(self.host_mask),
            self.host_out_valid.eq(host.out_valid),
            self.host_out_data.eq(host.out_data),
            host.chip_status.eq(self.chip_status),
            engine.enable.eq(host.enable),
            engine.refresh_2x.eq(host.refresh_2x),
            engine.refresh_request.eq(host.refresh_request),
            host.engine_idle.eq(engine.idle),
            host.queued.eq(accesses.queued),
            host.queue_full.eq(accesses.full),
            accesses.push.eq(host.push),
            accesses.access.eq(host.access),
            accesses.line_data.eq(self.host_data),
            accesses.read_data.eq(self.read_data),
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
        """Commands and lines for the chips, and lines of theirs for the host."""
        host, engine, accesses, arbiter, port = self._host, self._engine, self._accesses, self._arbiter, self._chip_port
        m.d.comb += [
            port.engine.valid.eq(engine.command.valid),
            port.engine.payload.eq(engine.command.payload),
            *slots_follow(port.direct, host.direct),
            *slots_follow([self.command], [port.command]),
            *slots_follow(self.late, port.late),
            self.bus.valid.eq(engine.bus_command.valid),
            self.bus.payload.eq(Cat(engine.bus_command.payload.read, engine.bus_command.payload.tag)),
            port.posted_in.data.eq(self.host_data),
            port.posted_in.mask.eq(self.host_mask),
            accesses.data.eq(port.posted_line.data),
            accesses.mask.eq(port.posted_line.mask),
            port.direct_in.data.eq(host.direct_data),
            port.direct_in.mask.eq(host.direct_mask),
            port.operand.valid.eq(arbiter.writing),
            port.operand.data.eq(arbiter.write_data),
            port.operand.mask.eq(Cat(bit.replicate(2) for bit in arbiter.write_absent)),
            port.posted.valid.eq(accesses.writing),
            port.posted.data.eq(accesses.write_data),
            port.posted.mask.eq(accesses.write_mask),
            self.write_data.eq(port.write_data),
            self.write_mask.eq(port.write_mask),
            port.read_data.eq(self.read_data),
            host.chip_data.eq(port.host_line),
        ]
