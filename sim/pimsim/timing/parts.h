// Small parts that the units of the timing model share.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

typedef uint64_t Mask;  // a bit for each bank

inline Mask bit(int index) { return Mask(1) << index; }
inline int lowest(Mask mask) { return __builtin_ctzll(mask); }
inline int clog2(int count) { int bits = 0; while ((1 << bits) < count) ++bits; return bits; }

// amaranth.lib.fifo.SyncFIFOBuffered: what is written shows at the output two clocks later.
template <class T, int ROOM> struct Fifo {
    T items[ROOM];
    int depth = 2, inner = 0, produce = 0, consume = 0;
    bool valid = false, moved = false;
    T out{};
    void size(int places) { depth = places; }
    bool ready() const { return inner != depth - 1; }
    int level() const { return inner + valid; }
    bool moving() const { return moved || (inner && !valid); }  // something came to the output, or is about to
    void tick(bool write, const T& value, bool read) {
        moved = false;
        if (!write && !read && (valid || inner == 0)) return;
        const bool move = inner != 0 && (!valid || read);
        T next{};
        if (move) { next = items[consume]; consume = consume + 1 == ROOM ? 0 : consume + 1; }
        if (write) { items[produce] = value; produce = produce + 1 == ROOM ? 0 : produce + 1; }
        inner += int(write) - int(move);
        if (move) { valid = moved = true; out = next; } else if (read) { valid = false; }
    }
};

// A bit, `length` clocks later.
struct Delay {
    uint64_t bits = 0;
    int length = 1;
    void size(int clocks) { length = clocks; }
    bool out() const { return bits >> (length - 1) & 1; }
    bool any() const { return bits != 0; }
    int clocks_left() const { return length - 64 + __builtin_clzll(bits); }  // to the first that comes out; if any
    void skip(int clocks) { bits = clocks < 64 ? bits << clocks : 0; }        // none comes out in them
    void tick(bool in) {
        if (!bits && !in) return;
        bits = (bits << 1 | uint64_t(in)) & (length == 64 ? ~uint64_t(0) : (uint64_t(1) << length) - 1);
    }
};

// A value, `length` clocks later; its first bit apart says whether there is one.
template <class T, int ROOM> struct DelayLine {
    T items[ROOM];
    Delay valid;
    int at = 0, length = 1;
    void size(int clocks) { length = clocks; valid.size(clocks); }
    bool ready() const { return valid.out(); }
    const T& out() const { return items[at]; }  // the oldest, about to be overwritten
    void tick(bool in, const T& value) {
        if (!in && !valid.any()) return;
        if (in) items[at] = value;
        at = at + 1 == length ? 0 : at + 1;
        valid.tick(in);
    }
    void skip(int clocks) {
        if (!valid.any()) return;
        at = (at + clocks) % length;
        valid.skip(clocks);
    }
};

// What is to happen to banks at a later clock, less than SIZE from now.
struct Wheel {
    static constexpr int SIZE = 1024, WORDS = SIZE / 64;
    Mask at[SIZE] = {};
    uint64_t marked[WORDS] = {};
    void add(int64_t clock, int bank) {
        const int place = int(clock & (SIZE - 1));
        at[place] |= bit(bank);
        marked[place >> 6] |= uint64_t(1) << (place & 63);
    }
    Mask take(int64_t clock) {
        const int place = int(clock & (SIZE - 1));
        const Mask mask = at[place];
        if (!mask) return 0;
        at[place] = 0;
        marked[place >> 6] &= ~(uint64_t(1) << (place & 63));
        return mask;
    }
    // The first clock from `clock` on in which something happens, at most `limit`.
    int64_t next(int64_t clock, int64_t limit) const {
        for (int64_t from = clock; from < limit;) {
            const int place = int(from & (SIZE - 1));
            const uint64_t word = marked[place >> 6] >> (place & 63);
            if (word) return std::min(limit, from + __builtin_ctzll(word));
            from += 64 - (place & 63);
            if (from - clock >= SIZE) break;
        }
        return limit;
    }
};
