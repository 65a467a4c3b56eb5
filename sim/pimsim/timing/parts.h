// Small parts that the units of the timing model share.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

typedef uint64_t Mask;  // a bit for each bank

inline Mask bit(int index) { return Mask(1) << index; }
inline int lowest(Mask mask) { return __builtin_ctzll(mask); }
inline int clog2(int count) { int bits = 0; while ((1 << bits) < count) ++bits; return bits; }

constexpr int64_t NEVER = int64_t(1) << 62;  // a clock that does not come

// amaranth.lib.fifo.SyncFIFOBuffered: what is written shows at the output two clocks later.
template <class T, int ROOM> struct Fifo {
    T items[ROOM];
    int depth = 2, inner = 0, produce = 0, consume = 0;
    bool valid = false;
    T out{};
    void size(int places) { depth = places; }
    bool ready() const { return inner != depth - 1; }
    int level() const { return inner + valid; }
    bool moving() const { return inner && !valid; }  // something is about to come to the output
    // Whether anything changed: if not, nothing will without a write or a read.
    bool tick(bool write, const T& value, bool read) {
        const bool move = inner != 0 && (!valid || read);
        if (!(write | read | move)) return false;
        if (move) { out = items[consume]; consume = consume + 1 == ROOM ? 0 : consume + 1; }
        if (write) { items[produce] = value; produce = produce + 1 == ROOM ? 0 : produce + 1; }
        inner += int(write) - int(move);
        if (move) valid = true;
        else if (read) valid = false;
        return true;
    }
};

// A bit, `length` clocks later; to be ticked in every clock.
struct Delay {
    uint64_t bits = 0;
    int length = 1;
    void size(int clocks) { length = clocks; }
    bool out() const { return bits >> (length - 1) & 1; }
    bool any() const { return bits != 0; }
    void tick(bool in) { bits = (bits << 1 | uint64_t(in)) & (length == 64 ? ~uint64_t(0) : (uint64_t(1) << length) - 1); }
};

// Values that come out `length` clocks after they went in, each with the clock in which it is at the output.
template <class T> struct DelayLine {
    static constexpr int ROOM = 128;
    struct { int64_t due; T value; } items[ROOM];
    unsigned first = 0, after = 0;
    int length = 1;
    void size(int clocks) { length = clocks; }
    bool any() const { return first != after; }
    int64_t due() const { return any() ? items[first % ROOM].due : NEVER; }
    bool ready(int64_t t) const { return due() == t; }
    const T& out() const { return items[first % ROOM].value; }  // if there is any
    T take() { return items[first++ % ROOM].value; }
    int64_t put(int64_t t, const T& value) {
        auto& item = items[after++ % ROOM];
        item.value = value;
        return item.due = t + length;
    }
};

// What is to happen to banks at a later clock, less than SIZE from now.
struct Wheel {
    static constexpr int SIZE = 1024;
    Mask at[SIZE] = {};
    void add(int64_t clock, int bank) { at[clock & (SIZE - 1)] |= bit(bank); }
    Mask take(int64_t clock) {
        Mask& place = at[clock & (SIZE - 1)], mask = place;
        if (mask) place = 0;
        return mask;
    }
};
