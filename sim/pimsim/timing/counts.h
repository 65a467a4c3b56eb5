// What has gone to the chips, in numbers.
#pragma once
#include <cstdint>

#include "contract.h"
#include "parts.h"

struct Counts {
    int64_t commands[NUM_CODES] = {};  // by code
    int64_t accesses = 0;          // of PIM_MAC
    int64_t open_clocks = 0;       // in which a bank had an open row: of those times that are over
    int64_t open_since = 0;
    Mask open = 0;

    // A row is opened, or rows are closed, by a command of that clock.
    void opens(int64_t clock, Mask banks) {
        if (!open) open_since = clock;
        open |= banks;
    }
    void closes(int64_t clock, Mask banks) {
        if (open && !(open & ~banks)) open_clocks += clock - open_since;
        open &= ~banks;
    }
    // Numbers for the interface, before that clock.
    void put(int64_t clock, int64_t* into) const {
        for (int64_t n : commands) *into++ = n;
        *into++ = accesses;
        *into = open_clocks + (open ? clock - open_since : 0);
    }
};
