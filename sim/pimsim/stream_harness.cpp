// Drives one unit with an input stream `i` and an output stream `o` for many clocks a call.
// Compiled per unit with UNIT_TOP, UNIT_HEADER, IN_WORDS and OUT_WORDS defined.
#include <cstdint>
#include <cstring>
#include "verilated.h"
#include "verilated_ports.h"
#include UNIT_HEADER

namespace {

// xorshift64*: the pattern of idle inputs and refused outputs depends on the seed alone.
struct Random {
    uint64_t state;
    bool below(uint32_t threshold_256) {
        state ^= state >> 12; state ^= state << 25; state ^= state >> 27;
        return ((state * 0x2545F4914F6CDD1DULL) >> 56) < threshold_256;
    }
};

struct Unit {
    VerilatedContext context;
    UNIT_TOP* top;
    uint64_t cycle = 0;
    Unit() { context.randReset(2); context.randSeed(1); top = new UNIT_TOP{&context}; }
    ~Unit() { top->final(); delete top; }
    void edge() { top->clk = 1; top->eval(); top->clk = 0; ++cycle; }
    void reset() {
        top->rst = 1; top->i___05Fvalid = 0; top->o___05Fready = 0; top->clk = 0; top->eval();
        for (int k = 0; k < 4; ++k) edge();
        top->rst = 0; top->eval();
    }
};

}  // namespace

extern "C" {

void* unit_new() { Unit* unit = new Unit; unit->reset(); return unit; }
void unit_delete(void* handle) { delete static_cast<Unit*>(handle); }

// Feeds num_in operand sets and collects up to num_out results. Returns 0, or 1 if max_idle cycles passed in which
// nothing was accepted or delivered, 2 if o.valid fell or o.payload changed while a result waited,
// 3 if more results than num_out came.
// accepted_at / delivered_at take the cycle of each transfer; *collected the number of results.
int unit_run(void* handle, const uint32_t* in, int64_t num_in, uint32_t* out, int64_t num_out,
             uint32_t idle_256, uint32_t refuse_256, uint64_t seed, int64_t max_idle,
             int64_t* accepted_at, int64_t* delivered_at, int64_t* collected) {
    Unit& unit = *static_cast<Unit*>(handle);
    UNIT_TOP* top = unit.top;
    Random random{seed * 0x9E3779B97F4A7C15ULL + 1};
    int64_t sent = 0, got = 0, quiet = 0;
    bool offering = false, waiting = false;
    uint32_t held[OUT_WORDS], now[OUT_WORDS];
    int64_t linger = 64;  // clocks after the last result, in which no further one may come
    while (got < num_out || sent < num_in || linger-- > 0) {
        if (!offering && sent < num_in && !random.below(idle_256)) {
            put(top->i___05Fpayload, in + sent * IN_WORDS, IN_WORDS);
            offering = true;
        }
        top->i___05Fvalid = offering;
        top->o___05Fready = !random.below(refuse_256);
        top->eval();
        const bool accept = top->i___05Fvalid && top->i___05Fready;
        const bool valid = top->o___05Fvalid, deliver = valid && top->o___05Fready;
        if (valid) get(top->o___05Fpayload, now, OUT_WORDS);
        if (waiting && (!valid || std::memcmp(held, now, sizeof now))) { *collected = got; return 2; }
        waiting = valid && !deliver;
        std::memcpy(held, now, sizeof now);
        if (deliver) {
            if (got == num_out) { *collected = got; return 3; }
            std::memcpy(out + got * OUT_WORDS, now, sizeof now);
            delivered_at[got++] = unit.cycle;
        }
        if (accept) { accepted_at[sent++] = unit.cycle; offering = false; }
        quiet = accept || deliver ? 0 : quiet + 1;
        if (quiet > max_idle) { *collected = got; return 1; }
        unit.edge();
    }
    *collected = got;
    return 0;
}

}
