// From clock to clock, past those in which nothing can happen; part of rank_timing.h.
#pragma once
#include "rank_timing.h"

// Reads of results in a row, as far as none ends and nobody else wakes: only counters change.
void RankTiming::read_on(int64_t limit) {
    if (agenda.soon & ~OUTPUTS || finished_out || arbiter.writing || !reader.busy()) return;
    if (!engine.reads_in_a_row(reader.ways[0].busy && reader.ways[1].busy)) return;
    agenda.set(BUS, NEVER);
    const Units soon = agenda.soon;
    agenda.soon = 0;
    const int64_t possible = std::min<int64_t>(reads_before_end(), engine.reads_in_time(clock));
    const int64_t reads = std::min(agenda.next(clock, limit) - (clock + 1), possible);
    agenda.soon = soon;
    agenda.set(BUS, clock + 1 + std::max<int64_t>(0, reads));
    if (reads <= 0) return;
    arbiter.run = int(std::min<int64_t>(c.line_queue, arbiter.run + reads));
    engine.counts.commands[engine.bus_code(true)] += reads;
    for (const int64_t last = clock + reads; clock < last;) {
        ++clock;
        if (tracing) record();
        const ResultReader::Way& way = reader.offer();
        engine.bus_at = clock;
        engine.bus_read = true;
        engine.bus_bank = way.bank;
        if (clock + 2 > last) engine.happens(clock, CMD_PIM_RD_RB, way.bank, 0);
        if (way.is_sum) ++reducer.count;
        else --k_stage.expected[reader.slot_of(shadows, way)];
        reader.skip(1);
    }
    if (tracing) agenda.soon |= OUTPUTS;
}

// A clock, and then on to the next one in which a unit is awake, at most `limit`; not if something happened that the
// caller may wait for.
void RankTiming::step(int64_t limit, bool until_host_idle) {
    constexpr Units OF_BANKS = ENGINE | TASKS | BANKS | OUTPUTS, OF_BUS = BUS | BANKS | OUTPUTS;
    constexpr Units USUAL = ENGINE | BUS | LINES | SOFTMAX | TASKS | BANKS | OUTPUTS;
    const Units due = agenda.take(clock), awake = watchful ? Units(EVERYTHING) : due;
    const bool reported = finished_out;
    if (tracing || awake & (OUTPUTS | HOST)) record();
    if (!(awake & ~OF_BUS)) pass<OF_BUS>(awake);
    else if (!(awake & ~OF_BANKS)) pass<OF_BANKS>(awake);
    else if (!(awake & ~USUAL)) pass<USUAL>(awake);
    else pass<EVERYTHING>(awake);
    if (reported || (until_host_idle && ops.empty() && data.empty())) { ++clock; return; }
    if (watchful) { ++clock; return; }
    if (agenda.timers[__builtin_ctz(BUS)] == clock + 1) read_on(limit);
    clock = agenda.next(clock, limit);
}
