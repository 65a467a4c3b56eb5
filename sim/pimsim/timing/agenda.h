// Which units of a rank have something to do in which clock; all others are left alone.
#pragma once
#include <algorithm>

#include "parts.h"

typedef uint32_t Units;

// A unit is woken in a clock in which it may do something: by a timer of its own, by an event that is under way, or by
// a unit that changed what it looks at. To wake one for nothing costs time, and changes nothing.
enum Unit : Units {
    // those with a timer
    HOST = 1,      // host port, and the host's commands
    ENGINE = 2,    // bank machines of the command engine
    BUS = 4,       // second command slot, arbiter, result reader
    LINES = 8,     // what fills the line queue: probabilities, queries
    SOFTMAX = 16,
    // those that only others wake
    ACCESSES = 32,
    FRONT = 64,    // descriptors and programs to micro-ops
    TASKS = 128,   // tasks to the bank machines
    STAGES = 256,  // K stage, V stage, row steps
    SEGMENT_MERGER = 512,
    // events
    BANKS = 1024,    // a score or the end of a row in a bank
    RESULTS = 2048,  // a result that ends something came from the data bus, or from the reducer
    LANDED = 4096,   // so did a line in the chips
    OUTPUTS = 8192,  // something shows at the outputs
    EVERYTHING = 16383
};

struct Agenda {
    static constexpr int SIZE = 1024, TIMERS = 5;
    int64_t timers[TIMERS] = {NEVER, NEVER, NEVER, NEVER, NEVER};  // of HOST, ENGINE, BUS, LINES, SOFTMAX
    int64_t earliest = NEVER;  // no timer runs out before
    Units soon = EVERYTHING;  // in the next clock
    Units at[SIZE] = {};      // events, less than SIZE clocks from now
    uint64_t marked[SIZE / 64] = {};

    void set(Unit unit, int64_t clock) {
        timers[__builtin_ctz(unit)] = clock;
        earliest = std::min(earliest, clock);
    }
    void add(Unit unit, int64_t clock) {
        const int place = int(clock & (SIZE - 1));
        at[place] |= unit;
        marked[place >> 6] |= uint64_t(1) << (place & 63);
    }
    // Who is awake in clock t. A timer that ran out is to be set again.
    Units take(int64_t t) {
        const int place = int(t & (SIZE - 1));
        Units units = soon;
        soon = 0;
        if (at[place]) {
            units |= at[place];
            at[place] = 0;
            marked[place >> 6] &= ~(uint64_t(1) << (place & 63));
        }
        if (earliest > t) return units;
        for (int n = 0; n < TIMERS; ++n)
            if (timers[n] <= t) { units |= Units(1) << n; timers[n] = NEVER; }
        return units;
    }
    // The first clock after t in which anyone is awake, at most `limit`.
    int64_t next(int64_t t, int64_t limit) {
        if (soon) return t + 1;
        earliest = timers[0];
        for (int64_t timer : timers) earliest = std::min(earliest, timer);
        limit = std::min(limit, earliest);
        for (int64_t from = t + 1; from < limit && from - t <= SIZE;) {
            const int place = int(from & (SIZE - 1));
            const uint64_t word = marked[place >> 6] >> (place & 63);
            if (word) return std::min(limit, from + __builtin_ctzll(word));
            from += 64 - (place & 63);
        }
        return std::max(limit, t + 1);
    }
};
