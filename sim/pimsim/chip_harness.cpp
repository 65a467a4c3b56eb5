// Drives one PIM chip for many clocks a call and stands in for its cell arrays.
// Compiled per chip with CELLS(X), NUM_BANKS, COLUMN_ACCESSES, ACCESS_WORDS, COMMAND_WORDS, BUS_WORDS,
// LATE_WORDS, NUM_LATE and LATE(X) defined.
// All outputs of the chip hang on registers alone, so one evaluation a clock edge is enough.
#include <cstdint>
#include <cstring>
#include <unordered_map>
#include <vector>
#include "verilated.h"
#include "verilated_ports.h"
#include "Vpim_chip.h"

namespace {

using Line = uint32_t[ACCESS_WORDS];

// The cells of a bank: a row exists from its first access on, as zeros.
struct Bank {
    std::unordered_map<uint32_t, std::vector<uint32_t>> rows;
    uint32_t last = ~0u;
    uint32_t* page = nullptr;
    Line reading;
    uint32_t* at(uint32_t row, uint32_t column) {
        if (row != last) {
            auto& found = rows[row];
            found.resize(COLUMN_ACCESSES * ACCESS_WORDS);
            page = found.data();
            last = row;
        }
        return page + column * ACCESS_WORDS;
    }
};

void write_masked(uint32_t* cells, const Line& data, uint32_t mask) {
    for (int byte = 0; byte < 4 * ACCESS_WORDS; ++byte)
        if (!(mask >> byte & 1)) {
            const uint32_t bits = 0xFFu << (8 * (byte & 3));
            cells[byte / 4] = (cells[byte / 4] & ~bits) | (data[byte / 4] & bits);
        }
}

struct Chip {
    VerilatedContext context;
    Vpim_chip* top;
    Bank banks[NUM_BANKS];
    Chip() {
        context.randReset(2);
        context.randSeed(1);
        top = new Vpim_chip{&context};
        for (Bank& bank : banks) std::memset(bank.reading, 0xA5, sizeof bank.reading);
        top->clk = 0;
        top->eval();
        top->rst = 1;
        top->command___05Fvalid = 0;
        top->bus___05Fvalid = 0;
        top->status_clear = 0;
#define CLEAR(k) top->late___05F##k##___05Fvalid = 0;
        LATE(CLEAR)
#undef CLEAR
        for (int k = 0; k < 4; ++k) edge();
        top->rst = 0;
    }
    ~Chip() { top->final(); delete top; }
    void edge() { top->clk ^= 1; top->eval(); }  // each change of `clk` is a clock
    template <class Port, class Column, class Mask>
    void access(Bank& bank, bool write, uint32_t row, Column column, const Port& data, Mask mask) {
        uint32_t* cells = bank.at(row, column);
        if (write) {
            Line line;
            get(data, line, ACCESS_WORDS);
            write_masked(cells, line, mask);
        } else {
            std::memcpy(bank.reading, cells, sizeof(Line));
        }
    }
    // What the cells answer in this clock was asked for in the one before.
    void cells() {
#define CELL(b) \
        put(top->cells___05F##b##___05Fread_data, banks[b].reading, ACCESS_WORDS); \
        if (top->cells___05F##b##___05Fen) \
            access(banks[b], top->cells___05F##b##___05Fwrite, top->cells___05F##b##___05Frow, \
                   top->cells___05F##b##___05Fcolumn, top->cells___05F##b##___05Fdata, top->cells___05F##b##___05Fmask); \
        else \
            std::memset(banks[b].reading, 0xA5, sizeof(Line));
        CELLS(CELL)
#undef CELL
    }
};

constexpr int IN_WORDS = 2 + COMMAND_WORDS + BUS_WORDS + ACCESS_WORDS + 2 + NUM_LATE * (1 + LATE_WORDS);
constexpr int OUT_WORDS = 2 + ACCESS_WORDS;

}  // namespace

extern "C" {

void* chip_new() { return new Chip; }
void chip_delete(void* handle) { delete static_cast<Chip*>(handle); }

// The words of one column access, to be read or written behind the back of the chip.
uint32_t* chip_cells(void* handle, uint32_t bank, uint32_t row, uint32_t column) {
    return static_cast<Chip*>(handle)->banks[bank].at(row, column);
}

// Runs num clocks. `at` names, in rising order, the num_given clocks in which there is input (IN_WORDS words each:
// command valid, bus valid, command, bus, dq_in data, mask, status_clear, and of each later CK: valid, command); the others have none.
// out takes for each clock: dq_out valid, status, dq_out data.
void chip_run(void* handle, int64_t num, const int64_t* at, const uint32_t* in, int64_t num_given, uint32_t* out) {
    Chip& chip = *static_cast<Chip*>(handle);
    Vpim_chip* top = chip.top;
    const uint32_t nothing[IN_WORDS] = {};
    bool quiet = false;
    for (int64_t clock = 0, next = 0; clock < num; ++clock) {
        const bool given = next < num_given && at[next] == clock;
        if (given || !quiet) {
            const uint32_t* words = given ? in + next * IN_WORDS : nothing;
            top->command___05Fvalid = *words++;
            top->bus___05Fvalid = *words++;
            put(top->command___05Fpayload, words, COMMAND_WORDS);
            put(top->bus___05Fpayload, words += COMMAND_WORDS, BUS_WORDS);
            put(top->dq_in___05Fdata, words += BUS_WORDS, ACCESS_WORDS);
            top->dq_in___05Fmask = words[ACCESS_WORDS];
            top->status_clear = words[ACCESS_WORDS + 1];
            words += ACCESS_WORDS + 2;
#define SET(k) top->late___05F##k##___05Fvalid = *words++; \
            put(top->late___05F##k##___05Fpayload, words, LATE_WORDS); words += LATE_WORDS;
            LATE(SET)
#undef SET
            quiet = !given;
            next += given;
        }
        if (out) {
            out[0] = top->dq_out___05Fvalid;
            out[1] = top->status;
            get(top->dq_out___05Fdata, out + 2, ACCESS_WORDS);
            out += OUT_WORDS;
        }
        chip.cells();
        chip.edge();
    }
}

}
