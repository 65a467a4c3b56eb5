// pimhw.dram: bank machines, timers, refresh, fairness; which command issues in a clock.
#pragma once
#include <algorithm>

#include "config.h"
#include "parts.h"

enum TaskKind { TASK_MAC = 0, TASK_RD = 1, TASK_WR = 2 };

struct MacTag {
    bool mode, segment_end;  // mode: 0 tree (K), 1 lane (V)
    uint8_t set, slot;
    int16_t step;
};

struct Task {
    int32_t row, column, count, kind, place;  // place: of a host access
    MacTag mac;
};

struct BusRequest {
    bool read, sum, pop, queries_end, row_end;
    uint8_t slot;
};

struct Issued {
    bool valid = false, last = false, resume = false;
    int32_t code = 0, bank = 0, row = 0, column = 0, count = 0, place = 0;
    MacTag mac{};
};

struct CommandEngine {
    const Config& c;
    // bank machines
    Mask busy = 0, open = 0, hit = 0, streaming = 0, is_rd = 0, is_wr = 0, resumed = 0;
    Task current[MAX_BANKS];
    int32_t open_row[MAX_BANKS];
    Wheel stream_end;
    Mask ended = 0;  // bursts that were over with the last clock
    // timers: the first clock in which a command may issue
    int64_t bank_at[32][MAX_BANKS] = {}, group_at[32][MAX_BANKS] = {}, rank_at[32] = {}, over_at = 0;
    struct Until { int following, level, clocks, window; };
    Until after[32][32];
    int num_after[32] = {};
    int64_t window_events[32][8] = {};
    int window_next[32] = {};
    // refresh
    bool refreshing = false;    // REFab has issued since PIM took the DRAM
    int64_t refreshed = 0, due_at = 0;  // the last one; when the next is due
    int64_t calm_until = 0;     // until then nothing of the refresh schedule changes but the accesses that fit
    bool closing = true, in_time[32] = {};
    int32_t margin[32] = {}, largest_margin = 0;
    // fairness
    int focus = 0, waited = 0;
    bool of_bus = false, served = false;
    int turn_left;
    Mask above = 0;
    // outputs
    Issued command;
    bool bus_valid = false, idle = false;
    BusRequest bus{};

    // signals of a clock
    struct Now {
        Mask task_valid, wants, stalled, contend, pick_bit;
        int pick, code, count;
        bool PREab, REFab, bus_taken, bus_asked, start_closing;
        Mask want_act, want_pre, want_column;
    } now;

    explicit CommandEngine(const Config& config) : c(config), turn_left(config.patience - 1) {
        for (int n = 0; n < c.num_rules; ++n) {
            const Rule& r = c.rules[n];
            after[r.event][num_after[r.event]++] = Until{r.following, r.level, r.clocks, r.window};
        }
        const Codes& k = c.code;
        margin[k.ACT] = c.margin_ACT; margin[k.PREpb] = c.margin_PREpb; margin[k.RD] = c.margin_RD;
        margin[k.WR] = c.margin_WR; margin[k.PIM_WR_SB] = c.margin_WR_SB; margin[k.PIM_RD_RB] = c.margin_RD_RB;
        for (int m : margin) largest_margin = std::max(largest_margin, m);
        largest_margin = std::max(largest_margin, c.margin_PREab + 2);
        for (bool& flag : is_bank_command) flag = false;
        for (int code : {k.ACT, k.PREpb, k.RD, k.WR, k.PIM_MAC}) is_bank_command[code] = true;
        for (auto& row : window_events) for (auto& at : row) at = -(int64_t(1) << 40);
    }

    Mask ready_tasks(bool enable) const { return enable ? ~busy & ((c.banks == 64 ? Mask(0) : bit(c.banks)) - 1) : 0; }

    bool is_bank_command[32];

    // Accesses that a PIM_MAC of clock t may make before the next refresh.
    int fits(int64_t t) const {
        if (closing) return 0;
        const int64_t free = c.refresh_clocks - 1 - c.margin_MAC, n = t - refreshed - 1, rest = free % c.interval;
        const int64_t left = free / c.interval + 1 - (n > rest ? 1 + (n - rest - 1) / c.interval : 0);
        return int(std::max<int64_t>(0, left));
    }

    // Where the refresh schedule stands in clock t.
    void schedule(int64_t t, bool enable) {
        if (!enable) refreshing = false;
        if (t < calm_until && refreshing) return;
        closing = !refreshing || t >= due_at - c.margin_PREab;
        for (int code = 0; code < 32; ++code) in_time[code] = !refreshing || t > due_at || due_at - (t - 1) > margin[code];
        calm_until = refreshing ? due_at - largest_margin : 0;
    }

    Mask ready_banks(Mask candidates, int code, int64_t t) const {
        if (t < rank_at[code]) return 0;
        Mask found = 0;
        for (Mask m = candidates; m; m &= m - 1) {
            const int b = lowest(m);
            if (t >= bank_at[code][b] && t >= group_at[code][b / c.banks_per_group]) found |= bit(b);
        }
        return found;
    }

    // What issues in clock t. `bus_asks`: a bus command is offered; `hold`: banks whose PIM_MAC must wait.
    void decide(int64_t t, bool enable, Mask task_valid, Mask hold, bool bus_asks, bool bus_read) {
        const Codes& k = c.code;
        now.task_valid = task_valid;
        now.want_act = busy & ~open;
        now.want_column = busy & open & hit & ~streaming;
        now.want_pre = open & ~streaming & ((busy & ~hit) | (~busy & ~task_valid));
        const Mask rd = now.want_column & is_rd, wr = now.want_column & is_wr;
        const Mask mac = now.want_column & ~is_rd & ~is_wr & ~hold;
        now.wants = now.want_act | now.want_pre | rd | wr | mac;
        const bool urgent = waited == c.patience;
        const bool may_banks = !of_bus || !bus_asks;
        now.stalled = may_banks ? 0 : rd | wr;
        const Mask free = urgent && !(bit(focus) & now.stalled) ? bit(focus) : ~Mask(0);
        const bool may = enable && !closing;
        now.contend = ((may && in_time[k.RD] ? rd : 0) | (may && in_time[k.WR] ? wr : 0)) & free;
        now.start_closing = refreshing && t == due_at - c.margin_PREab - 1;
        const int can_fit = mac ? fits(t) : 0;
        Mask eligible = 0;
        if (enable) {
            if (now.want_act && may && in_time[k.ACT]) eligible |= ready_banks(now.want_act & free, k.ACT, t);
            if (now.want_pre && may && in_time[k.PREpb]) eligible |= ready_banks(now.want_pre, k.PREpb, t);
            if (mac && can_fit) {
                Mask fitting = mac;
                if (!c.split_bursts)
                    for (Mask m = mac; m; m &= m - 1)
                        if (current[lowest(m)].count > can_fit) fitting &= ~bit(lowest(m));
                eligible |= ready_banks(fitting, k.PIM_MAC, t);
            }
            if (rd && may_banks && may && in_time[k.RD]) eligible |= ready_banks(rd & free, k.RD, t);
            if (wr && may_banks && may && in_time[k.WR]) eligible |= ready_banks(wr & free, k.WR, t);
        }
        now.PREab = enable && closing && open && !streaming && t >= rank_at[k.PREab];
        now.REFab = enable && closing && (!refreshing || t >= due_at) && !open && t >= rank_at[k.REFab];
        now.pick = -1;
        now.pick_bit = 0;
        if (eligible) {
            const Mask first = eligible & above;
            const int b = now.pick = lowest(first ? first : eligible);
            now.pick_bit = bit(b);
            if (now.want_act & now.pick_bit) now.code = k.ACT;
            else if (now.want_pre & now.pick_bit) now.code = k.PREpb;
            else now.code = is_rd & now.pick_bit ? k.RD : is_wr & now.pick_bit ? k.WR : k.PIM_MAC;
            now.count = now.code == k.PIM_MAC ? std::min(can_fit, current[b].count) : 1;
        }
        // the second slot
        const int bus_code = bus_read ? k.PIM_RD_RB : k.PIM_WR_SB;
        const bool may_bus = of_bus || !now.contend;
        const bool margin = !(bus_read ? c.margin_RD_RB : c.margin_WR_SB) || in_time[bus_code];
        now.bus_asked = bus_asks;
        now.bus_taken = bus_asks && enable && may_bus && margin && t >= rank_at[bus_code] && !now.REFab;
    }

    void happens(int64_t t, int code, int bank, int64_t streams) {
        for (int n = 0; n < num_after[code]; ++n) {
            const Until& u = after[code][n];
            int64_t at = t + u.clocks;
            if (u.window > 1) {
                int64_t* events = window_events[u.following];
                int& next = window_next[u.following];
                events[next] = t;
                next = next + 1 == u.window ? 0 : next + 1;
                at = events[next] + u.clocks;  // the window-th last one
                rank_at[u.following] = std::max(rank_at[u.following], at);
                over_at = std::max(over_at, at);
                continue;
            }
            if (u.level != FROM_COMMAND) at += streams;
            over_at = std::max(over_at, at);
            int64_t* place = &rank_at[u.following];
            if (bank >= 0 && is_bank_command[u.following]) {
                if (u.level == AT_BANK) place = &bank_at[u.following][bank];
                if (u.level == AT_GROUP) place = &group_at[u.following][bank / c.banks_per_group];
            }
            *place = std::max(*place, at);
        }
    }

    bool rests(int64_t t, bool enable, Mask accepted, bool bus_taken) const {
        const bool quiet = !(busy | open | accepted) && ((!closing && !now.start_closing) || !enable);
        return quiet && t >= over_at && !bus_taken;
    }

    // If nothing issued in clock t: the first clock after it in which something may, at most `limit`.
    int64_t next(int64_t t, bool enable, Mask hold, int64_t limit) const {
        const Codes& k = c.code;
        if (!enable) return limit;
        if (ended || !refreshing || of_bus || served || now.contend || t + 1 >= calm_until) return t + 1;
        int64_t wake = std::min(stream_end.next(t + 1, limit), calm_until);
        const Mask mac = now.want_column & ~hold;
        if (now.want_column & (is_rd | is_wr)) return t + 1;
        const struct { Mask banks; int code; } wanted[] = {{now.want_act, k.ACT}, {now.want_pre, k.PREpb}, {mac, k.PIM_MAC}};
        for (const auto& want : wanted)
            for (Mask m = want.banks; m; m &= m - 1) {
                const int b = lowest(m);
                const int64_t at = std::max({rank_at[want.code], bank_at[want.code][b], group_at[want.code][b / c.banks_per_group]});
                wake = std::min(wake, std::max(at, t + 1));
            }
        return wake;
    }

    // Clocks t + 1 .. wake - 1 pass without an event.
    void skip(int64_t t, int64_t wake, bool enable) {
        int64_t clocks = wake - t - 1;
        while (clocks > 0 && !(bit(focus) & now.wants)) {
            waited = 0;
            focus = focus + 1 == c.banks ? 0 : focus + 1;
            --clocks;
            if (!now.wants) { focus = int((focus + clocks) % c.banks); clocks = 0; }
        }
        waited = int(std::min<int64_t>(c.patience, waited + clocks));
        streaming &= ~stream_end.take(wake);
        idle = rests(wake - 1, enable, 0, false);
    }

    void tick(int64_t t, bool enable, const Task* offered, Mask accepted, const BusRequest& bus_request) {
        const Codes& k = c.code;
        // `over` counts timers as they stand in this clock
        const Mask all = ready_tasks(true) | busy;
        idle = rests(t, enable, accepted, now.bus_taken);
        // fairness
        const Mask focus_bit = bit(focus);
        if (focus_bit & now.wants & ~now.pick_bit) {
            if (waited != c.patience && !(focus_bit & now.stalled)) ++waited;
        } else {
            waited = 0;
            focus = focus + 1 == c.banks ? 0 : focus + 1;
        }
        const bool issues = of_bus ? now.bus_taken : (now.contend & now.pick_bit) != 0;
        const bool other_waits = of_bus ? now.contend != 0 : now.bus_asked;
        const bool was_served = served || issues;
        served = was_served;
        if (other_waits && was_served) {
            if (turn_left == 0) { of_bus = !of_bus; served = false; turn_left = c.patience - 1; }
            else --turn_left;
        }
        if (now.REFab) {
            refreshing = true;
            closing = false;
            refreshed = t;
            due_at = t + c.refresh_clocks;
            calm_until = due_at - largest_margin;
            for (bool& flag : in_time) flag = true;
        }
        // banks
        ended = stream_end.take(t + 1);
        streaming &= ~ended;
        for (Mask m = accepted; m; m &= m - 1) {
            const int b = lowest(m);
            current[b] = offered[b];
            const Mask here = bit(b);
            busy |= here;
            resumed &= ~here;
            is_rd = current[b].kind == TASK_RD ? is_rd | here : is_rd & ~here;
            is_wr = current[b].kind == TASK_WR ? is_wr | here : is_wr & ~here;
            hit = current[b].row == open_row[b] ? hit | here : hit & ~here;
        }
        if (now.PREab || now.REFab) command = Issued{};
        command.valid = now.pick >= 0 || now.PREab || now.REFab;
        if (now.PREab) { open = 0; happens(t, k.PREab, -1, 0); command.code = k.PREab; }
        if (now.REFab) { happens(t, k.REFab, -1, 0); command.code = k.REFab; }
        if (now.pick >= 0) {
            const int b = now.pick;
            const Mask here = bit(b);
            Task& task = current[b];
            above = ~(here | (here - 1)) & all;
            command.code = now.code;
            command.bank = b;
            command.row = task.row;
            command.column = task.column;
            command.count = now.count;
            command.resume = (resumed & here) != 0;
            command.last = now.count == task.count;
            command.mac = task.mac;
            command.place = task.place;
            int64_t streams = 0;
            if (now.code == k.ACT) {
                open |= here;
                hit |= here;
                open_row[b] = task.row;
            } else if (now.code == k.PREpb) {
                open &= ~here;
            } else {
                if (now.code == k.PIM_MAC) {
                    streams = int64_t(now.count - 1) * c.interval;
                    if (streams) { streaming |= here; stream_end.add(t + streams + 1, b); }
                }
                if (command.last) busy &= ~here;
                task.column += now.count;
                task.count -= now.count;
                resumed |= here;
            }
            happens(t, now.code, b, streams);
        }
        bus_valid = now.bus_taken;
        bus = bus_request;
        if (now.bus_taken) happens(t, bus_request.read ? k.PIM_RD_RB : k.PIM_WR_SB, -1, 0);
    }
};
