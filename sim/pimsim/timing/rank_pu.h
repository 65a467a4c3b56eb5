// pimhw.rank_pu: when the softmax, the reducer and the merge unit have what, without the numbers.
#pragma once
#include "bus.h"
#include "config.h"
#include "parts.h"

struct StatsMark {
    bool last;
};

struct Softmax {
    const Config& c;
    bool held[2] = {}, complete[2] = {}, fill = false, slot = false;
    int32_t missing[2] = {}, last_line[2] = {}, last_pair[2] = {};
    DelayLine<bool, 64> scores;  // slot
    int32_t line = 0, pair = 0;  // of the row that is read
    struct Row { Beat beat; bool word_end, final; };
    DelayLine<Row, 64> rows;
    bool full = false;
    Beat out{};
    struct Sum { bool final, last; };
    DelayLine<Sum, 64> sums;
    // table of statistics: entries reserved, offered to the folder
    int reserved = 0, ended = 0, offered = 0;  // ended: sums of the item under way
    static constexpr int ROOM = 1024;
    bool marks[ROOM];  // whether an entry is the last of its item
    int put = 0, get = 0;
    struct Now { bool advance, read, accept, final, word_end, last, pair_end; } now{};

    explicit Softmax(const Config& config) : c(config) {
        scores.size(c.score_cycles);
        rows.size(c.prob_cycles);
        sums.size(c.sum_cycles);
    }
    bool ready() const { return !held[fill]; }
    bool stats_valid() const { return offered != 0; }
    bool stats_last() const { return marks[get]; }
    bool changed = false;
    bool still() const {
        return !(full | complete[0] | complete[1] | (held[0] && !missing[0]) | (held[1] && !missing[1])) && !offered &&
            !scores.valid.any() && !rows.valid.any() && !sums.valid.any();
    }
    void decide(bool words_ready, bool accept) {
        now.accept = accept;
        now.advance = !full || words_ready;
        now.final = line == last_line[slot];
        now.pair_end = pair == last_pair[slot];
        now.word_end = now.final || line % c.word_lines == c.word_lines - 1;
        now.last = now.final && now.pair_end;
        now.read = complete[slot] && now.advance && (reserved != c.stats_entries || !now.final);
    }
    void tick(bool score, bool score_slot, const Item& item, bool words_ready, bool stats_taken) {
        changed = score || now.accept || now.read || (now.advance && (rows.valid.any() || full)) || sums.valid.any() || stats_taken;
        const bool was_complete[2] = {complete[0], complete[1]};
        // what leaves pass 2
        const bool leaves = rows.ready() && now.advance;
        const Row row = rows.out();
        if (leaves) { full = row.word_end; out = row.beat; }
        else if (words_ready) full = false;
        const bool total = sums.ready() && sums.out().final, item_end = total && sums.out().last;
        sums.tick(leaves, Sum{row.final, row.beat.last});
        // statistics
        reserved += int(now.read && now.final) - int(stats_taken);
        if (now.read && now.final) { marks[put] = now.last; put = (put + 1) % ROOM; }
        ended += total;
        if (stats_taken) { --offered; get = (get + 1) % ROOM; }
        if (item_end) { offered += ended; ended = 0; }
        // pass 1
        const bool counted = scores.ready(), counted_slot = scores.out();
        scores.tick(score, score_slot);
        for (int s = 0; s < 2; ++s) {
            const bool opened = now.accept && fill == bool(s), closed = now.read && now.last && slot == bool(s);
            complete[s] = held[s] && missing[s] == 0;
            held[s] = (held[s] || opened) && !closed;
            if (opened) {
                missing[s] = item.lines * (item.last_pair + 1);
                last_line[s] = item.lines - 1;
                last_pair[s] = item.last_pair;
            } else if (counted && counted_slot == bool(s)) {
                --missing[s];
            }
        }
        if (now.accept) fill = !fill;
        changed |= complete[0] != was_complete[0] || complete[1] != was_complete[1] || counted;
        // pass 2
        if (now.advance)
            rows.tick(now.read, Row{Beat{line / c.word_lines, pair, slot, now.last}, now.word_end, now.final});
        if (now.read) {
            if (!now.word_end) {
                ++line;
            } else {
                const int32_t word = line / c.word_lines;
                if (now.pair_end) { pair = 0; line = (word + 1) * c.word_lines; }
                else { ++pair; line = word * c.word_lines; }
                if (now.last) { line = 0; slot = !slot; }
            }
        }
    }
};

struct Reducer {
    const Config& c;
    Delay due;
    int count = 0, whole_pairs = 0;
    explicit Reducer(const Config& config) : c(config) { due.size(c.reduce_cycles); }
    void tick(bool sum, bool release) {
        if (!(sum | release) && !due.any()) return;
        if (release) whole_pairs = 0;
        else if (due.out() && ++count == c.head_dim) { count = 0; ++whole_pairs; }
        due.tick(sum);
    }
};

struct Merge {
    const Config& c;
    enum State { FILL, WEIGH, MERGE, EMIT } state = FILL;
    int beat = 0, result = 0, waited = 0;
    bool last = false, normalise = false, started = false, all_in = false;
    Delay merging, is_l, normal;
    bool request = false, reciprocal_done = false;
    int remaining = 0;
    struct Now { bool ready, step, out_valid; } now{};
    explicit Merge(const Config& config) : c(config) {
        merging.size(c.merge_depth); is_l.size(c.merge_depth); normal.size(c.normal_depth);
    }
    bool still() const { return state == FILL && !request && !remaining && !reciprocal_done && !merging.any() && !normal.any(); }
    void decide(bool valid) {
        now.ready = state == FILL || (state == MERGE && started && !all_in);
        now.out_valid = normalise ? normal.out() : state == EMIT;
        now.step = now.ready && valid;
        if (state == EMIT) now.step = normalise ? reciprocal_done && !all_in : true;
    }
    void tick(bool valid, bool given_last, bool given_normalise) {
        const bool sum_l = state == MERGE && !started, merge_beat = state == MERGE && now.step;
        const bool written = merging.out() && !is_l.out(), l_written = merging.out() && is_l.out();
        const bool first = state == FILL && now.step && beat == 0;
        const bool is_last = first ? given_last : last, is_normalise = first ? given_normalise : normalise;
        const bool due = (first || l_written) && is_last && is_normalise;
        const bool step_result = state == MERGE ? written : state == EMIT && now.out_valid;
        const bool in_done = now.step && beat == c.merge_beats - 1;
        const bool out_done = step_result && result == c.merge_beats - 1;
        const bool normal_beat = state == EMIT && normalise && now.step;
        // reciprocal
        const bool taken = state == EMIT && out_done;
        const bool reciprocal_ready = remaining == 0 && (taken || !reciprocal_done), accept = reciprocal_ready && request;
        if (remaining == 1) reciprocal_done = true;
        else if (taken) reciprocal_done = false;
        if (accept) remaining = c.reciprocal_cycles - 1;
        else if (remaining) --remaining;
        if (due) request = true;
        else if (reciprocal_ready) request = false;
        // lanes
        merging.tick(sum_l || merge_beat);
        is_l.tick(sum_l);
        normal.tick(normal_beat);
        if (now.step) beat = beat == c.merge_beats - 1 ? 0 : beat + 1;
        if (step_result) result = result == c.merge_beats - 1 ? 0 : result + 1;
        const State after = last ? EMIT : WEIGH;
        if (first || sum_l) { last = given_last; normalise = given_normalise; }
        switch (state) {
        case FILL: if (in_done) state = after; break;
        case WEIGH:
            if (valid && ++waited == c.weigh_cycles) { waited = 0; state = MERGE; }
            break;
        case MERGE:
            started = true;
            if (in_done) all_in = true;
            if (out_done) { started = all_in = false; state = after; }
            break;
        case EMIT:
            if (in_done) all_in = true;
            if (out_done) { all_in = false; state = FILL; }
        }
    }
};

struct Folder {
    const Config& c;
    Merge merge;
    bool have = false, old = false, fetched = false, feeding = true, begun = false;
    int query = 0, beat = 0, result = 0;
    struct Now { bool running, given, result_end, done; } now{};
    explicit Folder(const Config& config) : c(config), merge(config) {}
    void decide(bool valid, const Item& item, int whole_pairs) {
        now.running = valid && have && query / c.streams < whole_pairs;
        now.given = now.running && fetched && feeding;
        merge.decide(now.given);
        now.result_end = merge.now.out_valid && result == c.merge_beats - 1;
        now.done = now.result_end && query == item.last_query;
    }
    void tick(const Item& item, bool stats, bool stats_last) {
        if (!(now.running | fetched | stats) && merge.still()) return;
        const bool step = now.given && merge.now.ready, beat_end = beat == c.merge_beats - 1;
        merge.tick(now.given, !old, item.final && item.normalise);
        const bool was_begun = begun;
        if (stats && !have) have = stats_last;
        if (now.done) have = false;
        if (now.running && !was_begun) { begun = true; old = !item.first; }
        fetched = now.running && was_begun;
        if (step) beat = beat_end ? 0 : beat + 1;
        if (step && beat_end) { if (old) old = false; else feeding = false; }
        if (merge.now.out_valid) result = now.result_end ? 0 : result + 1;
        if (now.result_end) { feeding = true; old = !item.first; ++query; fetched = false; }
        if (now.done) { query = 0; begun = false; }
    }
};
