// A PIM rank clock by clock, without data: pimhw.buffer_chip as far as it decides when anything happens.
#pragma once
#include <deque>
#include <utility>
#include <vector>

#include "agenda.h"
#include "bus.h"
#include "command_engine.h"
#include "contract.h"
#include "dpa.h"
#include "host_side.h"
#include "rank_pu.h"
#include "sequencer.h"

struct TraceRecord {
    int64_t clock;
    int32_t code, bank_group, bank, row, column, count, mode, last, phase;
};

struct ReadRecord {
    int64_t clock;
    uint8_t data[MAX_LINE];
};

// RTL: pimhw.buffer_chip.BufferChip.
struct RankTiming {
    const Config c;
    Agenda agenda;
    CommandEngine engine;
    DescriptorExpander descriptor_expander;
    Issuer issuer;
    QueryLoader loader;
    KStage k_stage;
    VStage v_stage;
    RowFeeder feeder;
    BankShadows shadows;
    ResultReader reader;
    ProbLines prob_lines;
    BusArbiter arbiter;
    Softmax softmax;
    Reducer reducer;
    SegmentMerger segment_merger;
    HostPort host;
    AccessQueue accesses;
    AppendBuffer appends;
    OrderGate descriptor_gate, config_gate;
    Fifo<Descriptor, 256> descriptors;
    Dispatcher dpa;
    MicroOpArbiter micro_ops;
    TaskArbiter tasks;
    SumSets sum_sets;
    WorkTracker work;
    bool finished_out = false;
    // the simulation
    int64_t clock = 0, op_due = 0;  // op_due: when the next command of the host issues, if there is one
    std::deque<HostOp> ops;
    std::deque<std::pair<int64_t, HostOp>> data;
    std::vector<TraceRecord> trace;
    std::vector<ReadRecord> lines;
    std::vector<int64_t> finished, issued;
    std::vector<Counts> counts_then;  // with each that finished
    ReadRecord answer;  // on its way to the host
    bool tracing = true;
    bool watchful = false;  // all units are awake in every clock: the same, slowly

    explicit RankTiming(const Config& config)
        : c(config), engine(c), descriptor_expander(c), issuer(c), loader(c), k_stage(c), v_stage(c), feeder(c), shadows(c),
          reader(c), prob_lines(c), arbiter(c), softmax(c), reducer(c), segment_merger(c), host(c), accesses(c), appends(c), dpa(c), sum_sets(c) {
        descriptors.size(c.descriptor_queue);
        trace.reserve(1 << 17);  // it grows all the time; pages that are not used cost nothing
    }

    void give(const HostOp& op);
    void step(int64_t limit, bool until_host_idle);
    template <Units MAY> void pass(Units units);
    void read_on(int64_t limit);
    void record();
    void read_line(ReadRecord& record) const;
    void count(int64_t finish, int64_t* into) const;
    bool sums() const { return sum_sets.stand() && issuer.fold.valid; }
    // Reads of a result but the last one, and but the last one of its item.
    int reads_before_end(const ResultReader::Way& way) const {
        if (way.is_sum) return std::min(c.dims_per_bank - reader.dim, c.head_dim - reducer.count) - 1;
        const bool slot = reader.slot_of(shadows, way);
        return std::min(k_stage.last_group_line[slot] + 1 - way.group_line, (k_stage.expected[slot] + 1) / 2) - 1;
    }
    int reads_before_end() const {
        const ResultReader::Way &first = reader.offer(), &second = reader.ways[!reader.offered()];
        int reads = reads_before_end(first);
        if (second.busy) reads = std::min(2 * reads, 2 * reads_before_end(second) + 1);
        return std::min(reads, arbiter.reads_before_turn());
    }
    void wake_host();
    void host_signals(HostSlots& slots, HostOp& line, bool& has_line);
    void tick_host(const HostSlots& slots, bool working, bool engine_idle);
};

#include "rank_ports.h"

// One clock: what the units decide from the states before it, then all states move on; only those that are awake.
// `MAY`: units that may be awake, so that the usual clocks come without what others do.
template <Units MAY> void RankTiming::pass(const Units units) {
    const int64_t t = clock;
    Units awake = units & MAY;

    // Phase 1: what all units decide, from their states alone.
    HostSlots slots;
    HostOp given_line;
    bool engine_idle = false;
    const bool clean = appends.clean(accesses.own_level != 0);
    const int64_t accepted_items[2] = {descriptor_gate.accepted, config_gate.accepted};
    const int64_t* cleared = clean ? accepted_items : appends.cleared;
    if (awake & HOST) {
        bool has_line;
        engine_idle = host.leaving && engine.idle(t, host.enabled);
        host_signals(slots, given_line, has_line);
        if (host.reads.ready(t)) {
            std::memset(answer.data, 0, sizeof answer.data);
            answer.clock = t + 1;
            read_line(answer);
        }
        host.decide(t, slots, has_line ? &given_line : nullptr, accesses.full(), appends, clean, descriptors.ready(), dpa.configs.ready());
        if (host.now.descriptor_valid || host.now.config_valid) { awake |= FRONT; agenda.soon |= ACCESSES; }
    }
    const bool enable = host.enable;
    // tasks of the banks
    const Mask rows = feeder.pending, task_valid = accesses.held | rows;
    Mask ready = 0, of_host = 0, accepted = 0, left = rows;
    if (awake & TASKS) {
        const Mask held = accesses.held;
        ready = engine.ready_tasks(enable);
        of_host = tasks.of_host(held, rows, accesses.tasks);
        accepted = task_valid & ready;
        left = rows & ~(ready & ~of_host);
    }
    const Mask accepted_rows = accepted & ~of_host;
    // serial order, for comparison
    const bool static_order = MAY == EVERYTHING && work.static_order();
    const bool idle = !static_order || (feeder.pending == 0 && shadows.idle(t));
    const bool quiet_scores = !static_order || (!shadows.score && !reader.busy());
    // the bus
    const bool reads = !arbiter.writing;
    const int read_bank = reader.offer().bank;
    const bool asks = awake & (ENGINE | BUS) && arbiter.asks(idle, reader.busy());
    if (awake & ENGINE) engine.decide(t, enable, task_valid, shadows.hold, asks);
    else engine.rest();
    const bool taken = awake & BUS && engine.bus_goes(t, enable, asks, reads, read_bank), read = taken && reads;
    const Item &k_item = issuer.k.out, &folding = issuer.fold.out;
    if (read) reader.read(shadows, k_stage, folding.last_group_line);
    const bool lines_ready = arbiter.queue.ready();
    bool line_pushed = false, loader_step = false;
    LineMarks marks{};
    if (awake & LINES) {
        prob_lines.decide(lines_ready);
        const bool loader_line = loader.line_valid(t, !k_stage.busy);
        loader_step = loader_line && lines_ready && !prob_lines.now.valid;
        line_pushed = lines_ready && (prob_lines.now.valid || loader_line);
        marks = prob_lines.now.valid ? LineMarks{false, prob_lines.now.row_end} : LineMarks{loader.set_end(k_item), false};
    }
    // K stage, V stage, row steps
    bool start = false, k_taken = false, v_taken = false, v_ends = false, v_first = false;
    if (awake & (STAGES | TASKS)) {
        start = loader.passes(issuer.k.valid, k_item) && k_stage.may(k_item, work.may_start(k_item)) && softmax.ready();
        const bool k_valid = k_stage.busy && issuer.k_row.valid;
        const bool v_valid = v_stage.valid(issuer.v.valid, issuer.v_row.valid, sum_sets.free());
        const bool take = idle && quiet_scores && !(static_order && arbiter.queue.valid) && left == 0 && (k_valid || v_valid);
        v_taken = take && feeder.choose_v(k_valid, v_valid);
        k_taken = take && !v_taken;
        v_first = v_stage.number == 0;
        v_ends = v_taken && v_stage.end(issuer.v.out);
    }
    // rank PU
    const bool words_ready = prob_lines.ready();
    if (awake & LINES && softmax.full && words_ready) awake |= SOFTMAX;
    if (awake & SOFTMAX) softmax.decide(t, words_ready);
    bool stats_taken = false, stats_last = false;
    if (awake & SEGMENT_MERGER) {
        stats_last = softmax.stats_last();
        stats_taken = softmax.stats_valid() && !segment_merger.have;
        segment_merger.decide(issuer.fold.valid, folding, reducer.whole_group_lines);
    }
    const bool release = awake & SEGMENT_MERGER && segment_merger.now.done, finish = release && folding.final;
    // micro-ops
    MicroOp micro{};
    bool micro_go = false, dpa_awake = false, theirs = false, ours = false, yields = false;
    if (awake & FRONT) {
        dpa_awake = !dpa.at_rest() || host.now.config_valid || !dpa.core.still();
        if (dpa_awake) dpa.decide(enable, config_gate.open(accesses, cleared[1]));
        theirs = dpa_awake && dpa.core.valid();
        ours = descriptors.valid && descriptor_gate.open(accesses, cleared[0]);
        const bool program = micro_ops.program;
        yields = micro_ops.yields(ours, theirs, descriptor_expander.begun());
        if (!yields && (program ? theirs : ours)) {
            const int kind = program ? dpa.core.stages[2].micro.kind : descriptor_expander.kind;
            micro_go = issuer.ready(kind, work.heads == 0);
            if (micro_go) micro = program ? dpa.core.stages[2].micro : descriptor_expander.op(descriptors.out);
        }
    }
    const bool descriptor_go = micro_go && !micro_ops.program, program_go = micro_go && micro_ops.program;

    // Phase 2: all states move on.
    const bool working = awake & HOST && (work.busy || accesses.level || !clean || dpa.running());
    bool freed = false, queries_landed = false, row_landed = false;
    if (awake & RESULTS) {
        if (arbiter.results.ready(t)) {
            const Route route = arbiter.results.take();
            if (route.sum) {
                agenda.add(RESULTS, reducer.due.put(t, true));
            } else {
                freed = k_stage.final[route.slot];
                agenda.add(SOFTMAX, softmax.scored(t, route.slot));
            }
        }
        if (reducer.due.ready(t)) {
            reducer.due.take();
            ++reducer.whole_group_lines;
            agenda.soon |= SEGMENT_MERGER;
        }
    }
    if (awake & LANDED && arbiter.ends.ready(t)) {
        const LineMarks landed = arbiter.ends.take();
        queries_landed = landed.queries_end;
        row_landed = landed.row_end;
        agenda.soon |= STAGES;
    }
    // what the banks did, and what is read of it
    const Mask score = shadows.score;
    const bool sums_stand = awake & BUS && sums();
    if (awake & BANKS) {
        if (const Mask row_done = shadows.take_rows(t)) {
            for (Mask m = row_done; m; m &= m - 1) {
                const BankShadows::Row& row = shadows.rows[lowest(m)];
                if (row.segment_end) sum_sets.done(m & -m, row.set);
            }
            prob_lines.row_done(row_done, shadows);
        }
        if (const Mask arrived = shadows.scores.take(t)) shadows.arrive(arrived);
    }
    const bool reader_asks = reader.busy(), chooses = awake & BUS && reader.chooses(score, sums_stand);
    if (read) {
        if (reader.now.is_sum ? reducer.last_sum() : k_stage.last_score(reader.now.slot))
            agenda.add(RESULTS, arbiter.results.put(t, Route{reader.now.is_sum, reader.now.slot}));
        if (reader.now.sums_taken) sum_sets.read();
        if (reader.now.drained) {
            if (reader.now.task_drained & shadows.hold) agenda.soon |= ENGINE;
            shadows.drain(reader.now.bank, reader.now.task_drained != 0);
        }
    }
    if (read || chooses) reader.tick(score, sums_stand, read);
    sum_sets.used += int(v_taken && v_first);
    if (release) {
        sum_sets.release();
        --work.items;
        reducer.whole_group_lines = 0;
        agenda.soon |= STAGES | FRONT | BUS;
    }
    // counts
    if (micro_go && micro.kind == MICRO_WR_QUERIES) work.begin(micro_ops.program);
    if (awake & HOST && host.now.descriptor_valid) ++work.busy;
    if (finish) {
        work.finish();
        agenda.soon |= OUTPUTS;
    }
    finished_out = finish;
    if (start) work.start(k_item);
    // the softmax, and what takes its results
    if (awake & LINES) {
        prob_lines.tick(softmax.full, softmax.out);
        prob_lines.now = ProbLines::Now{};
    }
    if (start) softmax.open(k_item);
    if (stats_taken) {
        softmax.take_stats();
        agenda.soon |= SOFTMAX;
    }
    if (awake & SOFTMAX && softmax.tick(t, agenda)) agenda.soon |= STAGES;
    if (awake & SEGMENT_MERGER) {
        segment_merger.tick(folding, stats_taken, stats_last);
        if (stats_taken || !segment_merger.still() || (softmax.stats_valid() && !segment_merger.have)) agenda.soon |= SEGMENT_MERGER;
    }
    // the bus
    if ((awake & BUS) | taken | line_pushed) {
        const LineMarks written = arbiter.queue.out;
        if (taken && !read && (written.queries_end || written.row_end)) agenda.add(LANDED, arbiter.ends.put(t, written));
        arbiter.tick(taken, reader_asks, line_pushed, marks);
    }
    // the command engine
    const Issued& command = engine.command;
    if (accepted_rows) shadows.accept(accepted_rows);
    for (Mask m = accepted; m; m &= m - 1) {
        const int b = lowest(m);
        const bool hosts = of_host & m & -m;
        if (hosts) tasks.take(b, accesses.tasks[b].row);
        engine.accept(b, hosts ? accesses.tasks[b] : feeder.tasks[b]);
    }
    bool written = false, fetched = false;
    if (command.valid) {
        written = command.code == CMD_WR;
        fetched = command.code == CMD_RD;
        if (command.code == CMD_PIM_MAC) shadows.command(t, command, agenda);
    }
    const bool given = awake & HOST && host.now.push, append = awake & HOST && host.now.append;
    Access access = host.now.access;
    bool push = given;
    if (given | append || awake & ACCESSES || host.leaving) {
        const AppendBuffer::Around around{!given && !accesses.own_full(), !given && !accesses.full(), accesses.own_level != 0,
            accesses.filling(t), host.leaving, given && access.write, access.row};
        Access own;
        if (appends.tick(around, accepted_items, append, host.now.request, own)) { push = true; access = own; }
    }
    const bool config_released = dpa_awake && dpa.config_taken, descriptor_ends = descriptor_go && descriptor_expander.ends(descriptors.out);
    if (awake & (HOST | FRONT) || push) {
        descriptor_gate.tick(push, accesses.newest, awake & HOST && host.now.descriptor_valid, descriptor_ends);
        config_gate.tick(push, accesses.newest, awake & HOST && host.now.config_valid, config_released);
    }
    if (push | written | fetched || awake & ACCESSES) {
        if (accesses.tick(t, push, access, ready & of_host, written, fetched, command.place))
            agenda.soon |= ENGINE;
        if (accesses.retired) agenda.soon |= FRONT;
        if (!accesses.still()) agenda.soon |= ACCESSES | TASKS;
    }
    if (const int64_t marks[2] = {descriptor_gate.accepted, config_gate.accepted}; !appends.still(marks, accesses.own_level != 0))
        agenda.soon |= ACCESSES | FRONT;
    else if (!clean) agenda.soon |= FRONT | HOST;
    if (awake & (ENGINE | BUS)) engine.take_turns(asks, taken);
    engine.refresh_2x = host.refresh_2x;
    engine.refresh_request = awake & HOST && host.commands.refreshed;
    if (awake & ENGINE || engine.refresh_request) engine.count_refreshes(t, enable);
    if (awake & ENGINE) engine.tick(t, agenda);
    else engine.command.valid = false;
    if (engine.hastens(t + 1)) agenda.soon |= ENGINE;
    if (taken) engine.tick_bus(t, reads, read_bank);
    if (awake & TASKS) {
        tasks.tick(task_valid, ready, of_host);
        if (accepted) agenda.soon |= TASKS | ENGINE;
        if (tasks.before) agenda.soon |= TASKS;
    }
    // stages
    const bool take = k_taken | v_taken;
    if (take || left != rows) {
        RowStep step{};
        if (take) step = v_taken ? v_stage.step(issuer.v.out, issuer.v_row.out) : k_stage.step(issuer.k_row.out);
        feeder.tick(left, take, v_taken, step);
        if (take) agenda.soon |= TASKS | ENGINE;
    }
    const bool set = loader.current;
    if (awake & LINES || start || freed) {
        if (loader.tick(t, issuer.k.valid, k_item, loader_step, freed, start)) agenda.soon |= LINES | STAGES;
    }
    if (start | k_taken | queries_landed) k_stage.tick(start, k_item, set, k_taken, queries_landed);
    if (v_taken | row_landed) v_stage.tick(v_taken, v_ends, row_landed);
    if (start | take) agenda.soon |= STAGES;
    if (awake & (FRONT | STAGES | TASKS | SEGMENT_MERGER)) {
        issuer.tick(micro_go, micro, start, v_ends, release, k_taken, v_taken);
        if (issuer.moving) agenda.soon |= FRONT | STAGES | LINES | SEGMENT_MERGER | BUS;
    }
    if (awake & FRONT) {
        if (dpa_awake || micro_ops.program || descriptor_go) {
            const bool waits = micro_ops.program && theirs && !program_go && !yields && dpa.waits();
            micro_ops.tick(ours, theirs, descriptor_expander.begun(), micro_go, micro);
            if (dpa_awake) dpa.tick(t, enable, program_go, host.now.config_valid, host.now.config);
            if (!waits || host.now.config_valid) agenda.soon |= FRONT;
        }
        descriptor_expander.tick(descriptor_go, descriptors.out);
        if (descriptors.tick(host.now.descriptor_valid, host.now.descriptor, descriptor_ends) || micro_go)
            agenda.soon |= FRONT;
    }
    if (awake & HOST) tick_host(slots, working, engine_idle);

    // Who can go on by itself, and when.
    if (work.static_order()) agenda.soon = EVERYTHING;
    if (awake & ENGINE) {
        if (engine.command.valid && (tracing || engine.of_column())) agenda.soon |= BANKS;  // seen in the next clock
        agenda.set(ENGINE, engine.wake_at(t, enable, feeder.pending | accesses.held, shadows.hold, accepted != 0));
        if (engine.now.REFab || engine.now.contend) agenda.soon |= BUS;
    }
    if (taken && tracing) agenda.soon |= OUTPUTS;
    if (awake & (BUS | LINES) && host.enable) {
        if (arbiter.turns(reader.busy()) || arbiter.queue.moving() || reader.chooses(shadows.score, sums()))
            agenda.soon |= BUS;
        else
            agenda.set(BUS, arbiter.asks(true, reader.busy()) ? engine.bus_from(t, !arbiter.writing, reader.offer().bank) : NEVER);
    } else if (awake & BANKS && reader.chooses(shadows.score, sums())) {
        agenda.soon |= BUS;
    }
    if (awake & ~(ENGINE | TASKS | OUTPUTS)) {
        const bool lines_free = arbiter.queue.ready();
        if (prob_lines.moves(lines_free)) agenda.soon |= LINES;
        if (loader.begun && loader.fetched && lines_free)
            agenda.set(LINES, k_stage.busy ? std::max(t + 1, loader.paused_until) : t + 1);
    }
}

#include "rank_step.h"
