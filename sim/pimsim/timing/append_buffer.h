// pimhw.host_side.append_buffer: vectors that the host appends, in groups of neighbouring tokens.
#pragma once
#include "contract.h"
#include "parts.h"

struct Access {
    bool write;
    int32_t bank, row, column;
    bool own, fill;  // of the append buffer; a line that a group reads
};

// RTL: pimhw.host_side.append_buffer.AppendBuffer.
struct AppendBuffer {
    struct Request {
        bool read;
        int32_t bank, row, column;
        bool v;
        int32_t token;
        int64_t marks[2];
    };
    struct Group { bool v; int32_t row, step_line; };
    // What the queue says of this clock.
    struct Around { bool own_room, host_room, outstanding, filling, leaving, posted; int32_t row; };
    enum State { IDLE, FILL, COPY, WRITE };
    const Config& c;
    Request requests[256];
    Group groups[64];
    State state = IDLE;
    Mask held = 0, dirty = 0, ended = 0;
    int level = 0, oldest = 0, newest = 0, number = 0, victim = 0, slice = 0, came = 0;
    static constexpr int PATIENCE = 64;
    int idle = 0;  // clocks without a request since there are lines to write
    bool asked = false;
    int64_t cleared[2] = {};  // descriptors, configuration operations
    explicit AppendBuffer(const Config& config) : c(config) {}

    bool full() const { return level == c.host_queue; }
    bool clean(bool outstanding) const { return state == IDLE && !level && !dirty && !outstanding; }
    bool still(const int64_t* marks, bool outstanding) const {
        return clean(outstanding) && cleared[0] == marks[0] && cleared[1] == marks[1];
    }
    Mask touched(int32_t row) const {
        Mask mask = 0;
        for (Mask m = held; m; m &= m - 1)
            if (groups[lowest(m)].row == row) mask |= m & -m;
        return mask;
    }
    bool clash(int32_t row) const { return touched(row) & (dirty | (state == IDLE ? 0 : bit(number))); }
    Access line(bool write) const {
        const Group& g = groups[number];
        const int turn = clog2(c.tokens_per_turn), vector = clog2(c.accesses_per_k), part = clog2(c.accesses_per_v);
        if (g.v) return Access{write, slice >> part, g.row, (g.step_line << part) + (slice & (c.accesses_per_v - 1)), true, !write};
        return Access{write, g.step_line >> turn, g.row, ((g.step_line & (c.tokens_per_turn - 1)) << vector) + slice, true, !write};
    }
    void begin(Mask among, State next) { number = lowest(among); state = next; }

    // Whether an access goes to the queue: `access`.
    bool tick(const Around& a, const int64_t* marks, bool valid, const Request& request, Access& access) {
        const Request head = requests[oldest];
        const bool waits = level != 0, was_clean = clean(a.outstanding);
        const Mask all = c.append_groups == 64 ? ~Mask(0) : bit(c.append_groups) - 1;
        bool push = false, pop = false;
        if (a.posted) held &= ~touched(a.row);
        switch (state) {
        case IDLE: {
            const bool late = waits && (head.marks[0] != cleared[0] || head.marks[1] != cleared[1]);
            const bool early = !waits && (marks[0] != cleared[0] || marks[1] != cleared[1]);
            slice = 0;
            Mask hits = 0, others = 0;
            if (waits)
                for (Mask m = held; m; m &= m - 1) {
                    const Group& g = groups[lowest(m)];
                    if (g.row == head.row && g.v != head.v) others |= m & -m;
                    if (g.v == head.v && g.row == head.row && g.step_line == head.token >> clog2(c.chips)) hits |= m & -m;
                }
            if (a.posted) break;
            const bool tired = idle == PATIENCE;
            idle = waits || !dirty ? 0 : tired ? idle : idle + 1;
            if (ended & dirty) begin(ended & dirty, WRITE);
            else if ((late || early || ((a.leaving || tired) && !waits) || (waits && head.read)) && dirty) begin(dirty, WRITE);
            else if (late || early) {
                for (int n = 0; n < 2 && !a.outstanding; ++n) cleared[n] = late ? head.marks[n] : marks[n];
            } else if (waits && head.read) {
                push = pop = a.host_room;
                access = Access{false, head.bank, head.row, head.column, false, false};
            } else if (others) {
                ended |= others;
                held &= ~others | dirty;
            } else if (hits) begin(hits, COPY);
            else if (waits && held != all) {
                begin(~held & all, c.data_mask ? COPY : FILL);
                groups[number] = Group{head.v, head.row, head.token >> clog2(c.chips)};
                dirty &= ~bit(number);
                ended &= ~bit(number);
                held |= bit(number);
            } else if (waits) {
                ended |= bit(victim);
                if (!(dirty & bit(victim))) held &= ~bit(victim);
                victim = victim == c.append_groups - 1 ? 0 : victim + 1;
            }
            break;
        }
        case FILL:
            push = a.own_room && !asked;
            access = line(false);
            if (push) {
                asked = slice == c.accesses_per_k - 1;
                slice = (slice + 1) & (c.accesses_per_k - 1);
            }
            if (a.filling && ++came == c.accesses_per_k) { came = slice = 0; asked = false; state = COPY; }
            break;
        case COPY:
            if (++slice == c.vector_lines) {
                pop = true;
                dirty |= bit(number);
                if ((head.token & (c.chips - 1)) == c.chips - 1) ended |= bit(number);
                state = IDLE;
            }
            break;
        case WRITE:
            push = a.own_room;
            access = line(true);
            if (push && slice == c.accesses_per_k - 1) {
                dirty &= ~bit(number);
                if (ended & bit(number)) held &= ~bit(number);
                state = IDLE;
            }
            if (push) ++slice;
            break;
        }
        if (a.leaving && was_clean) held = 0;
        if (pop) oldest = (oldest + 1) & (c.host_queue - 1);
        if (valid) {
            requests[newest] = request;
            requests[newest].marks[0] = marks[0];
            requests[newest].marks[1] = marks[1];
            newest = (newest + 1) & (c.host_queue - 1);
        }
        level += int(valid) - int(pop);
        return push;
    }
};
