// pimhw.host_side: the host's commands, the window, who owns the DRAM, and accesses that wait for their bank.
#pragma once
#include <cstring>

#include "command_engine.h"
#include "contract.h"
#include "parts.h"
#include "sequencer.h"

constexpr int MAX_LINE = 256;

struct HostOp {
    int32_t wait, code, bank, row, column;
    uint8_t data[MAX_LINE], mask[MAX_LINE / 8];
};

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

struct Access {
    bool write;
    int32_t bank, row, column;
};

// Posted writes and split reads.
// RTL: pimhw.host_side.access_queue.AccessQueue.
struct AccessQueue {
    const Config& c;
    Access places[256];
    bool done[256] = {};
    int level = 0, waiting = 0, newest = 0, next_out = 0, oldest = 0;
    Mask held = 0;
    Task tasks[MAX_BANKS];
    DelayLine<int> writes, reads;  // the place
    explicit AccessQueue(const Config& config) : c(config) {
        writes.size(c.write_clocks);
        reads.size(c.read_clocks);
    }
    bool full() const { return level == c.host_queue; }
    bool still() const { return level == 0 && !held && !writes.any() && !reads.any(); }
    // Whether a task was handed out.
    bool tick(int64_t t, bool push, const Access& access, Mask taken, bool written, bool read, int place) {
        const bool retire = level && done[oldest];
        const Access head = places[next_out];
        const bool hand_out = waiting && !(held & bit(head.bank));
        level += int(push) - int(retire);
        waiting += int(push) - int(hand_out);
        if (retire) { done[oldest] = false; oldest = oldest + 1 == c.host_queue ? 0 : oldest + 1; }
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
            next_out = next_out + 1 == c.host_queue ? 0 : next_out + 1;
        }
        if (push) { places[newest] = access; newest = newest + 1 == c.host_queue ? 0 : newest + 1; }
        if (writes.ready(t)) done[writes.take()] = true;
        if (reads.ready(t)) done[reads.take()] = true;
        if (written) writes.put(t, place);
        if (read) reads.put(t, place);
        return hand_out;
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
    bool owner = false, enable = false, enabled = false, leaving = false;
    int quiet;
    int32_t refused = 0, refusal = 0;
    // stage 1
    struct Command { bool valid = false; int32_t code = 0, bank = 0, row = 0, column = 0; } c1;
    bool bank_open1 = false, owner1 = false, direct_valid = false;
    int32_t open_rows[MAX_BANKS] = {};
    Mask opened = 0, data_open = 0;
    struct Write { Command command; bool window, direct, closed; };
    DelayLine<Write> writes;
    struct Read { bool window, direct, closed; int32_t line; };
    DelayLine<Read> reads;
    bool out_valid = false;
    // signals of a clock
    struct Now {
        bool take, release, clear, push, descriptor_valid, config_valid, writing, refuse, query;
        int why;
        Access access;
        Descriptor descriptor;
        ConfigWord config;
    } now{};

    explicit HostPort(const Config& config) : c(config), quiet(config.quiet_clocks) {
        writes.size(c.write_clocks - 1);
        reads.size(c.read_clocks);
    }
    bool in_window(int32_t row) const {
        const int bits = clog2(c.window_rows);
        return row >> bits == (1 << (c.row_bits - bits)) - 1;
    }
    int32_t line_number(const Command& k) const {
        return k.column + c.columns * (k.bank + c.banks * (k.row & (c.window_rows - 1)));
    }
    static bool inside(int32_t line, const Region& r, int32_t& place) {
        const int bits = clog2(r.size);
        place = line & (r.size - 1);
        return line >> bits == r.base >> bits;
    }
    void refuse(int why) { now.refuse = true; now.why = why; }

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

    void control_word(const uint8_t* line, bool queue_full, bool any_open) {
        const int op = int(field(line, c.op));
        if (any_above(line, c.control_bits, c.line_bytes)) return refuse(REFUSE_RESERVED);
        if (op == CONTROL_TAKE && !owner && !any_open) now.take = true;
        else if (op == CONTROL_RELEASE && owner) now.release = true;
        else if (op == CONTROL_CLEAR) now.clear = true;
        else if (op == CONTROL_READ && owner) {
            now.access = Access{false, int32_t(field(line, c.op_bank)), int32_t(field(line, c.op_row)),
                                int32_t(field(line, c.op_column))};
            if (queue_full) refuse(REFUSE_QUEUE_FULL);
            else if (in_window(now.access.row)) refuse(REFUSE_OUTSIDE);
            else now.push = true;
        } else refuse(REFUSE_BAD_OP);
    }

    bool forwards(const HostOp* op) const {
        if (!op) return false;
        if (op->code == CMD_ACT) return !in_window(op->row);
        if (op->code == CMD_RD || op->code == CMD_WR) return data_open >> op->bank & 1;
        return op->code == CMD_PREpb || op->code == CMD_PREab || op->code == CMD_REFab;
    }

    // `op`: the command on the bus; `line`: what is on the data bus, if anything.
    void decide(int64_t t, const HostOp* op, const HostOp* line, bool queue_full, bool descriptor_ready, bool config_ready) {
        now = Now{};
        now.writing = (op && op->code == CMD_WR) || (c1.valid && c1.code == CMD_WR) || writes.any();
        if (reads.ready(t)) {
            const Read& r = reads.out();
            int32_t place;
            if (r.closed) refuse(REFUSE_ROW_CLOSED);
            else if (r.window) {
                const bool known = inside(r.line, c.outputs, place) || inside(r.line, c.statistics, place) ||
                    inside(r.line, c.reads, place) || (c.num_slots && inside(r.line, c.slots, place)) ||
                    (inside(r.line, c.control, place) && (place == 0 || (place == 2 && c.num_slots)));
                if (!known) refuse(REFUSE_OUTSIDE);
            } else if (!r.direct) refuse(REFUSE_DATA_READ);
        }
        if (!writes.ready(t)) return;
        static const uint8_t zeros[MAX_LINE] = {};
        const uint8_t* data = line ? line->data : zeros;
        const Write& w = writes.out();
        int32_t place;
        if (w.closed) refuse(REFUSE_ROW_CLOSED);
        else if (w.window) {
            const int32_t number = line_number(w.command);
            bool masked = false;
            if (line) for (int n = 0; n < (c.line_bytes + 7) / 8; ++n) masked |= line->mask[n] != 0;
            if (masked) refuse(REFUSE_MASKED);
            else if (inside(number, c.query_region, place)) now.query = true;
            else if (inside(number, c.control, place) && place == 0)
                control_word(data, queue_full, data_open || (op && op->code == CMD_ACT && forwards(op)));
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
            now.access = Access{true, w.command.bank, w.command.row, w.command.column};
            if (queue_full) refuse(REFUSE_QUEUE_FULL);
            else now.push = true;
        }
    }

    // Nothing changes without a command.
    bool still() const {
        return !c1.valid && !direct_valid && !writes.any() && !reads.any() && !out_valid && quiet == 0 &&
            enable == owner && enabled == enable && owner1 == owner && !leaving;
    }

    void tick(int64_t t, const HostOp* op, bool work, bool engine_idle) {
        // who owns the DRAM
        const bool at_rest = !enable || (enabled && engine_idle);
        const bool was_owner = owner, was_enable = enable;
        if (direct_valid) { if (was_owner && !was_enable && quiet == 0 && !now.take) enable = true; quiet = c.quiet_clocks; }
        else if (quiet) --quiet;
        else if (was_owner && !was_enable && !now.take) enable = true;
        enabled = was_enable;
        if (now.take) owner = true;
        if (now.release) leaving = true;
        else if (leaving && !work && !now.writing && at_rest) { leaving = owner = enable = false; }
        if (now.refuse) { refused = (refused + 1) & 0xFFFF; refusal = now.why; }
        if (now.clear) refused = refusal = 0;
        // reads and writes on their way
        const bool window1 = in_window(c1.row);
        const bool open1 = bank_open1 && (window1 || direct_valid || owner1);
        const bool is_read = c1.valid && c1.code == CMD_RD, is_write = c1.valid && c1.code == CMD_WR;
        out_valid = reads.ready(t);
        if (out_valid) reads.take();
        if (is_read) reads.put(t, Read{window1, direct_valid, !open1, line_number(c1)});
        if (writes.ready(t)) writes.take();
        if (is_write) writes.put(t, Write{c1, window1, direct_valid, !open1});
        // stage 1
        const bool forward = forwards(op);
        direct_valid = op && forward && !was_owner;
        owner1 = was_owner;
        c1.valid = op != nullptr;
        if (!op) { bank_open1 = opened & 1; return; }
        bank_open1 = opened >> op->bank & 1;
        c1.code = op->code;
        c1.bank = op->bank;
        c1.row = op->row;
        c1.column = op->column;
        const Mask here = bit(op->bank);
        if (op->code == CMD_ACT) {
            open_rows[op->bank] = op->row;
            opened |= here;
            data_open = !in_window(op->row) && !was_owner ? data_open | here : data_open & ~here;
        } else if (op->code == CMD_RD || op->code == CMD_WR) {
            c1.row = open_rows[op->bank];
        } else if (op->code == CMD_PREpb) {
            opened &= ~here;
            data_open &= ~here;
        } else if (op->code == CMD_PREab) {
            opened = data_open = 0;
        }
    }
};
