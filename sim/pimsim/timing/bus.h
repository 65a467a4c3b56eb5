// pimhw.sequencer: which result is read next, probabilities on their way to the banks, and the order of bus commands.
#pragma once
#include "contract.h"
#include "parts.h"
#include "sequencer.h"

// A line on the data bus: where it goes.
struct Route {
    bool sum, slot;
};

// RTL: pimhw.sequencer.result_reader.ResultReader.
struct ResultReader {
    const Config& c;
    bool busy = false, is_sum = false;
    int bank = 0, group_line = 0, dim = 0, sum_bank = 0, sum_group_line = 0, since_sum = 0;
    Mask above = 0;
    // signals of a clock; nothing ends without a read
    struct Now {
        bool entry_end = false, sums_taken = false, slot = false;
        int last_group_line = 0;
        Mask drained = 0, task_drained = 0;
    } now;
    explicit ResultReader(const Config& config) : c(config) {}

    bool slot_of(const BankShadows& shadows) const { return shadows.contexts[bank][shadows.oldest[bank]].slot; }
    void skip(int reads) { (is_sum ? dim : group_line) += reads; }
    // The request at hand is taken by the bus in this clock.
    void read(const BankShadows& shadows, const KStage& k, int sum_last_group_line) {
        if (is_sum) {
            now.entry_end = dim == c.dims_per_bank - 1;
            now.last_group_line = sum_last_group_line;
            now.sums_taken = now.entry_end && sum_bank == c.banks - 1 && group_line == sum_last_group_line;
            return;
        }
        now.slot = slot_of(shadows);
        now.last_group_line = k.last_group_line[now.slot];
        now.entry_end = group_line == now.last_group_line;
        if (!now.entry_end) return;
        const int token = shadows.token[bank], step = shadows.contexts[bank][shadows.oldest[bank]].step;
        const int line = token + c.tokens_per_turn * (bank + c.banks * step);
        now.drained = bit(bank);
        if (token == c.tokens_per_turn - 1 || line + 1 == k.lines[now.slot]) now.task_drained = now.drained;
    }

    // Whether the next result is to be chosen. `score`: banks that have one; `sums`: those of all banks stand.
    bool chooses(Mask score, bool sums) const { return busy ? now.entry_end : score || sums; }
    void tick(Mask score, bool sums, bool read) {
        if (read) {
            if (is_sum) dim = now.entry_end ? 0 : dim + 1;
            else ++group_line;
        }
        if (!chooses(score, sums)) return;
        if (busy && is_sum) {
            if (sum_bank == c.banks - 1) {
                sum_bank = 0;
                sum_group_line = group_line == now.last_group_line ? 0 : sum_group_line + 1;
            } else {
                ++sum_bank;
            }
        }
        score &= ~now.drained;
        const bool to_sum = sums && !now.sums_taken && (!score || since_sum == c.scores_per_sum);
        now = Now{};
        busy = to_sum || score;
        is_sum = to_sum;
        dim = group_line = 0;
        if (to_sum) {
            since_sum = 0;
            bank = sum_bank;
            group_line = sum_group_line;
        } else if (score) {
            if (since_sum != c.scores_per_sum) ++since_sum;
            bank = lowest(score & above ? score & above : score);
            above = ~(bit(bank) | (bit(bank) - 1));
        } else {
            bank = 0;
            above = 0;
        }
    }
};

// A beat of the softmax, and what it means for its row.
struct Beat {
    int32_t word, group_line;
    bool group_end, last;  // of the item: the line of the group; the line of the group of the last word
};

// RTL: pimhw.sequencer.lines.ProbLines.
struct ProbLines {
    const Config& c;
    bool full = false, held = false;
    Beat beat{};
    int place = 0, used = 0, stream = 0;
    Mask done[256] = {}, all;
    struct Now { bool valid = false, row_end = false, beat_taken = false, row_start = false, line_taken = false; } now;
    explicit ProbLines(const Config& config) : c(config), all(config.banks == 64 ? ~Mask(0) : bit(config.banks) - 1) {}
    void decide(bool lines_ready) {
        now = Now{};
        if (!full) return;
        if (!held) { now.row_start = used != c.prob_slots; return; }
        const int word = c.row_words > 1 ? beat.word & (c.row_words - 1) : 0;
        const bool end = stream == c.queries_per_line - 1;
        now.valid = true;
        now.row_end = end && (beat.last || (word == c.row_words - 1 && beat.group_end));
        now.line_taken = lines_ready;
        now.beat_taken = lines_ready && end;
    }
    bool ready() const { return !full || now.beat_taken; }
    bool moves(bool lines_ready) const { return full && (held ? lines_ready : used != c.prob_slots); }  // by itself
    void tick(bool offered, const Beat& given) {
        if (now.row_start) { held = true; ++used; }
        if (now.line_taken) {
            stream = now.beat_taken ? 0 : stream + 1;
            if (now.row_end) { held = false; place = place == c.prob_slots - 1 ? 0 : place + 1; }
        }
        if (!ready()) return;
        full = offered;
        if (offered) beat = given;
    }
    // Banks are through with a row; a slot is free when all are.
    void row_done(Mask banks, const BankShadows& shadows) {
        bool freed = false;
        for (Mask m = banks; m; m &= m - 1) {
            Mask& slot = done[shadows.rows[lowest(m)].slot];
            slot |= m & -m;
            if (slot == all) { slot = 0; freed = true; }
        }
        used -= freed;
    }
};

struct LineMarks {
    bool queries_end, row_end;
};

// RTL: pimhw.sequencer.bus_arbiter.BusArbiter.
struct BusArbiter {
    const Config& c;
    Fifo<LineMarks, 256> queue;
    bool writing = false;
    int run = 0, enough;
    DelayLine<Route> results;   // those that end something, when they come from the data bus
    DelayLine<LineMarks> ends;  // when the line that ends something is in the chips
    explicit BusArbiter(const Config& config) : c(config), enough(config.line_queue * 3 / 4) {
        queue.size(c.line_queue);
        results.size(c.read_clocks + 1);
        ends.size(c.operand_ready > 1 ? c.operand_ready : 1);
    }
    bool asks(bool enable, bool reads) const { return enable && (writing ? queue.valid : reads); }
    bool turns(bool reads) const {
        const bool run_over = run == c.line_queue;
        return writing ? reads && (!queue.valid || run_over)
                       : queue.valid && (!reads || (run_over && queue.level() >= enough));
    }
    int reads_before_turn() const { return queue.valid && queue.level() >= enough ? c.line_queue - run : 1 << 30; }
    void tick(bool taken, bool reads, bool line, const LineMarks& marks) {
        const bool turn = turns(reads);
        queue.tick(line, marks, taken && writing);
        if (turn) { writing = !writing; run = 0; }
        else if (taken && run != c.line_queue) ++run;
    }
};
