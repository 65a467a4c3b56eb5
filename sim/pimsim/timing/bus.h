// pimhw.sequencer: which result is read next, probabilities on their way to the banks, and the order of bus commands.
#pragma once
#include "config.h"
#include "parts.h"
#include "sequencer.h"

// A line on the data bus: where it goes.
struct Route {
    bool sum, slot;
};

struct ResultReader {
    const Config& c;
    bool busy = false, is_sum = false;
    int bank = 0, pair = 0, dim = 0, sum_bank = 0, sum_pair = 0, since_sum = 0;
    Mask above = 0;
    struct Now {
        bool entry_end, sums_taken, row_end, slot;
        Mask drained, task_drained;
        int last_pair;
    } now{};
    explicit ResultReader(const Config& config) : c(config) {}

    // `read`: the request at hand is taken by the bus in this clock.
    void decide(const BankShadows& shadows, const KStage& k, int sum_last_pair, bool read) {
        now.drained = now.task_drained = 0;
        now.entry_end = now.sums_taken = false;
        if (!busy) return;
        const BankShadows::Context& context = shadows.contexts[bank][shadows.oldest[bank]];
        now.slot = context.slot;
        now.last_pair = is_sum ? sum_last_pair : k.last_pair[now.slot];
        const bool dims_end = dim == c.dims_per_bank - 1;
        now.entry_end = read && (is_sum ? dims_end : pair == now.last_pair);
        if (!now.entry_end) return;
        if (is_sum) {
            now.sums_taken = sum_bank == c.banks - 1 && pair == now.last_pair;
        } else {
            const int token = shadows.token[bank];
            const int line = token + c.k_deal * (bank + c.banks * (context.step));
            now.drained = bit(bank);
            if (token == c.k_deal - 1 || line + 1 == k.lines[now.slot]) now.task_drained = now.drained;
        }
    }
    bool pops() const { return !is_sum && pair == now.last_pair; }

    bool changed = false;
    void tick(Mask score, bool sums, bool read) {
        changed = busy ? read : score || sums;
        if (!busy && !score && !sums) { above = 0; bank = 0; pair = dim = 0; is_sum = false; return; }
        const bool ends_sum = now.entry_end && is_sum;
        int next_bank = sum_bank, next_pair = sum_pair;
        if (ends_sum) {
            if (sum_bank == c.banks - 1) {
                next_bank = 0;
                next_pair = pair == now.last_pair ? 0 : sum_pair + 1;
            } else {
                ++next_bank;
            }
        }
        if (busy && !is_sum) score &= ~bit(bank);
        const bool free = !busy || now.entry_end;
        if (read && busy) {
            if (is_sum) dim = dim == c.dims_per_bank - 1 ? 0 : dim + 1;
            else ++pair;
        }
        sum_bank = next_bank;
        sum_pair = next_pair;
        if (!free) return;
        const bool to_sum = sums && !now.sums_taken && (!score || since_sum == c.scores_per_sum);
        busy = to_sum || score;
        is_sum = to_sum;
        dim = 0;
        if (to_sum) {
            since_sum = 0;
            bank = next_bank;
            pair = next_pair;
            return;
        }
        if (score && since_sum != c.scores_per_sum) ++since_sum;
        pair = 0;
        if (score) {
            bank = lowest(score & above ? score & above : score);
            above = ~(bit(bank) | (bit(bank) - 1));
        } else {
            bank = 0;
            above = 0;  // ~(0 | (0 - 1))
        }
    }
};

// A beat of the softmax, and what it means for its row.
struct Beat {
    int32_t word, pair;
    bool slot, last;
};

struct ProbLines {
    const Config& c;
    bool full = false, held = false;
    Beat beat{};
    int place = 0, used = 0, stream = 0;
    Mask done[256] = {}, all;
    struct Now { bool valid, row_end, beat_taken, row_start, line_taken; } now{};
    bool changed = false;
    explicit ProbLines(const Config& config) : c(config), all(config.banks == 64 ? ~Mask(0) : bit(config.banks) - 1) {}
    void decide(const KStage& k, bool lines_ready) {
        if (!full) { now = Now{}; return; }
        const int word = c.row_words > 1 ? beat.word & (c.row_words - 1) : 0;
        const bool end = stream == c.streams - 1;
        now.valid = full && held;
        now.row_end = (beat.last || (word == c.row_words - 1 && beat.pair == k.last_pair[beat.slot])) && end;
        now.line_taken = now.valid && lines_ready;
        now.beat_taken = now.line_taken && end;
        now.row_start = full && !held && used != c.prob_slots;
    }
    bool ready() const { return !full || now.beat_taken; }
    void tick(bool offered, const Beat& given, const BankShadows& shadows, Mask row_done) {
        changed = (offered && ready()) || now.row_start || now.line_taken || row_done;
        if (!(full | offered) && !row_done) return;
        bool freed = false;
        for (Mask m = row_done; m; m &= m - 1) {
            const int b = lowest(m);
            done[shadows.rows[b].slot] |= bit(b);
        }
        if (row_done)
            for (int s = 0; s < c.prob_slots; ++s)
                if (done[s] == all) { done[s] = 0; freed = true; }
        used += int(now.row_start) - int(freed);
        if (now.row_start) held = true;
        if (now.line_taken) {
            stream = now.beat_taken ? 0 : stream + 1;
            if (now.row_end) { held = false; place = place == c.prob_slots - 1 ? 0 : place + 1; }
        }
        if (ready()) { full = offered; beat = given; }
    }
};

struct LineMarks {
    bool queries_end, row_end;
};

struct BusArbiter {
    const Config& c;
    Fifo<LineMarks, 256> queue;
    bool writing = false;
    int run = 0;
    bool changed = false;
    DelayLine<Route, 80> results;
    DelayLine<LineMarks, 80> ends;
    explicit BusArbiter(const Config& config) : c(config) {
        queue.size(c.line_queue);
        results.size(c.read_clocks + 1);
        ends.size(c.operand_ready > 1 ? c.operand_ready : 1);
    }
    bool asks(bool enable, bool reads) const { return enable && (writing ? queue.valid : reads); }
    void tick(bool taken, bool reads, const Route& route, bool line, const LineMarks& marks) {
        changed = false;
        if (!(taken | reads | line) && !queue.level() && !results.valid.any() && !ends.valid.any()) return;
        const bool wrote = taken && writing, read = taken && !writing;
        const bool run_over = run == c.line_queue;
        const bool enough = queue.level() >= c.line_queue * 3 / 4;
        const bool turn = writing ? reads && (!queue.valid || run_over) : queue.valid && (!reads || (run_over && enough));
        changed = turn || taken || line || queue.moving();
        ends.tick(wrote, queue.out);
        results.tick(read, route);
        queue.tick(line, marks, wrote);
        changed |= queue.moving();
        if (turn) { writing = !writing; run = 0; }
        else if (taken && !run_over) ++run;
    }
};
