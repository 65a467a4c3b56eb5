// From clock to clock, past those in which nothing can happen; part of rank_timing.h.
#pragma once
#include "rank_timing.h"

// All reads of a result but the last one, in a row, as far as nobody else wakes: only counters change.
void RankTiming::read_on(int64_t limit) {
    if (agenda.soon & ~OUTPUTS || finished_out || arbiter.writing || !reader.busy || !engine.reads_in_a_row()) return;
    agenda.set(BUS, NEVER);
    const Units soon = agenda.soon;
    agenda.soon = 0;
    const int64_t possible = std::min<int64_t>(reads_before_end(), engine.reads_in_time(clock));
    const int64_t reads = std::min(agenda.next(clock, limit) - (clock + 1), possible);
    agenda.soon = soon;
    agenda.set(BUS, clock + 1 + std::max<int64_t>(0, reads));
    if (reads <= 0) return;
    reader.skip(int(reads));
    if (reader.is_sum) reducer.count += int(reads);
    else k_stage.expected[reader.slot_of(shadows)] -= int32_t(reads);
    arbiter.run = int(std::min<int64_t>(c.line_queue, arbiter.run + reads));
    engine.counts.commands[engine.bus_code(true)] += reads;
    for (const int64_t last = clock + reads; clock < last;) {
        clock = tracing ? clock + 1 : last;
        if (tracing) record();
        engine.bus_at = clock;
        engine.bus_read = true;
    }
    engine.happens_to_all(clock, engine.bus_code(true));
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
