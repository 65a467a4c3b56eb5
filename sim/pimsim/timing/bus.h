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
    struct Way { bool busy = false, is_sum = false; int bank = 0, group_line = 0; } ways[2];  // read side by side
    int turn = 0, dim = 0, sum_place = 0, sum_group_line = 0, since_sum = 0;
    int next = 0, groups;  // `next`: the place from which a score is looked for
    Mask first_group;
    // signals of a clock; nothing ends without a read
    struct Now {
        bool entry_end = false, sums_taken = false, slot = false, is_sum = false;
        int bank = 0, last_group_line = 0;
        Mask drained = 0, task_drained = 0;
    } now;
    explicit ResultReader(const Config& config)
        : c(config), groups(config.banks / config.banks_per_group), first_group((Mask(1) << config.banks_per_group) - 1) {}
    int bank_of(int place) const { return place % groups * c.banks_per_group + place / groups; }  // of the turns of banks

    bool busy() const { return ways[0].busy | ways[1].busy; }
    int offered() const { return ways[turn].busy || !ways[!turn].busy ? turn : !turn; }
    const Way& offer() const { return ways[offered()]; }
    bool slot_of(const BankShadows& shadows, const Way& way) const {
        return shadows.contexts[way.bank][shadows.oldest[way.bank]].slot;
    }
    // Banks that another result may come from while this way goes on.
    Mask elsewhere(const Way& way, bool goes_on) const {
        return goes_on ? ~(first_group << (way.bank / c.banks_per_group * c.banks_per_group)) : ~Mask(0);
    }
    Mask scored(const Way& way) const { return way.busy && !way.is_sum ? bit(way.bank) : 0; }
    // Lines are read one way after the other; none of them ends.
    void skip(int reads) {
        for (; reads; --reads) {
            Way& way = ways[offered()];
            turn = !offered();
            ++(way.is_sum ? dim : way.group_line);
        }
    }
    // The line at hand is taken by the bus in this clock.
    void read(const BankShadows& shadows, const KStage& k, int sum_last_group_line) {
        const Way& way = offer();
        now.bank = way.bank;
        now.is_sum = way.is_sum;
        if (way.is_sum) {
            now.entry_end = dim == c.dims_per_bank - 1;
            now.last_group_line = sum_last_group_line;
            now.sums_taken = now.entry_end && sum_place == c.banks - 1 && way.group_line == sum_last_group_line;
            return;
        }
        now.slot = slot_of(shadows, way);
        now.last_group_line = k.last_group_line[now.slot];
        now.entry_end = way.group_line == now.last_group_line;
        if (!now.entry_end) return;
        const int token = shadows.token[way.bank], step = shadows.contexts[way.bank][shadows.oldest[way.bank]].step;
        const int line = token + c.tokens_per_turn * (way.bank + c.banks * step);
        now.drained = bit(way.bank);
        if (token == c.tokens_per_turn - 1 || line + 1 == k.lines[now.slot]) now.task_drained = now.drained;
    }

    // Whether a way that idles finds a result. `score`: banks that have one; `sums`: those of all banks stand.
    bool chooses(Mask score, bool sums) const {
        if (ways[0].busy && ways[1].busy) return false;
        const Way& other = ways[!ways[0].busy];  // of the way that would take it
        const Mask others = elsewhere(other, other.busy);
        return (score & others & ~scored(other)) || (sums && !(other.busy && other.is_sum) && others & bit(bank_of(sum_place)));
    }
    void tick(Mask score, bool sums, bool read) {
        const int from = offered(), into = !ways[0].busy ? 0 : !ways[1].busy ? 1 : from;
        Way &way = ways[from], &other = ways[!into];
        score &= ~(scored(ways[0]) | scored(ways[1]));
        turn = read ? !from : from;
        if (read) {
            if (way.is_sum) dim = now.entry_end ? 0 : dim + 1;
            else ++way.group_line;
            if (now.entry_end) {
                way.busy = false;
                if (way.is_sum) {
                    if (sum_place == c.banks - 1) {
                        sum_place = 0;
                        sum_group_line = way.group_line == now.last_group_line ? 0 : sum_group_line + 1;
                    } else {
                        ++sum_place;
                    }
                }
            }
        }
        const bool taken = now.sums_taken;
        now = Now{};
        if (ways[into].busy) return;
        const Mask others = elsewhere(other, other.busy);
        score &= others;
        const bool to_sum = sums && !taken && !(other.busy && other.is_sum) && others & bit(bank_of(sum_place)) &&
            (!score || since_sum == c.scores_per_sum);
        if (to_sum) {
            since_sum = 0;
            ways[into] = Way{true, true, bank_of(sum_place), sum_group_line};
        } else if (score) {
            if (since_sum != c.scores_per_sum) ++since_sum;
            while (!(score & bit(bank_of(next)))) next = next + 1 == c.banks ? 0 : next + 1;
            ways[into] = Way{true, false, bank_of(next), 0};
            next = next + 1 == c.banks ? 0 : next + 1;
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
