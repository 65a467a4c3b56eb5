// pimhw.sequencer: micro-ops, the stages of an item, row steps, and what the banks have done.
#pragma once
#include <algorithm>

#include "command_engine.h"
#include "contract.h"
#include "parts.h"


struct MicroOp {
    int32_t kind, row, lines, last_query;
    bool first, final, normalise, static_order;
};

struct Item {
    int32_t lines, last_group_line, last_query;
    bool first, final, normalise, static_order;
};

struct Descriptor {
    int32_t k_row, v_row, tokens, last_query;
    bool normalise, static_order;
};

struct RowStep {
    int32_t row, lines;
    MacTag mac;
};

// Descriptors to micro-ops.
// RTL: pimhw.sequencer.descriptor_expander.DescriptorExpander.
struct DescriptorExpander {
    const Config& c;
    int kind = MICRO_WR_QUERIES;
    int32_t cut = 0, row = 0, step = 0;
    explicit DescriptorExpander(const Config& config) : c(config) {}
    bool begun() const { return kind != MICRO_WR_QUERIES; }
    bool is_final(const Descriptor& d) const { return d.tokens - cut <= c.segment_tokens; }
    int32_t tokens(const Descriptor& d) const { return is_final(d) ? d.tokens - cut : c.segment_tokens; }
    MicroOp op(const Descriptor& d) const {
        MicroOp op{};
        op.kind = kind;
        op.row = (kind == MICRO_MAC_K ? d.k_row : d.v_row) + row + step;
        op.lines = (tokens(d) + c.chips - 1) / c.chips;
        op.last_query = d.last_query;
        op.first = cut == 0;
        op.final = is_final(d);
        op.normalise = d.normalise;
        op.static_order = d.static_order;
        return op;
    }
    bool ends(const Descriptor& d) const { return kind == MICRO_MERGE && is_final(d); }
    void tick(bool go, const Descriptor& d) {
        if (!go) return;
        switch (kind) {
        case MICRO_WR_QUERIES: kind = MICRO_SOFTMAX; break;
        case MICRO_SOFTMAX: kind = MICRO_MAC_K; break;
        case MICRO_MERGE:
            if (is_final(d)) { kind = MICRO_WR_QUERIES; cut = row = 0; }
            else { kind = MICRO_SOFTMAX; cut += c.segment_tokens; row += c.segment_rows; }
            break;
        default:
            if (step == (tokens(d) - 1) / (c.row_lines * c.chips)) {
                step = 0;
                kind = kind == MICRO_MAC_K ? MICRO_MAC_V : MICRO_MERGE;
            } else {
                ++step;
            }
        }
    }
};

// Whose micro-ops the issuer takes: a descriptor's or a program's.
// RTL: pimhw.sequencer.micro_op_arbiter.MicroOpArbiter.
struct MicroOpArbiter {
    bool program = false, within = false;  // a program's turn, and whether it is in the middle
    bool served = false;                   // this side has had an item in its turn
    // `ours`, `theirs`: a descriptor, a program offers a micro-op; `begun`: a descriptor is under way.
    bool yields(bool ours, bool theirs, bool begun) const { return served && ours && theirs && !(program ? within : begun); }
    // `go`: the micro-op `op` is taken.
    void tick(bool ours, bool theirs, bool begun, bool go, const MicroOp& op) {
        const bool yield = yields(ours, theirs, begun);
        if (program) {
            if (go) { within = op.kind != MICRO_END; served |= !within; }
            else if ((!within && !theirs) || yield) program = served = false;
        } else if ((theirs && !begun && !ours) || yield) {
            program = true;
            served = false;
        } else if (go && op.kind == MICRO_MERGE) {
            served = true;
        }
    }
};

// What has begun and not finished.
// RTL: pimhw.sequencer.work_tracker.WorkTracker.
struct WorkTracker {
    int busy = 0, heads = 0, items = 0, done = 0;
    bool alone = false;  // the item that started last runs in static order
    bool may_start(const Item& item) const { return items == 0 || !(item.static_order | alone); }
    bool static_order() const { return alone && items; }
    void begin(bool of_program) { ++heads; busy += of_program; }
    void start(const Item& item) { ++items; alone = item.static_order; }
    void finish() { --heads; --busy; ++done; }
};

// Queues of what each stage does.
// RTL: pimhw.sequencer.issuer.Issuer.
struct Issuer {
    const Config& c;
    Fifo<Item, 16> k, v, fold;
    Fifo<int32_t, 2048> k_row, v_row;
    explicit Issuer(const Config& config) : c(config) {
        k.size(c.segments_ahead); v.size(c.segments_ahead); fold.size(c.segments_ahead);
        k_row.size(c.segments_ahead * c.segment_rows); v_row.size(c.segments_ahead * c.segment_rows);
    }
    bool ready(int kind, bool idle) const {
        switch (kind) {
        case MICRO_SOFTMAX: return k.ready() && v.ready();
        case MICRO_MAC_K: return k_row.ready();
        case MICRO_MAC_V: return v_row.ready();
        case MICRO_MERGE: return fold.ready();
        case MICRO_BARRIER: return idle;
        default: return true;
        }
    }
    bool moving = false;  // something changed, or is on its way to an output
    void tick(bool go, const MicroOp& op, bool k_taken, bool v_taken, bool fold_taken, bool k_row_taken, bool v_row_taken) {
        if (!(go | k_taken | v_taken | fold_taken | k_row_taken | v_row_taken | moving)) return;
        Item item{op.lines, op.last_query / c.queries_per_line, op.last_query, op.first, op.final, op.normalise, op.static_order};
        const int kind = go ? op.kind : -1;
        moving = k.tick(kind == MICRO_SOFTMAX, item, k_taken);
        moving |= v.tick(kind == MICRO_SOFTMAX, item, v_taken);
        moving |= fold.tick(kind == MICRO_MERGE, item, fold_taken);
        moving |= k_row.tick(kind == MICRO_MAC_K, op.row, k_row_taken);
        moving |= v_row.tick(kind == MICRO_MAC_V, op.row, v_row_taken);
    }
};

// Puts the queries of a kv_head into the line queue.
// RTL: pimhw.sequencer.stages.QueryLoader.
struct QueryLoader {
    const Config& c;
    int used = 0, query = 0, word = 0;
    int64_t paused_until = 0;
    bool loaded = false, current = false, begun = false, fetched = false;
    explicit QueryLoader(const Config& config) : c(config) {}
    bool line_valid(int64_t t, bool urgent) const { return begun && fetched && (urgent || t >= paused_until); }
    bool set_end(const Item& i) const { return word == c.accesses_per_k - 1 && query == i.last_query; }
    bool passes(bool valid, const Item& i) const { return valid && (loaded || !i.first); }
    bool tick(int64_t t, bool valid, const Item& i, bool step, bool freed, bool passed) {  // whether anything changed
        const bool starting = valid && i.first && !loaded, end = step && set_end(i);
        const bool allocate = starting && !begun && used != 2;
        const bool was_fetched = fetched;
        fetched = begun && starting && !end;
        if (step) paused_until = t + c.query_pause;
        used += int(allocate) - int(freed);
        if (begun && step) {
            const bool word_end = word == c.accesses_per_k - 1;
            query += word_end;
            word = word_end ? 0 : word + 1;
        }
        if (allocate) { begun = true; current = !current; query = word = 0; }
        if (end) { loaded = true; begun = false; query = word = 0; }
        if (passed) loaded = false;
        return step || freed || passed || allocate || fetched != was_fetched;
    }
};

// RTL: pimhw.sequencer.stages.KStage.
struct KStage {
    const Config& c;
    bool busy = false, slot = false, query_set = false;
    int landed = 0, number = 0;
    int32_t left = 0, lines[2] = {}, last_group_line[2] = {}, expected[2] = {};  // expected: scores that are still to be read
    bool final[2] = {};
    explicit KStage(const Config& config) : c(config) {}
    bool may(const Item& i, bool may_start) const { return may_start && (!i.first || landed) && !busy; }
    RowStep step(int32_t row) const { return RowStep{row, left, MacTag{false, false, 0, uint8_t(!slot), int16_t(number)}}; }
    bool last_score(bool slot) { return --expected[slot] == 0; }
    void tick(bool start, const Item& i, bool set, bool step_taken, bool queries_landed) {
        landed += int(queries_landed) - int(start && i.first);
        if (start) {
            busy = true;
            final[slot] = i.final;
            expected[slot] = i.lines * (i.last_group_line + 1);
            lines[slot] = i.lines;
            last_group_line[slot] = i.last_group_line;
            slot = !slot;
            query_set = set;
            left = i.lines;
            number = 0;
        } else if (step_taken) {
            busy = left > c.row_lines;
            ++number;
            left -= c.row_lines;
        }
    }
};

// RTL: pimhw.sequencer.stages.VStage.
struct VStage {
    const Config& c;
    int landed = 0, place = 0, number = 0;
    bool sums = false;
    explicit VStage(const Config& config) : c(config) {}
    int32_t left(const Item& i) const { return i.lines - number * c.row_lines; }
    bool end(const Item& i) const { return left(i) <= c.row_lines; }
    bool valid(bool item, bool row, bool sums_free) const { return item && row && landed && (number || sums_free); }
    RowStep step(const Item& i, int32_t row) const {
        return RowStep{row, left(i), MacTag{true, end(i), uint8_t(sums), uint8_t(place), int16_t(number)}};
    }
    void tick(bool taken, bool ends, bool row_landed) {
        landed += int(row_landed) - int(taken);
        if (!taken) return;
        sums ^= ends;
        number = ends ? 0 : number + 1;
        place = place == c.prob_slots - 1 ? 0 : place + 1;
    }
};

// Row steps for all banks.
// RTL: pimhw.sequencer.row_feeder.RowFeeder.
struct RowFeeder {
    const Config& c;
    Mask pending = 0, all;
    bool is_v = false;
    RowStep step{};
    Task tasks[MAX_BANKS];
    explicit RowFeeder(const Config& config) : c(config), all(config.banks == 64 ? ~Mask(0) : bit(config.banks) - 1) {}
    bool choose_v(bool k, bool v) const { return v && (!k || !is_v); }
    void tick(Mask left, bool take, bool of_v, const RowStep& given) {
        pending = left;
        if (!take) return;
        is_v = of_v;
        step = given;
        Task task{};
        task.row = step.row;
        task.kind = TASK_MAC;
        task.mac = step.mac;
        if (of_v) {
            task.count = std::min(step.lines, c.row_lines) * c.accesses_per_v;
            for (int b = 0; b < c.banks; ++b) tasks[b] = task;
            pending = all;
            return;
        }
        const int turn = step.lines / c.tokens_per_turn, rest = step.lines % c.tokens_per_turn;
        for (int b = 0; b < c.banks; ++b) {
            const int tokens = turn > b ? c.tokens_per_turn : turn == b ? rest : 0;
            task.count = tokens * c.accesses_per_k;
            tasks[b] = task;
            if (tokens) pending |= bit(b);
        }
    }
};

// The two sets of sums of the bank PUs.
// RTL: pimhw.sequencer.sum_sets.SumSets.
struct SumSets {
    Mask standing[2] = {}, all;
    bool oldest = false;
    int used = 0;
    explicit SumSets(const Config& config) : all(config.banks == 64 ? ~Mask(0) : bit(config.banks) - 1) {}
    bool free() const { return used != 2; }
    bool stand() const { return standing[oldest] == all; }
    void done(Mask bank, int set) { standing[set] |= bank; }
    void read() { standing[oldest] = 0; }
    void release() { --used; oldest = !oldest; }
};

// Whose task each bank machine is offered: the host's or a row step's.
// RTL: pimhw.sequencer.task_arbiter.TaskArbiter.
struct TaskArbiter {
    static constexpr int RUN = 16;
    Mask offered = 0, before = 0, keeps = 0;
    int32_t last_row[MAX_BANKS] = {};
    uint8_t run[MAX_BANKS] = {};
    Mask of_host(Mask host, Mask rows, const Task* tasks) {
        keeps = 0;
        for (Mask m = before & host; m; m &= m - 1) {
            const int b = lowest(m);
            if (tasks[b].row == last_row[b] && run[b] != RUN) keeps |= m & -m;
        }
        return (offered & before) | (~offered & host & (~rows | ~before | keeps));
    }
    void take(int b, int32_t row) {
        last_row[b] = row;
        run[b] = keeps >> b & 1 ? run[b] + 1 : 1;
    }
    void tick(Mask valid, Mask ready, Mask host) {
        offered = valid & ~ready;
        before = (before & ~valid) | (host & valid);
    }
};

// What the PUs of all banks have done, known from the commands.
// RTL: pimhw.sequencer.bank_shadow.BankShadow.
struct BankShadows {
    const Config& c;
    struct Context { bool slot; int16_t step; };
    Context contexts[MAX_BANKS][2];
    struct Row { uint8_t slot, set; bool segment_end; };
    static constexpr int ENDING = 16;  // rows that end within the wait of one
    Row rows[MAX_BANKS];               // the row that is over
    Row ending[MAX_BANKS][ENDING];
    uint8_t ended[MAX_BANKS] = {}, over[MAX_BANKS] = {};
    uint8_t newest[MAX_BANKS] = {}, used[MAX_BANKS] = {}, token[MAX_BANKS] = {}, todo[MAX_BANKS] = {};
    int16_t waiting[MAX_BANKS] = {}, access[MAX_BANKS] = {};  // `access`: of the token under way
    bool lane[MAX_BANKS] = {};
    uint8_t oldest[MAX_BANKS] = {};
    Row under_way[MAX_BANKS];
    int64_t idle_at[MAX_BANKS] = {};
    Mask score = 0, hold = 0, has_todo = 0;
    Wheel scores, rows_done;
    explicit BankShadows(const Config& config) : c(config) {}
    bool idle(int64_t t) const {
        if (has_todo) return false;
        for (int b = 0; b < c.banks; ++b) if (t < idle_at[b]) return false;
        return true;
    }
    void arrive(Mask arrived) {
        score |= arrived;
        for (Mask m = arrived; m; m &= m - 1) ++waiting[lowest(m)];
    }
    // Banks whose row is over in clock t; `rows` says what each was.
    Mask take_rows(int64_t t) {
        const Mask done = rows_done.take(t);
        for (Mask m = done; m; m &= m - 1) {
            const int b = lowest(m);
            rows[b] = ending[b][over[b]++ % ENDING];
        }
        return done;
    }
    // A score was read; whether it was the last of its task.
    void drain(int b, bool task_ends) {
        if (--waiting[b] == 0) score &= ~bit(b);
        ++token[b];
        if (!task_ends) return;
        oldest[b] ^= 1;
        token[b] = 0;
        --used[b];
        hold &= ~bit(b);
    }
    void accept(Mask accepted) {
        has_todo |= accepted;
        for (Mask m = accepted; m; m &= m - 1) ++todo[lowest(m)];
    }
    // A PIM_MAC, seen in clock t.
    void command(int64_t t, const Issued& command, Agenda& agenda) {
        const int b = command.bank;
        if (command.last && --todo[b] == 0) has_todo &= ~bit(b);
        if (!command.resume) {
            access[b] = 0;
            lane[b] = command.mac.mode;
            under_way[b] = Row{command.mac.slot, command.mac.set, command.mac.segment_end};
            if (!lane[b]) {
                contexts[b][newest[b]] = Context{bool(command.mac.slot & 1), command.mac.step};
                newest[b] ^= 1;
                if (++used[b] == 2) { hold |= bit(b); agenda.soon |= ENGINE; }
            }
        }
        // access k is in clock t + 1 + k * interval
        const int64_t end = t + 1 + int64_t(command.count - 1) * c.interval;
        idle_at[b] = end + 1 + (lane[b] ? 0 : c.score_wait);
        if (!lane[b]) {
            int n = c.accesses_per_k - 1 - access[b];
            for (; n < command.count; n += c.accesses_per_k) {
                const int64_t at = t + 1 + int64_t(n) * c.interval + c.score_wait;
                scores.add(at, b);
                agenda.add(BANKS, at);
            }
            access[b] = int16_t(c.accesses_per_k - 1 - (n - command.count));
        } else if (command.last) {
            ending[b][ended[b]++ % ENDING] = under_way[b];
            rows_done.add(end + c.row_wait, b);
            agenda.add(BANKS, end + c.row_wait);
            idle_at[b] = end + c.row_wait + 1;
        }
    }
};
