// pimhw.dram: bank machines, timers, refresh, fairness; which command issues in a clock.
// Long because all of them decide on one command slot, and are one clocked unit in the model.
#pragma once
#include <algorithm>

#include "agenda.h"
#include "contract.h"
#include "counts.h"
#include "parts.h"


struct MacTag {
    bool mode, segment_end;  // mode: 0 tree (K), 1 lane (V)
    uint8_t set, slot;
    int16_t step;
};

struct Task {
    int32_t row, column, count, kind, place;  // place: of a host access
    MacTag mac;
};

struct Issued {
    bool valid = false, last = false, resume = false;
    int32_t code = 0, bank = 0, row = 0, column = 0, count = 0, place = 0;
    MacTag mac{};
};

// RTL: pimhw.dram.command_engine.CommandEngine, pimhw.dram.bank_machine.BankMachine,
//      pimhw.dram.fairness.StarvationGuard, pimhw.dram.fairness.BusTurn, pimhw.dram.refresh_schedule.RefreshSchedule,
//      pimhw.dram.timers.IntervalTimer, pimhw.dram.timers.WindowTimer.
struct CommandEngine {
    const Config& c;
    const Mask all;
    // bank machines
    Mask busy = 0, open = 0, hit = 0, streaming = 0, is_rd = 0, is_wr = 0, resumed = 0;
    Task current[MAX_BANKS];
    int32_t open_row[MAX_BANKS];
    Wheel stream_end, flight_end;
    Mask in_flight = 0;  // if the banks that may stream at once are limited: those with a PIM_MAC that is not over
    int group_of[MAX_BANKS];
    // timers: the first clock in which a command may issue
    int64_t bank_at[NUM_CODES][MAX_BANKS] = {}, group_at[NUM_CODES][MAX_BANKS] = {}, rank_at[NUM_CODES] = {};
    struct Until { int64_t* from; int following, level, clocks, window; bool after_stream; };  // from: timers, by place
    Until after[NUM_CODES][NUM_CODES];
    int num_after[NUM_CODES] = {};
    int64_t window_events[NUM_CODES][8] = {};
    int window_next[NUM_CODES] = {};
    // refresh
    bool refreshing = false;            // REFab has issued since PIM took the DRAM
    int64_t due_at = 0;                 // when the next one is due
    bool refresh_2x = false, refresh_request = false;  // inputs
    int owed = 0;                       // refreshes of the host minus those of the engine
    int32_t read_gap[2] = {1, 1};  // clocks between reads of results: of any banks, of a bank_group
    int32_t margin[NUM_CODES] = {};
    // fairness
    int focus = 0, waited = 0;
    bool of_bus = false, served = false;
    int turn_left;
    Mask above = 0;
    // the last clock in which the bank machines decided, and the banks that wanted something after it
    int64_t decided = -1;
    Mask wanting = 0;
    // outputs, of clock `decided` and of clock `bus_at`; they show one clock later
    Issued command;
    int64_t bus_at = -2;
    bool bus_read = false;
    int bus_bank = 0;
    Counts counts;  // with those outputs that do not show yet

    // signals of a clock
    struct Now {
        Mask stalled, contend, pick_bit, others;  // others: that might have been picked
        int pick, code, count;
        bool PREab, REFab, urgent, restless;  // restless: reads and writes of the host take turns with the bus
        int64_t later;  // when the first bank that waits for its timers may go on
    } now{};

    explicit CommandEngine(const Config& config)
        : c(config), all((config.banks == 64 ? Mask(0) : bit(config.banks)) - 1), turn_left(config.patience - 1) {
        margin[CMD_ACT] = c.margin_ACT; margin[CMD_PREpb] = c.margin_PREpb; margin[CMD_RD] = c.margin_RD;
        margin[CMD_WR] = c.margin_WR; margin[CMD_PIM_WR_SB] = c.margin_WR_SB; margin[CMD_PIM_RD_RB] = c.margin_RD_RB;
        bool of_bank[NUM_CODES] = {};
        for (int code : {CMD_ACT, CMD_PREpb, CMD_RD, CMD_WR, CMD_PIM_MAC, CMD_PIM_RD_RB}) of_bank[code] = true;
        for (int n = 0; n < c.num_rules; ++n) {
            const Rule& r = c.rules[n];
            const bool banks = of_bank[r.event] && of_bank[r.following] && r.level < LEVEL_RANK;
            if (r.event == CMD_PIM_RD_RB && r.following == CMD_PIM_RD_RB) read_gap[banks && r.level != LEVEL_RANK] = r.clocks;
            const int level = banks ? r.level : LEVEL_RANK;
            int64_t* const from[] = {bank_at[r.following], group_at[r.following], &rank_at[r.following]};
            after[r.event][num_after[r.event]++] =
                Until{from[level], r.following, level, r.clocks, r.window, r.level != LEVEL_CHANNEL};
        }
        for (auto& row : window_events) for (auto& at : row) at = -(int64_t(1) << 40);
        for (int b = 0; b < MAX_BANKS; ++b) group_of[b] = b / c.banks_per_group;
    }

    bool limited() const { return c.streaming_limit < c.banks; }
    bool room() const { return !limited() || __builtin_popcountll(in_flight) < c.streaming_limit; }
    Mask ready_tasks(bool enable) const { return enable ? ~busy & all : 0; }
    bool of_column() const { return command.code != CMD_ACT && command.code != CMD_PREpb; }
    int bus_code(bool read) const { return read ? CMD_PIM_RD_RB : CMD_PIM_WR_SB; }

    // The refresh schedule in clock t: no more rows, but PREab and REFab; time left for a command before that.
    int64_t closes_at() const { return due_at - c.margin_PREab; }
    bool closing(int64_t t) const { return !refreshing || t >= closes_at(); }
    bool in_time(int code, int64_t t) const { return !refreshing || t > due_at || due_at - (t - 1) > margin[code]; }

    // Accesses that a PIM_MAC of clock t may make before the next refresh.
    int fits(int64_t t) const {
        const int64_t left = due_at - t - c.margin_MAC;
        return closing(t) || left < 0 ? 0 : int(left / c.interval) + 1;
    }

    // The banks of `candidates` whose timers let a command issue in clock t; now.later for the others.
    Mask ready_banks(Mask candidates, int code, int64_t t) {
        if (!candidates) return 0;
        int64_t later = now.later;
        Mask found = 0;
        if (t < rank_at[code]) {
            later = std::min(later, rank_at[code]);
        } else {
            for (Mask m = candidates; m; m &= m - 1) {
                const int b = lowest(m);
                const int64_t at = std::max(bank_at[code][b], group_at[code][group_of[b]]);
                if (t >= at) found |= m & -m;
                else later = std::min(later, at);
            }
        }
        now.later = later;
        return found;
    }

    // The guard against starvation, over clocks in which the banks decided nothing: its focus goes on from bank to bank
    // until one wants something, and then it counts.
    void catch_up(int64_t t) {
        const int64_t clocks = t - decided - 1;
        if (clocks > 0) {
            const Mask from = wanting >> focus;
            const int64_t gap = from ? lowest(from) : wanting ? c.banks - focus + lowest(wanting) : clocks;
            if (gap) waited = 0;
            if (gap >= clocks) {
                focus = int((focus + clocks) % c.banks);
            } else {
                focus = int(focus + gap) >= c.banks ? int(focus + gap) - c.banks : int(focus + gap);
                waited = int(std::min<int64_t>(c.patience, waited + clocks - gap));
            }
        }
        streaming &= ~stream_end.take(t);
        if (limited()) in_flight &= ~flight_end.take(t);
        decided = t;
    }

    // What issues in clock t. `bus_asks`: a bus command is offered; `hold`: banks whose PIM_MAC must wait.
    void decide(int64_t t, bool enable, Mask task_valid, Mask hold, bool bus_asks) {
        catch_up(t);
        if (!enable) refreshing = false;
        const Mask want_act = busy & ~open, want_column = busy & open & hit & ~streaming;
        const Mask want_pre = open & ~streaming & ((busy & ~hit) | (~busy & ~task_valid));
        const Mask rd = want_column & is_rd, wr = want_column & is_wr, mac = want_column & ~(is_rd | is_wr | hold);
        wanting = want_act | want_pre | rd | wr | mac;
        now = Now{};
        now.urgent = waited == c.patience;
        now.restless = (rd | wr) != 0;
        now.later = NEVER;
        now.pick = -1;
        const bool may_banks = !of_bus || !bus_asks;
        now.stalled = may_banks ? 0 : rd | wr;
        if (!enable) return;
        if (closing(t)) {
            now.PREab = open && !streaming && t >= rank_at[CMD_PREab];
            now.REFab = (!refreshing || t >= due_at) && !open && t >= rank_at[CMD_REFab];
            return;
        }
        const Mask held = now.urgent && !(bit(focus) & now.stalled) ? ~bit(focus) : 0;
        const bool for_room = limited() && mac & bit(focus);  // what the urgent bank waits for
        const Mask free = for_room ? ~Mask(0) : ~held, free_macs = for_room ? ~held : ~Mask(0);
        Mask eligible = 0;
        int can_fit = 0;
        if (want_act && in_time(CMD_ACT, t)) eligible |= ready_banks(want_act & free, CMD_ACT, t);
        if (want_pre && in_time(CMD_PREpb, t)) eligible |= ready_banks(want_pre, CMD_PREpb, t);
        if (Mask ready = room() ? ready_banks(mac & free_macs, CMD_PIM_MAC, t) : 0) {
            can_fit = fits(t);
            if (!can_fit) ready = 0;
            else if (!c.split_bursts)
                for (Mask m = ready; m; m &= m - 1)
                    if (current[lowest(m)].count > can_fit) ready &= ~(m & -m);
            eligible |= ready;
        }
        if (rd | wr) {
            if (in_time(CMD_RD, t)) now.contend |= rd & free;
            if (in_time(CMD_WR, t)) now.contend |= wr & free;
            if (may_banks && in_time(CMD_RD, t)) eligible |= ready_banks(rd & free, CMD_RD, t);
            if (may_banks && in_time(CMD_WR, t)) eligible |= ready_banks(wr & free, CMD_WR, t);
        }
        if (!eligible) return;
        const Mask first = eligible & above;
        const int b = now.pick = lowest(first ? first : eligible);
        now.pick_bit = bit(b);
        now.others = eligible & ~now.pick_bit;
        if (want_act & now.pick_bit) now.code = CMD_ACT;
        else if (want_pre & now.pick_bit) now.code = CMD_PREpb;
        else now.code = is_rd & now.pick_bit ? CMD_RD : is_wr & now.pick_bit ? CMD_WR : CMD_PIM_MAC;
        now.count = now.code == CMD_PIM_MAC ? std::min(can_fit, current[b].count) : 1;
    }

    // A clock in which the bank machines sleep.
    void rest() {
        now.contend = 0;
        now.REFab = false;
    }

    // When the timers let a bus command issue; `bank`: of a read.
    int64_t bus_ready(bool read, int bank) const {
        const int64_t at = rank_at[bus_code(read)];
        return read ? std::max(at, group_at[CMD_PIM_RD_RB][group_of[bank]]) : at;
    }

    // The second slot, after the first.
    bool bus_goes(int64_t t, bool enable, bool asks, bool read, int bank) const {
        const int code = bus_code(read);
        return asks && enable && t >= bus_ready(read, bank) && !now.REFab && (of_bus || !now.contend) &&
            (!margin[code] || in_time(code, t));
    }

    // The first clock after t in which a bus command of this kind may issue, as far as can be told.
    int64_t bus_from(int64_t t, bool read, int bank) const {
        const int code = bus_code(read);
        if (served && !of_bus) return t + 1;  // its turn comes nearer with every clock
        const int64_t at = std::max(t + 1, bus_ready(read, bank));
        return margin[code] && !in_time(code, at) ? due_at + 1 : at;
    }

    // Whether reads of results, if need be of two bank_groups in turn, can follow one another in every clock, and how
    // many after clock t.
    bool reads_in_a_row(bool in_turn) const {
        return read_gap[0] <= 1 && read_gap[1] <= (in_turn ? 2 : 1) && (of_bus || !served);
    }
    int64_t reads_in_time(int64_t t) const {
        return refreshing && t < due_at ? std::max<int64_t>(0, due_at - margin[CMD_PIM_RD_RB] - t) : 0;
    }

    // Whether nothing was under way in clock t - 1, and no timer ran.
    bool idle(int64_t t, bool enabled) const {
        if (busy | open || (enabled && closing(t))) return false;
        for (int code = 0; code < NUM_CODES; ++code) {
            if (rank_at[code] >= t) return false;
            for (int b = 0; b < c.banks; ++b)
                if (std::max(bank_at[code][b], group_at[code][b]) >= t) return false;
        }
        return true;
    }

    void happens(int64_t t, int code, int bank, int64_t streams) {
        const int places[] = {bank, group_of[bank], 0};  // by level
        for (const Until *u = after[code], *end = u + num_after[code]; u != end; ++u) {
            int64_t at = t + u->clocks + (u->after_stream ? streams : 0);
            if (u->window > 1) {
                int64_t* events = window_events[u->following];
                int& next = window_next[u->following];
                events[next] = t;
                next = next + 1 == u->window ? 0 : next + 1;
                at = events[next] + u->clocks;  // the window-th last one
            }
            int64_t& place = u->from[places[u->level]];
            place = std::max(place, at);
        }
    }
    // The same for a command that is of no bank.
    void happens_to_all(int64_t t, int code) {
        for (const Until *u = after[code], *end = u + num_after[code]; u != end; ++u)
            *u->from = std::max(*u->from, t + u->clocks);
    }

    // Turns of banks and bus at the data bus; whenever one of them asks for it.
    void take_turns(bool asks, bool bus_taken) {
        if (!(now.contend || of_bus || served)) return;
        const bool issues = of_bus ? bus_taken : (now.contend & now.pick_bit) != 0;
        const bool other_waits = of_bus ? now.contend != 0 : asks;
        served |= issues;
        if (!other_waits || !served) return;
        if (turn_left == 0) { of_bus = !of_bus; served = false; turn_left = c.patience - 1; }
        else --turn_left;
    }

    void tick_bus(int64_t t, bool read, int bank) {
        bus_at = t;
        bus_read = read;
        bus_bank = read ? bank : 0;
        ++counts.commands[bus_code(read)];
        if (read) happens(t, CMD_PIM_RD_RB, bank, 0);
        else happens_to_all(t, CMD_PIM_WR_SB);
    }

    // A bank machine that is not busy takes a task.
    void accept(int b, const Task& task) {
        const Mask here = bit(b);
        current[b] = task;
        busy |= here;
        resumed &= ~here;
        is_rd = task.kind == TASK_RD ? is_rd | here : is_rd & ~here;
        is_wr = task.kind == TASK_WR ? is_wr | here : is_wr & ~here;
        hit = task.row == open_row[b] ? hit | here : hit & ~here;
    }

    // Refreshes of the host, counted against the engine's own. While some are owed, the next one comes sooner.
    bool hastens(int64_t t) const { return owed > 0 && refreshing && due_at - t > c.owed_refresh_clocks; }
    void count_refreshes(int64_t t, bool enable) {
        if (hastens(t) && !now.REFab) due_at = t + c.owed_refresh_clocks;
        if (refresh_request && !now.REFab && owed != c.most_owed) ++owed;
        if (now.REFab && !refresh_request && owed != -c.most_owed) --owed;
        if (!enable) owed = 0;
        refresh_request = false;
    }

    // After the tasks that were accepted.
    void tick(int64_t t, Agenda& agenda) {
        // fairness
        const Mask focus_bit = bit(focus);
        if (focus_bit & wanting & ~now.pick_bit) {
            if (waited != c.patience && !(focus_bit & now.stalled)) ++waited;
        } else {
            waited = 0;
            focus = focus + 1 == c.banks ? 0 : focus + 1;
        }
        command.valid = now.pick >= 0 || now.PREab || now.REFab;
        if (!command.valid) return;
        if (now.PREab || now.REFab) {
            command = Issued{};
            command.valid = true;
            command.code = now.PREab ? CMD_PREab : CMD_REFab;
            ++counts.commands[command.code];
            if (now.PREab) { open = 0; counts.closes(t + 1, all); }
            else { refreshing = true; due_at = t + (refresh_2x ? c.refresh_clocks_2x : c.refresh_clocks); }
            happens_to_all(t, command.code);
            return;
        }
        const int b = now.pick;
        const Mask here = now.pick_bit;
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
        ++counts.commands[now.code];
        if (now.code == CMD_ACT) {
            counts.opens(t + 1, here);
            open |= here;
            hit |= here;
            open_row[b] = task.row;
        } else if (now.code == CMD_PREpb) {
            counts.closes(t + 1, here);
            open &= ~here;
        } else {
            if (now.code == CMD_PIM_MAC) {
                counts.accesses += now.count;
                streams = int64_t(now.count - 1) * c.interval;
                if (limited()) {
                    in_flight |= here;
                    flight_end.add(t + streams + c.interval, b);
                    agenda.add(ENGINE, t + streams + c.interval);
                }
                if (streams) {
                    streaming |= here;
                    stream_end.add(t + streams + 1, b);
                    agenda.add(ENGINE, t + streams + 1);
                }
            }
            if (command.last) { busy &= ~here; agenda.soon |= TASKS; }
            task.column += now.count;
            task.count -= now.count;
            resumed |= here;
        }
        happens(t, now.code, b, streams);
    }

    // After clock t: when the bank machines can do something next, if nothing wakes them. `changed`: one got a task.
    int64_t wake_at(int64_t t, bool enable, Mask task_valid, Mask hold, bool changed) {
        if (!(command.valid | changed | now.restless) && enable && !closing(t + 1))
            return now.urgent && waited != c.patience ? t + 1 : std::min(now.later, closes_at());
        const Mask want_act = busy & ~open, want_column = busy & open & hit & ~streaming;
        const Mask want_pre = open & ~streaming & ((busy & ~hit) | (~busy & ~task_valid));
        const Mask reads_writes = want_column & (is_rd | is_wr), mac = want_column & ~(is_rd | is_wr | hold);
        wanting = want_act | want_pre | reads_writes | mac;
        if (!enable) return NEVER;
        if (reads_writes) return t + 1;
        if (closing(t + 1)) {
            if (open) return streaming ? NEVER : std::max(t + 1, rank_at[CMD_PREab]);
            return std::max({t + 1, rank_at[CMD_REFab], refreshing ? due_at : 0});
        }
        if (now.pick >= 0 && !now.others && !now.urgent && !changed) {  // nobody but the bank that got on may be earlier
            const int b = now.pick;
            const Mask here = now.pick_bit;
            const int next = want_act & here ? CMD_ACT : want_pre & here ? CMD_PREpb : mac & here ? CMD_PIM_MAC : 0;
            int64_t own = NEVER;
            if (next) own = std::max({rank_at[next], bank_at[next][b], group_at[next][group_of[b]], t + 1});
            return std::min({own, now.later, closes_at()});
        }
        int64_t at = closes_at();  // or as soon as the timers of the rank let it
        if (want_act) at = std::min(at, std::max(t + 1, rank_at[CMD_ACT]));
        if (mac) at = std::min(at, std::max(t + 1, rank_at[CMD_PIM_MAC]));
        if (want_pre) at = std::min(at, std::max(t + 1, rank_at[CMD_PREpb]));
        return at;
    }
};
