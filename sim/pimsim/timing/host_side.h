// pimhw.host_side: the host's commands, the window, who owns the DRAM, and accesses that wait for their bank.
#pragma once
#include <cstring>

#include "append_buffer.h"
#include "command_engine.h"
#include "contract.h"
#include "host_commands.h"
#include "parts.h"
#include "sequencer.h"

// A field of a line.
inline uint64_t field(const uint8_t* line, const FieldPlace& f) {
    uint64_t value = 0;
    for (int k = 0; k < f.width; ++k) {
        const int at = f.offset + k;
        value |= uint64_t(line[at >> 3] >> (at & 7) & 1) << k;
    }
    return value;
}

inline void set_field(uint8_t* line, const FieldPlace& f, uint64_t value) {
    for (int k = 0; k < f.width; ++k) {
        const int at = f.offset + k;
        if (value >> k & 1) line[at >> 3] |= uint8_t(1 << (at & 7));
    }
}

inline bool any_above(const uint8_t* line, int bits, int bytes) {
    for (int at = bits; at < bytes * 8; ++at)
        if (line[at >> 3] >> (at & 7) & 1) return true;
    return false;
}

// Posted writes and split reads.
// RTL: pimhw.host_side.access_queue.AccessQueue.
struct AccessQueue {
    const Config& c;
    Access places[256];
    bool done[256] = {};
    int level = 0, own_level = 0, waiting = 0, newest = 0, next_out = 0, oldest = 0;
    bool retired = false;  // in the last clock
    Mask held = 0;
    Task tasks[MAX_BANKS];
    DelayLine<int> writes, reads;  // the place
    explicit AccessQueue(const Config& config) : c(config) {
        writes.size(c.write_clocks);
        reads.size(c.read_clocks);
    }
    bool full() const { return level - own_level == c.host_queue; }
    bool own_full() const { return own_level == c.append_queue; }
    bool filling(int64_t t) const { return reads.ready(t) && places[reads.out()].fill; }
    int after(int place) const { return place + 1 == c.access_places ? 0 : place + 1; }
    bool still() const { return level == 0 && !held && !writes.any() && !reads.any(); }
    // Whether a task was handed out.
    bool tick(int64_t t, bool push, const Access& access, Mask taken, bool written, bool read, int place) {
        const bool retire = retired = level && done[oldest];
        const Access head = places[next_out];
        const bool hand_out = waiting && !(held & ~taken & bit(head.bank));
        level += int(push) - int(retire);
        own_level += int(push && access.own) - int(retire && places[oldest].own);
        waiting += int(push) - int(hand_out);
        if (retire) { done[oldest] = false; oldest = after(oldest); }
        held &= ~taken;
        if (hand_out) {
            Task& task = tasks[head.bank];
            task = Task{};
            task.row = head.row;
            task.column = head.column;
            task.count = 1;
            task.kind = head.write ? TASK_WR : TASK_RD;
            task.place = next_out;
            held |= bit(head.bank);
            next_out = after(next_out);
        }
        if (push) { places[newest] = access; newest = after(newest); }
        if (writes.ready(t)) done[writes.take()] = true;
        if (reads.ready(t)) done[reads.take()] = true;
        if (written) writes.put(t, place);
        if (read) reads.put(t, place);
        return hand_out;
    }
};


// Which items may pass the data accesses that were accepted before them.
// RTL: pimhw.host_side.order_gate.OrderGate.
struct OrderGate {
    int64_t accepted = 0, released = 0, marks[256];  // marks: items accepted before the access in each place
    // `cleared`: items that no vector of the append buffer keeps waiting.
    bool open(const AccessQueue& accesses, int64_t cleared) const {
        return (accesses.level ? marks[accesses.oldest] : accepted) != released && cleared != released;
    }
    void tick(bool push, int place, bool accept, bool release) {
        if (push) marks[place] = accepted;
        accepted += accept;
        released += release;
    }
};

struct ConfigWord {
    int32_t op, slot, index;
    uint64_t value;
};

// RTL: pimhw.host_side.host_port.HostPort, pimhw.host_side.ownership.Ownership,
//      pimhw.host_side.descriptor_check.DescriptorCheck.
struct HostPort {
    const Config& c;
    HostCommands commands;
    bool owner = false, enable = false, enabled = false, leaving = false, refresh_2x = false;
    int quiet;
    int32_t refused = 0, refusal = 0;
    using Column = HostCommands::Column;
    struct Write { Column column; bool window, direct, closed; };
    DelayLine<Write> writes;
    struct Read { bool window, direct, closed; int32_t line; };
    DelayLine<Read> reads;
    bool out_valid = false;
    // signals of a clock
    struct Now {
        bool take, release, clear, push, append, descriptor_valid, config_valid, writing, query, set_refresh, refresh_2x;
        int why, read_why;
        Access access;
        AppendBuffer::Request request;
        Descriptor descriptor;
        ConfigWord config;
    } now{};

    explicit HostPort(const Config& config)
        : c(config), commands(config), refresh_2x(config.refresh_rate == 2), quiet(config.quiet_clocks) {
        writes.size(c.write_clocks - 1);
        reads.size(c.read_clocks);
    }
    int32_t line_number(const Column& k) const {
        return k.column + c.columns * (k.bank + c.banks * (k.row & (c.window_rows - 1)));
    }
    static bool inside(int32_t line, const Region& r, int32_t& place) {
        const int bits = clog2(r.size);
        place = line & (r.size - 1);
        return line >> bits == r.base >> bits;
    }
    void refuse(int why) { now.why = why; }

    int descriptor_fault(const uint8_t* line, bool ready) {
        Descriptor& d = now.descriptor;
        d.k_row = int32_t(field(line, c.k_row));
        d.v_row = int32_t(field(line, c.v_row));
        d.tokens = int32_t(field(line, c.tokens));
        d.last_query = int32_t(field(line, c.last_query));
        d.normalise = field(line, c.normalise) != 0;
        d.static_order = field(line, c.static_order) != 0;
        const int32_t step = c.row_lines * c.chips, rows = (d.tokens + step - 1) / step;
        const int64_t k_end = int64_t(d.k_row) + rows, v_end = int64_t(d.v_row) + rows;
        const uint32_t scale = uint32_t(field(line, c.scale)), exponent = scale >> 23 & 255;
        if (!ready) return REFUSE_QUEUE_FULL;
        if (any_above(line, c.descriptor_bits, c.line_bytes)) return REFUSE_RESERVED;
        if (d.tokens == 0) return REFUSE_BAD_TOKENS;
        if (k_end > c.first_row || v_end > c.first_row || (d.k_row < v_end && d.v_row < k_end)) return REFUSE_BAD_ROWS;
        if (d.last_query >= c.queries_at_once || field(line, c.query) % c.queries_at_once || field(line, c.output) % c.queries_at_once)
            return REFUSE_BAD_QUERIES;
        if (scale >> 31 || exponent == 0 || exponent == 255) return REFUSE_BAD_SCALE;
        return REFUSE_NONE;
    }

    void control_word(const uint8_t* line, bool queue_full, const AppendBuffer& appends, bool clean) {
        const int op = int(field(line, c.op));
        if (any_above(line, c.control_bits, c.line_bytes)) return refuse(REFUSE_RESERVED);
        if (op == CONTROL_TAKE && !owner && !commands.now.in_use) now.take = true;
        else if (op == CONTROL_RELEASE && owner) now.release = true;
        else if (op == CONTROL_CLEAR) now.clear = true;
        else if (op == CONTROL_REFRESH) { now.set_refresh = true; now.refresh_2x = field(line, c.op_rate) != 0; }
        else if ((op == CONTROL_READ || op == CONTROL_APPEND) && owner) {
            const int32_t bank = int32_t(field(line, c.op_bank)), row = int32_t(field(line, c.op_row)),
                          column = int32_t(field(line, c.op_column));
            const bool is_read = op == CONTROL_READ, direct = is_read && clean;
            now.access = Access{false, bank, row, column, false, false};
            now.request = AppendBuffer::Request{is_read, bank, row, column, field(line, c.op_v) != 0, int32_t(field(line, c.op_token)), {}};
            if (direct ? queue_full : appends.full()) refuse(REFUSE_QUEUE_FULL);
            else if (commands.in_window(row)) refuse(is_read ? REFUSE_OUTSIDE : REFUSE_BAD_APPEND);
            else (direct ? now.push : now.append) = true;
        } else refuse(REFUSE_BAD_OP);
    }

    // `slots`: the commands on the bus; `line`: what is on the data bus, if anything.
    void decide(int64_t t, const HostSlots& slots, const HostOp* line, bool queue_full, const AppendBuffer& appends, bool clean,
                bool descriptor_ready, bool config_ready) {
        now = Now{};
        commands.decide(slots, owner);
        now.writing = commands.now.writing || commands.column.write || writes.any();
        if (reads.ready(t)) {
            const Read& r = reads.out();
            int32_t place;
            if (r.closed) now.read_why = REFUSE_ROW_CLOSED;
            else if (r.window) {
                const bool known = inside(r.line, c.outputs, place) || inside(r.line, c.statistics, place) ||
                    inside(r.line, c.reads, place) || (c.num_slots && inside(r.line, c.slots, place)) ||
                    (inside(r.line, c.control, place) && (place == 0 || place == 3 || (place == 2 && c.num_slots)));
                if (!known) now.read_why = REFUSE_OUTSIDE;
            } else if (!r.direct) now.read_why = REFUSE_DATA_READ;
        }
        if (!writes.ready(t)) return;
        static const uint8_t zeros[MAX_LINE] = {};
        const uint8_t* data = line ? line->data : zeros;
        const Write& w = writes.out();
        int32_t place;
        if (w.closed) refuse(REFUSE_ROW_CLOSED);
        else if (w.window) {
            const int32_t number = line_number(w.column);
            bool masked = false;
            if (line) for (int n = 0; n < (c.line_bytes + 7) / 8; ++n) masked |= line->mask[n] != 0;
            if (masked) refuse(REFUSE_MASKED);
            else if (inside(number, c.query_region, place)) now.query = true;
            else if (inside(number, c.append, place)) {}
            else if (inside(number, c.control, place) && place == 0)
                control_word(data, queue_full, appends, clean);
            else if (inside(number, c.control, place) && place == 1) {
                const int why = descriptor_fault(data, descriptor_ready);
                if (why) refuse(why);
                else now.descriptor_valid = true;
            } else if (c.num_slots && inside(number, c.control, place) && place == 2) {
                now.config = ConfigWord{int32_t(field(data, c.config_op)), int32_t(field(data, c.config_slot)),
                                        int32_t(field(data, c.config_index)), field(data, c.config_value)};
                if (any_above(data, c.config_bits, c.line_bytes)) refuse(REFUSE_RESERVED);
                else if (!config_ready) refuse(REFUSE_QUEUE_FULL);
                else now.config_valid = true;
            } else refuse(REFUSE_OUTSIDE);
        } else if (!w.direct) {
            now.access = Access{true, w.column.bank, w.column.row, w.column.column, false, false};
            if (queue_full) refuse(REFUSE_QUEUE_FULL);
            else if (appends.clash(w.column.row)) refuse(REFUSE_BAD_APPEND);
            else now.push = true;
        }
    }

    // Nothing changes without a command.
    bool still() const {
        return commands.still() && !writes.any() && !reads.any() && !out_valid && quiet == 0 && enable == owner &&
            enabled == enable && !leaving;
    }

    void tick(int64_t t, const HostSlots& slots, bool work, bool engine_idle) {
        // who owns the DRAM
        const bool at_rest = !enable || (enabled && engine_idle);
        const bool was_owner = owner, was_enable = enable, direct_valid = commands.num_direct != 0;
        if (direct_valid) { if (was_owner && !was_enable && quiet == 0 && !now.take) enable = true; quiet = c.quiet_clocks; }
        else if (quiet) --quiet;
        else if (was_owner && !was_enable && !now.take) enable = true;
        enabled = was_enable;
        if (now.take) owner = true;
        if (now.release) leaving = true;
        else if (leaving && !work && !now.writing && at_rest) { leaving = owner = enable = false; }
        if (now.set_refresh) refresh_2x = now.refresh_2x;
        if (now.clear) refused = refusal = 0;
        refused = (refused + commands.now.refused + (now.why != 0) + (now.read_why != 0)) & 0xFFFF;
        if (commands.now.refused) refusal = commands.now.refusal;
        else if (now.read_why) refusal = now.read_why;
        else if (now.why) refusal = now.why;
        // reads and writes on their way
        const Column& k = commands.column;
        const bool window = commands.in_window(k.row), is_open = k.is_open && (window || k.direct || k.owned);
        out_valid = reads.ready(t);
        if (out_valid) reads.take();
        if (k.read) reads.put(t, Read{window, k.direct, !is_open, line_number(k)});
        if (writes.ready(t)) writes.take();
        if (k.write) writes.put(t, Write{k, window, k.direct, !is_open});
        commands.tick(slots, was_owner);
    }
};
