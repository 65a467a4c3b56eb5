// Drives a PIM rank: the model of the buffer chip, those of the DRAM chips, and sparse cell arrays behind them; or, with
// WHOLE_RANK, one model of all chips, whose class is BUFFER_TOP.
// What joins the ports is generated (see rank_simulator.py): NUM_CHIPS, NUM_BANKS, LINE_BYTES, ACCESS_BYTES,
// ROW_BYTES, WRITE_CLOCKS, the structs Wires and glue functions. Each change of `clk` is a clock, and all outputs hang
// on registers alone: what a model shows after one evaluation is what it drives in the next clock.
#include <atomic>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <thread>
#include <unordered_map>
#include <vector>

namespace {

// A command of the host's memory controller: issued `wait` clocks after the one before it, in CK `phase` of the clock.
// One with a wait of 0 and a later phase than the one before it issues in the same clock, if it is there by then.
struct HostOp {
    int32_t wait, code, bank, row, column, phase;
    uint8_t data[LINE_BYTES], mask[(LINE_BYTES + 7) / 8];
};

struct TracedCommand { int64_t clock; int32_t code, bank_group, bank, row, column, count, mode, last, phase; };
struct ReadLine { int64_t clock; uint8_t data[LINE_BYTES]; };

// The cells of one chip: rows are allocated when first touched, and filled with ones (NaN) so that nothing relies on
// what was never written.
struct Cells {
    std::unordered_map<uint64_t, std::unique_ptr<uint8_t[]>> rows;
    uint64_t last_key[NUM_BANKS];
    uint8_t* last_row[NUM_BANKS] = {};
    uint8_t* row(int bank, uint32_t number) {
        const uint64_t key = uint64_t(number) * NUM_BANKS + bank;
        if (last_row[bank] && last_key[bank] == key) return last_row[bank];
        auto& place = rows[key];
        if (!place) { place.reset(new uint8_t[ROW_BYTES]); std::memset(place.get(), 0xFF, ROW_BYTES); }
        last_key[bank] = key;
        return last_row[bank] = place.get();
    }
};

// A command, or a bus access, on the inputs of one chip alone: a fault that its status must show.
struct Upset { int64_t clock; int32_t chip, bus; uint32_t words[UPSET_WORDS]; };

struct CellArrays {
    Cells cells;
    CellPort ports[NUM_BANKS];
    void clock(CELLS_TOP* top, int number) {
        set_cells(top, number, ports);  // what was asked for in the clock before
        get_cells(top, number, ports);
        for (int b = 0; b < NUM_BANKS; ++b) {
            CellPort& port = ports[b];
            if (!port.en) continue;
            uint8_t* bytes = cells.row(b, port.row) + size_t(port.column) * ACCESS_BYTES;
            if (port.write) {
                for (int k = 0; k < ACCESS_BYTES; ++k)
                    if (!(port.mask >> k & 1)) bytes[k] = port.data[k];
            } else {
                std::memcpy(port.read_data, bytes, ACCESS_BYTES);
            }
        }
    }
};

#ifdef WHOLE_RANK
using Chip = CellArrays;
#else
struct Chip : CellArrays {
    VerilatedContext context;
    CHIP_TOP* top;
    Chip() { context.randReset(2); context.randSeed(1); top = new CHIP_TOP{&context}; top->clk = 0; top->eval(); }
    ~Chip() { top->final(); delete top; }
    void clock(const Wires& wires, const Upset& upset, int number) {
        set_chip(top, wires, number);
        if (upset.chip == number) set_upset(top, upset);
        CellArrays::clock(top, number);
        top->clk ^= 1;
        top->eval();
    }
};
#endif

// The buffer chip takes about as long as two DRAM chips.
constexpr int NUM_OWN = NUM_CHIPS > 2 ? (NUM_CHIPS - 2) / 2 : 0;  // chips beside it in the first of two threads

#ifdef CONTROLLER_TOP
#include "controller_harness.h"
#endif

struct Rank {
    VerilatedContext context;
    BUFFER_TOP* buffer;
    Chip chips[NUM_CHIPS];
    int64_t clock = 0, idle_until = 0;
    Wires wires{};
    std::deque<HostOp> ops;
    int32_t waited = 0;
    std::deque<std::pair<int64_t, HostOp>> data;  // lines to put on the bus, by clock
    std::vector<TracedCommand> trace;
    std::vector<ReadLine> lines;
    std::vector<int64_t> finished, issued;
    bool tracing = true;
#ifdef CONTROLLER_TOP
    Controller controller;
#endif
    std::deque<Upset> upsets;
    Upset upset{};  // of this clock
    std::thread helper;
    std::atomic<int64_t> go{0}, ready{0};
    std::atomic<bool> stop{false};

    Rank(int threads) {
        context.randReset(2); context.randSeed(1);
        buffer = new BUFFER_TOP{&context};
        buffer->clk = 0;
        buffer->eval();
#ifndef WHOLE_RANK
        if (threads > 1) helper = std::thread([this] { serve(); });
#endif
    }
    ~Rank() {
        stop = true;
        if (helper.joinable()) helper.join();
        buffer->final(); delete buffer;
    }
    int64_t turns = 0;
#ifdef WHOLE_RANK
    void run_all() {
        set_upset(buffer, upset);
        for (int c = 0; c < NUM_CHIPS; ++c) chips[c].clock(buffer, c);
        buffer->clk ^= 1;
        buffer->eval();
    }
#else
    void serve() {  // the other chips, in the second thread
        for (int64_t turn = 1;; ++turn) {
            int spins = 0;
            while (go.load(std::memory_order_acquire) < turn) {
                if (stop) return;
                if (++spins > 2000) std::this_thread::yield();
            }
            for (int c = NUM_OWN; c < NUM_CHIPS; ++c) chips[c].clock(wires, upset, c);
            ready.store(turn, std::memory_order_release);
        }
    }
    void run_all() {
        const bool two = helper.joinable();
        if (two) go.store(++turns, std::memory_order_release);
        buffer->clk ^= 1;
        buffer->eval();
        for (int c = 0; c < (two ? NUM_OWN : NUM_CHIPS); ++c) chips[c].clock(wires, upset, c);
        for (int spins = 0; two && ready.load(std::memory_order_acquire) < turns;)
            if (++spins > 2000) std::this_thread::yield();
    }
#endif
    void step(bool reset) {
        buffer->rst = wires.rst = reset;
        HostOp none{};
        SlotOp slots[NUM_SLOTS] = {};
        int32_t free = 0;  // the first slot that may still be used
        if (!reset && !ops.empty() && ++waited >= ops.front().wait) {
            waited = 0;
            do {
                const HostOp op = ops.front();
                ops.pop_front();
                slots[op.phase] = SlotOp{true, op.code, op.bank, op.row, op.column};
                free = op.phase + 1;
                issued.push_back(clock);
                if (op.code == WRITE_CODE || op.code == WRITE_AND_CLOSE_CODE) data.emplace_back(clock + WRITE_CLOCKS, op);
            } while (!ops.empty() && ops.front().wait == 0 && ops.front().phase >= free);
        }
        const HostOp* line = &none;
        HostOp driven;
        if (!data.empty() && data.front().first == clock) { driven = data.front().second; line = &driven; }
        while (!data.empty() && data.front().first <= clock) data.pop_front();
#ifdef CONTROLLER_TOP
        {
            uint8_t out[LINE_BYTES];
            get_line(buffer, out);
            controller.clock(reset, buffer->host_out_valid, out, slots, driven);
            line = &driven;
        }
#endif
        upset = Upset{clock, -1, 0, {}};
        if (!reset && !upsets.empty() && upsets.front().clock == clock) { upset = upsets.front(); upsets.pop_front(); }
#ifndef WHOLE_RANK
        for (int c = 0; c < NUM_CHIPS; ++c) get_chip(chips[c].top, wires, c);
#endif
        set_buffer(buffer, wires, slots, *line);
        get_buffer(buffer, wires);
        if (!reset) {
            if (wires.command_valid && tracing) {
                TracedCommand t{}; t.clock = clock; get_trace(wires, t); trace.push_back(t);
            }
            for (int k = 0; k < NUM_SLOTS - 1; ++k)
                if (wires.late_valid[k] && tracing) {
                    TracedCommand t{}; t.clock = clock; t.phase = k + 1; get_late_trace(wires, k, t); trace.push_back(t);
                }
            if (wires.bus_valid && tracing) {
                TracedCommand t{}; t.clock = clock; t.code = wires.bus_read ? READ_RESULT_CODE : WRITE_BUFFER_CODE;
                const int32_t bank = wires.bus_read ? wires.bus_bank : 0;
                t.bank_group = bank / BANKS_PER_GROUP; t.bank = bank % BANKS_PER_GROUP; t.phase = BUS_PHASE;
                trace.push_back(t);
            }
#ifdef CONTROLLER_TOP
            for (; !controller.lines.empty(); controller.lines.pop_front()) {
                ReadLine r; r.clock = clock;
                std::memcpy(r.data, controller.lines.front().data(), LINE_BYTES);
                lines.push_back(r);
            }
#else
            if (wires.out_valid) { ReadLine r; r.clock = clock; get_line(buffer, r.data); lines.push_back(r); }
#endif
            if (wires.finished) finished.push_back(clock);
        }
        run_all();
        if (!reset) ++clock;
    }
};

template <class T> int64_t take(std::vector<T>& from, T* into, int64_t room) {
    const int64_t n = std::min<int64_t>(room, from.size());
    if (into) { std::memcpy(into, from.data(), n * sizeof(T)); from.erase(from.begin(), from.begin() + n); return n; }
    return from.size();
}

}  // namespace

extern "C" {

Rank* rank_new(int threads) {
    Rank* rank = new Rank(threads);
    for (int k = 0; k < 4; ++k) rank->step(true);
    return rank;
}
void rank_delete(Rank* rank) { delete rank; }
int64_t rank_clock(Rank* rank) { return rank->clock; }
void rank_tracing(Rank* rank, int on) { rank->tracing = on; }
void rank_host(Rank* rank, const HostOp* ops, int64_t count) { rank->ops.insert(rank->ops.end(), ops, ops + count); }
// One upset a clock, by rising clock.
void rank_upset(Rank* rank, int64_t clock, int chip, int bus, const uint32_t* words) {
    Upset upset{clock, chip, bus, {}};
    std::memcpy(upset.words, words, sizeof upset.words);
    rank->upsets.push_back(upset);
}
int64_t rank_host_left(Rank* rank) { return rank->ops.size(); }

// Runs until `clocks` have passed, or, as asked, until no host op waits, or so many descriptors have finished in all.
int64_t rank_run(Rank* rank, int64_t clocks, int64_t until_finished, int until_host_idle) {
    int64_t done = 0;
    for (; done < clocks; ++done) {
        if (until_finished >= 0 && int64_t(rank->finished.size()) >= until_finished) break;
#ifdef CONTROLLER_TOP
        if (until_host_idle && rank->controller.idle()) break;
#else
        if (until_host_idle && rank->ops.empty() && rank->data.empty()) break;
#endif
        rank->step(false);
    }
    return done;
}

int64_t rank_trace(Rank* rank, TracedCommand* into, int64_t room) { return take(rank->trace, into, room); }
int64_t rank_lines(Rank* rank, ReadLine* into, int64_t room) { return take(rank->lines, into, room); }
int64_t rank_issued(Rank* rank, int64_t* into, int64_t room) { return take(rank->issued, into, room); }
int64_t rank_finished(Rank* rank, int64_t* into, int64_t room) {
    const int64_t n = std::min<int64_t>(room, rank->finished.size());
    if (into) std::memcpy(into, rank->finished.data(), n * sizeof(int64_t));
    return into ? n : rank->finished.size();
}

// Direct access to the cells: what a column access holds, of each chip in `chips` (bit mask), chip by chip.
void rank_poke(Rank* rank, const int32_t* bank, const int32_t* row, const int32_t* access, const int32_t* chips,
               const uint8_t* data, int64_t count) {
    for (int64_t n = 0; n < count; ++n)
        for (int c = 0; c < NUM_CHIPS; ++c)
            if (chips[n] >> c & 1)
                std::memcpy(rank->chips[c].cells.row(bank[n], row[n]) + size_t(access[n]) * ACCESS_BYTES,
                            data + (n * NUM_CHIPS + c) * ACCESS_BYTES, ACCESS_BYTES);
}
void rank_peek(Rank* rank, const int32_t* bank, const int32_t* row, const int32_t* access, uint8_t* data, int64_t count) {
    for (int64_t n = 0; n < count; ++n)
        for (int c = 0; c < NUM_CHIPS; ++c)
            std::memcpy(data + (n * NUM_CHIPS + c) * ACCESS_BYTES,
                        rank->chips[c].cells.row(bank[n], row[n]) + size_t(access[n]) * ACCESS_BYTES, ACCESS_BYTES);
}


#ifdef CONTROLLER_TOP
void rank_user(Rank* rank, const UserOp* ops, int64_t count) {
    rank->controller.ops.insert(rank->controller.ops.end(), ops, ops + count);
}
#endif

}
