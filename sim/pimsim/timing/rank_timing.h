// A PIM rank clock by clock, without data: pimhw.buffer_chip as far as it decides when anything happens.
#pragma once
#include <deque>
#include <vector>

#include "bus.h"
#include "command_engine.h"
#include "config.h"
#include "dpa.h"
#include "host_side.h"
#include "rank_pu.h"
#include "sequencer.h"

struct TraceRecord {
    int64_t clock;
    int32_t code, bank_group, bank, row, column, count, mode, last;
};

struct ReadRecord {
    int64_t clock;
    uint8_t data[MAX_LINE];
};

struct RankTiming {
    const Config c;
    CommandEngine engine;
    Unroller unroller;
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
    Folder folder;
    HostPort host;
    AccessQueue accesses;
    Fifo<Descriptor, 256> descriptors;
    Dispatcher dpa;
    bool program = false, within = false;  // whose turn it is at the issuer, and whether it is in the middle
    // each bank's tasks
    Mask task_offered = 0, task_before = 0;
    Task offered[MAX_BANKS];
    // sums of the banks
    Mask standing[2] = {};
    bool sum_set = false;
    int sums_used = 0;
    // what is under way
    int busy = 0, heads = 0, under_way = 0, done = 0;
    bool finished_out = false, was_still = false;
    // the simulation
    int64_t clock = 0, waited = 0;
    std::deque<HostOp> ops;
    std::deque<std::pair<int64_t, HostOp>> data;
    std::vector<TraceRecord> trace;
    std::vector<ReadRecord> lines;
    std::vector<int64_t> finished, issued;
    ReadRecord answer;  // on its way to the host
    bool tracing = true;

    explicit RankTiming(const Config& config)
        : c(config), engine(c), unroller(c), issuer(c), loader(c), k_stage(c), v_stage(c), feeder(c), shadows(c),
          reader(c), prob_lines(c), arbiter(c), softmax(c), reducer(c), folder(c), host(c), accesses(c), dpa(c) {
        descriptors.size(c.descriptor_queue);
    }

    void step(int64_t limit);
    void record();
    void read_line(ReadRecord& record) const;
};

void RankTiming::record() {
    const Codes& k = c.code;
    if (engine.command.valid && tracing) {
        const Issued& i = engine.command;
        trace.push_back(TraceRecord{clock, i.code, i.bank / c.banks_per_group, i.bank % c.banks_per_group, i.row,
                                    i.column, i.count, i.mac.mode, i.last});
    }
    if (engine.bus_valid && tracing)
        trace.push_back(TraceRecord{clock, engine.bus.read ? k.PIM_RD_RB : k.PIM_WR_SB, 0, 0, 0, 0, 0, 0, 0});
    if (host.direct_valid && tracing) {
        const HostPort::Command& h = host.c1;
        trace.push_back(TraceRecord{clock, h.code, h.bank / c.banks_per_group, h.bank % c.banks_per_group, h.row,
                                    h.column, 1, 0, 0});
    }
    if (host.out_valid) lines.push_back(answer);
    if (finished_out) finished.push_back(clock);
}

// Status, and zeros for what only the numbers could tell.
void RankTiming::read_line(ReadRecord& record) const {
    const HostPort::Read& r = host.reads.out();
    int32_t place;
    if (r.closed || !r.window) return;
    if (c.num_slots && HostPort::inside(r.line, c.slots, place)) {
        const Dispatcher::Slot& s = dpa.slots[place];
        set_field(record.data, c.slot_state, s.faulted ? 2 : s.has_request && s.has_scale);
        set_field(record.data, c.slot_pending, s.pending);
        set_field(record.data, c.slot_tokens, s.tokens);
        set_field(record.data, c.slot_programs_done, s.done & 0xFFFF);
        set_field(record.data, c.slot_fault, s.faulted ? s.fault : 0);
    } else if (c.num_slots && HostPort::inside(r.line, c.control, place) && place == 2) {
        set_field(record.data, c.dpa_queued, dpa.configs.level());
        set_field(record.data, c.dpa_running, dpa.running());
        set_field(record.data, c.dpa_refused, dpa.refused & 0xFFFF);
        set_field(record.data, c.dpa_refusal, dpa.refusal);
        set_field(record.data, c.dpa_programs, dpa.programs & 0xFFFF);
        set_field(record.data, c.dpa_faults, dpa.faults & 0xFFFF);
    } else if (HostPort::inside(r.line, c.control, place) && place == 0) {
        set_field(record.data, c.owner, host.owner);
        set_field(record.data, c.busy, busy);
        set_field(record.data, c.done, done & 0xFFFF);
        set_field(record.data, c.queued, accesses.level);
        set_field(record.data, c.refused, host.refused);
        set_field(record.data, c.refusal, host.refusal);
    }
}

// One clock, and then those up to `limit` in which nothing happens but that time passes.
void RankTiming::step(int64_t limit) {
    const Codes& k = c.code;
    const int64_t t = clock;
    // the host's bus
    HostOp op_now, line_now;
    const HostOp* op = nullptr;
    const HostOp* line = nullptr;
    if (!ops.empty() && ++waited >= ops.front().wait) {
        op_now = ops.front();
        ops.pop_front();
        op = &op_now;
        waited = 0;
        issued.push_back(t);
        if (op_now.code == k.WR) data.emplace_back(t + c.write_clocks, op_now);
    }
    if (!data.empty() && data.front().first == t) {
        line_now = data.front().second;
        data.pop_front();
        line = &line_now;
    }
    const bool reported = finished_out;
    record();
    if (host.reads.ready()) {
        std::memset(answer.data, 0, sizeof answer.data);
        answer.clock = t + 1;
        read_line(answer);
    }

    // Phase 1: what all units decide, from their states alone.
    const bool enable = host.enable;
    const bool host_still = !op && !line && host.still();
    if (!host_still) host.decide(op, line, accesses.full(), descriptors.ready(), dpa.configs.ready());
    else if (!was_still) host.now = HostPort::Now{};
    was_still = host_still;
    // tasks of the banks
    const Mask ready = engine.ready_tasks(enable), rows = feeder.pending, held = accesses.held;
    const Mask of_host = (task_offered & task_before) | (~task_offered & held & (~rows | ~task_before));
    const Mask task_valid = held | rows, accepted = task_valid & ready;
    const Mask accepted_rows = accepted & ~of_host, left = rows & ~(ready & ~of_host);
    // serial order, for comparison
    const Item& folding = issuer.fold.out;
    const bool serial = (issuer.v.valid && issuer.v.out.serial) || (issuer.fold.valid && folding.serial);
    bool idle = true, quiet_scores = true;
    if (serial) {
        idle = feeder.pending == 0 && shadows.idle(t);
        quiet_scores = !shadows.score && !reader.busy;
    }
    // the bus
    const bool asks = arbiter.asks(!serial || idle, reader.busy);
    BusRequest request{};
    request.read = !arbiter.writing;
    engine.schedule(t, enable);
    engine.decide(t, enable, task_valid, shadows.hold, asks, request.read);
    const bool taken = engine.now.bus_taken, read = taken && !arbiter.writing;
    reader.decide(shadows, k_stage, folding.last_pair, read);
    const bool lines_ready = arbiter.queue.ready();
    prob_lines.decide(k_stage, lines_ready);
    const bool loader_line = loader.line_valid(!k_stage.busy);
    const bool loader_step = loader_line && lines_ready && !prob_lines.now.valid;
    const bool line_pushed = lines_ready && (prob_lines.now.valid || loader_line);
    const LineMarks marks = prob_lines.now.valid ? LineMarks{false, prob_lines.now.row_end}
                                                 : LineMarks{loader.set_end(issuer.k.out), false};
    // K stage, V stage, row steps
    const bool passes = loader.passes(issuer.k.valid, issuer.k.out);
    const bool may_start = !issuer.k.out.serial || under_way == 0;
    const bool start = passes && k_stage.may(issuer.k.out, may_start) && softmax.ready();
    const bool k_valid = k_stage.busy && issuer.k_row.valid;
    const bool v_valid = v_stage.valid(issuer.v.valid, issuer.v_row.valid, sums_used != 2);
    const bool choose_v = feeder.choose_v(k_valid, v_valid);
    const bool take = (!serial || (idle && quiet_scores && !arbiter.queue.valid)) && left == 0 && (k_valid || v_valid);
    const bool k_taken = take && !choose_v, v_taken = take && choose_v;
    const bool v_ends = v_taken && v_stage.end(issuer.v.out), v_first = v_stage.number == 0;
    // rank PU
    const bool words_ready = prob_lines.ready();
    softmax.decide(words_ready, start);
    const bool stats_offered = softmax.stats_valid(), stats_last = softmax.stats_last();
    const bool stats_taken = stats_offered && !folder.have;
    folder.decide(issuer.fold.valid, folding, reducer.whole_pairs);
    const bool release = folder.now.done, finish = release && folding.final;
    // micro-ops
    const Descriptor descriptor = descriptors.out;
    const bool dpa_still = dpa.at_rest() && !host.now.config_valid && dpa.core.still();
    if (!dpa_still) dpa.decide();
    const bool unrolls = descriptors.valid, theirs = !dpa_still && dpa.core.valid();
    MicroOp micro{};
    bool micro_go = false;
    if (program ? theirs : unrolls) {
        micro = program ? dpa.core.stages[2].micro : unroller.op(descriptor);
        micro_go = issuer.ready(micro.kind, heads == 0);
    }
    const bool unroller_go = micro_go && !program, program_go = micro_go && program;
    const bool descriptor_taken = unroller_go && unroller.ends(descriptor);

    // Phase 2: all states move on.
    const bool arriving = arbiter.results.ready();
    const Route route = arriving ? arbiter.results.out() : Route{};
    const bool score = arriving && !route.sum, sum = arriving && route.sum;
    const bool scored[2] = {score && !route.slot, score && route.slot};
    const bool freed = k_stage.frees(0, scored[0]) || k_stage.frees(1, scored[1]);
    const bool queries_landed = arbiter.ends.ready() && arbiter.ends.out().queries_end;
    const bool row_landed = arbiter.ends.ready() && arbiter.ends.out().row_end;
    const bool work = busy || accesses.level || dpa.running();
    const Mask row_done = shadows.rows_done.take(t), arrived = shadows.scores.take(t);

    // sums
    const Mask all = feeder.all;
    const bool sums = standing[sum_set] == all;
    for (Mask m = row_done; m; m &= m - 1) {
        const BankShadows::Row& row = shadows.rows[lowest(m)];
        if (row.segment_end) standing[row.set] |= m & -m;
    }
    if (reader.now.sums_taken) standing[sum_set] = 0;
    sums_used += int(v_taken && v_first) - int(release);
    sum_set ^= release;
    // counts
    const bool begun = micro_go && micro.kind == MICRO_WR_QUERIES;
    busy += int(host.now.descriptor_valid) + int(begun && program) - int(finish);
    heads += int(begun) - int(finish);
    done += finish;
    finished_out = finish;
    under_way += int(start) - int(release);
    // from the banks to the softmax, and back
    const Route reading{reader.is_sum, reader.now.slot};
    const bool beat_offered = softmax.full;
    prob_lines.tick(beat_offered, softmax.out, shadows, row_done);
    softmax.changed = false;
    if (score | start || !softmax.still()) softmax.tick(score, route.slot, issuer.k.out, words_ready, stats_taken);
    const bool reader_asks = reader.busy;
    reader.tick(shadows.score, sums, read);
    shadows.tick(t, accepted_rows, engine.command, k.PIM_MAC, reader.now.drained, reader.now.task_drained, arrived);
    const bool reducing = sum || reducer.due.any();
    reducer.tick(sum, release);
    folder.tick(folding, stats_offered, stats_last);
    arbiter.tick(taken, reader_asks, reading, line_pushed, marks);
    // the command engine
    for (Mask m = accepted; m; m &= m - 1) {
        const int b = lowest(m);
        offered[b] = of_host & bit(b) ? accesses.tasks[b] : feeder.tasks[b];
    }
    const Issued& command = engine.command;
    const bool written = command.valid && command.code == k.WR, fetched = command.valid && command.code == k.RD;
    const bool was_idle = engine.idle;
    if (host.now.push | written | fetched || !accesses.still()) accesses.tick(host.now.push, host.now.access, ready & of_host, written, fetched, command.place);
    engine.tick(t, enable, offered, accepted, request);
    task_offered = task_valid & ~ready;
    task_before = (task_before & ~task_valid) | (of_host & task_valid);
    // stages
    RowStep step{};
    if (take) step = choose_v ? v_stage.step(issuer.v.out, issuer.v_row.out) : k_stage.step(issuer.k_row.out);
    const bool set = loader.current;
    const Item given = issuer.k.out;
    if (take || left != rows) feeder.tick(left, take, choose_v, step);
    loader.tick(issuer.k.valid, given, loader_step, freed, start);
    k_stage.tick(start, given, set, k_taken, queries_landed, scored);
    if (v_taken | row_landed) v_stage.tick(v_taken, v_ends, row_landed);
    issuer.tick(micro_go, micro, start, v_taken && v_ends, release, k_taken, v_taken);
    if (!dpa_still || program) {
        const bool was_program = program, unrolling = unroller.begun();
        if (was_program) {
            if (program_go) within = micro.kind != MICRO_END;
            else if (!within && !theirs) program = false;
        } else if (theirs && !unrolling && !unrolls) {
            program = true;
        }
        dpa.tick(enable, program_go, host.now.config_valid, host.now.config);
    }
    unroller.tick(unroller_go, descriptor);
    descriptors.tick(host.now.descriptor_valid, host.now.descriptor, descriptor_taken);
    if (!host_still) host.tick(op, work, was_idle);
    ++clock;

    // Until when does nothing happen?
    if (clock >= limit || !host_still || op || !dpa_still || program || serial || reported) return;
    if (engine.command.valid || engine.bus_valid || accepted || take || micro_go || start || release) return;
    if (arriving || row_done || arrived || reader.changed || arbiter.changed || prob_lines.changed || softmax.changed ||
        loader.changed || issuer.moving || descriptors.moving() || queries_landed || row_landed)
        return;
    if (folder.now.running || folder.fetched || stats_offered || !folder.merge.still() || reducing ||
        !accesses.still() || host.now.descriptor_valid)
        return;
    int64_t wake = engine.next(t, enable, shadows.hold, limit);
    if (asks) wake = std::min(wake, std::max(t + 1, engine.rank_at[request.read ? k.PIM_RD_RB : k.PIM_WR_SB]));
    if (loader.begun) wake = std::min(wake, t + 1 + loader.pause);
    wake = shadows.scores.next(clock, shadows.rows_done.next(clock, wake));
    if (arbiter.results.valid.any()) wake = std::min(wake, t + 1 + arbiter.results.valid.clocks_left());
    if (arbiter.ends.valid.any()) wake = std::min(wake, t + 1 + arbiter.ends.valid.clocks_left());
    if (softmax.scores.valid.any()) wake = std::min(wake, t + 1 + softmax.scores.valid.clocks_left());
    if (!ops.empty()) wake = std::min(wake, t + std::max<int64_t>(1, ops.front().wait - waited));
    if (!data.empty()) wake = std::min(wake, data.front().first);
    if (wake <= clock) return;
    const int skipped = int(wake - clock);
    engine.skip(t, wake, enable);
    arbiter.results.skip(skipped);
    arbiter.ends.skip(skipped);
    softmax.scores.skip(skipped);
    loader.pause = std::max(0, loader.pause - skipped);
    if (!ops.empty()) waited += skipped;
    clock = wake;
}
