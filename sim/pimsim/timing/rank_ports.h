// What a rank takes from the host's buses and shows at its outputs; part of rank_timing.h.
#pragma once
#include "rank_timing.h"

// A command of the host, so many clocks after the one before it or, if that has issued, after the last clock. One with
// a wait of 0 and a later phase issues with the one before it, if it is there by then.
void RankTiming::give(const HostOp& op) {
    if (ops.empty()) op_due = clock - 1 + std::max(1, op.wait);
    ops.push_back(op);
    wake_host();
}

void RankTiming::wake_host() {
    agenda.set(HOST, std::min(ops.empty() ? NEVER : op_due, data.empty() ? NEVER : data.front().first));
}

// What the host has on its buses: commands, and whether data.
void RankTiming::host_signals(HostSlots& slots, HostOp& line, bool& has_line) {
    if (!ops.empty() && op_due <= clock) {
        int32_t free = 0;  // the first slot that may still be used
        do {
            const HostOp& op = slots.ops[slots.count++] = ops.front();
            ops.pop_front();
            free = op.phase + 1;
            issued.push_back(clock);
            if (is_write(op.code)) data.emplace_back(clock + c.write_clocks, op);
        } while (!ops.empty() && ops.front().wait == 0 && ops.front().phase >= free);
        if (!ops.empty()) op_due = clock + std::max(1, ops.front().wait);
    }
    has_line = !data.empty() && data.front().first == clock;
    if (has_line) line = data.front().second;
    while (!data.empty() && data.front().first <= clock) data.pop_front();
    wake_host();
}

// What is at the outputs.
void RankTiming::record() {
    const int32_t per_group = c.banks_per_group;
    if (engine.command.valid && engine.decided == clock - 1 && tracing) {
        const Issued& i = engine.command;
        const int32_t group = engine.group_of[i.bank];
        trace.push_back(TraceRecord{clock, i.code, group, i.bank - group * per_group, i.row, i.column, i.count,
                                    i.mac.mode, i.last, 0});
    }
    if (engine.bus_at == clock - 1 && tracing) {
        const int32_t code = engine.bus_code(engine.bus_read);
        const int32_t group = engine.group_of[engine.bus_bank], bank = engine.bus_bank - group * per_group;
        trace.push_back(TraceRecord{clock, code, group, bank, 0, 0, 0, 0, 0, c.bus_phase});
    }
    for (int k = 0; k < host.commands.num_direct; ++k) {
        const HostCommands::Command& h = host.commands.direct[k];
        const Mask here = is_banked(h.code) ? bit(h.bank) : 0;
        ++engine.counts.commands[h.code];
        if (h.code == CMD_ACT) engine.counts.opens(clock, here);
        if (h.code == CMD_PREpb || h.code == CMD_RDA || h.code == CMD_WRA) engine.counts.closes(clock, here);
        if (h.code == CMD_PREab) engine.counts.closes(clock, engine.all);
        if (tracing)
            trace.push_back(TraceRecord{clock, h.code, h.bank / per_group, h.bank % per_group, h.row, h.column, 1, 0, 0, h.phase});
    }
    if (host.out_valid) lines.push_back(answer);
    if (finished_out) {
        finished.push_back(clock);
        counts_then.push_back(engine.counts);
    }
}

// Commands of the clocks before this one, or up to the one in which a descriptor finished.
void RankTiming::count(int64_t finish, int64_t* into) const {
    if (finish >= 0) return counts_then[finish].put(finished[finish], into);
    Counts counts = engine.counts;
    const Issued& i = engine.command;
    if (i.valid && engine.decided == clock - 1) {
        --counts.commands[i.code];
        if (i.code == CMD_PIM_MAC) counts.accesses -= i.count;
    }
    if (engine.bus_at == clock - 1) --counts.commands[engine.bus_code(engine.bus_read)];
    counts.put(clock, into);
}

// Status, and zeros for what only the numbers could tell.
void RankTiming::read_line(ReadRecord& record) const {
    const HostPort::Read& r = host.reads.out();
    int32_t place;
    if (r.closed || !r.window) return;
    if (c.num_slots && HostPort::inside(r.line, c.slots, place)) {
        const Dispatcher::Slot& s = dpa.slots[place];
        set_field(record.data, c.slot_state, s.faulted ? SLOT_FAULTED : s.has_request && s.has_scale ? SLOT_READY : SLOT_EMPTY);
        set_field(record.data, c.slot_pending, s.pending);
        set_field(record.data, c.slot_tokens, s.tokens);
        set_field(record.data, c.slot_programs_done, s.done & 0xFFFF);
        set_field(record.data, c.slot_fault, s.faulted ? s.fault : 0);
        set_field(record.data, c.slot_fault_pc, s.faulted ? s.fault_pc : 0);
        set_field(record.data, c.slot_fault_row, s.faulted ? s.fault_row : 0);
    } else if (c.num_slots && HostPort::inside(r.line, c.control, place) && place == 2) {
        const Dispatcher::Totals& n = dpa.shown(clock);
        set_field(record.data, c.dpa_queued, dpa.configs.level());
        set_field(record.data, c.dpa_running, dpa.running());
        set_field(record.data, c.dpa_refused, n.refused & 0xFFFF);
        set_field(record.data, c.dpa_refusal, n.refusal);
        set_field(record.data, c.dpa_programs, n.programs & 0xFFFF);
        set_field(record.data, c.dpa_faults, n.faults & 0xFFFF);
    } else if (HostPort::inside(r.line, c.control, place) && place == 0) {
        set_field(record.data, c.owner, host.owner);
        set_field(record.data, c.busy, work.busy);
        set_field(record.data, c.done, work.done & 0xFFFF);
        set_field(record.data, c.queued, accesses.level + appends.level);
        set_field(record.data, c.refused, host.refused);
        set_field(record.data, c.refusal, host.refusal);
        set_field(record.data, c.refresh_2x, host.refresh_2x);
    } else if (HostPort::inside(r.line, c.control, place) && place == 3) {
        for (int k = 0; k < 7; ++k) set_field(record.data, c.modes[k], host.commands.modes[k]);
    }
}

void RankTiming::tick_host(const HostSlots& slots, bool working, bool engine_idle) {
    const bool enable = host.enable;
    host.tick(clock, slots, working, engine_idle);
    host.now = HostPort::Now{};
    host.commands.now = HostCommands::Now{};
    if (!host.still()) agenda.soon |= HOST;
    if (host.enable != enable) agenda.soon = EVERYTHING;
}
