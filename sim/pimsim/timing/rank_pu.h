// pimhw.rank_pu: when the softmax, the reducer and the merge unit have what, without the numbers.
#pragma once
#include "bus.h"
#include "contract.h"
#include "parts.h"

// Pass 1 takes the scores of an item; pass 2 reads them again, a line in a clock, and makes a beat of each word of lines.
// Pass 2 stands still, with all that is in it, while its output waits. Only ends of words are followed: `reads_at` and
// `rows` count in clocks in which it moved, which is `behind` less than the clock.
// RTL: pimhw.rank_pu.softmax.Softmax, pimhw.rank_pu.softmax_parts.Accumulator,
//      pimhw.rank_pu.softmax_parts.StatisticsTable.
struct Softmax {
    const Config& c;
    bool held[2] = {}, fill = false, slot = false;
    int64_t complete_at[2] = {NEVER, NEVER};  // when pass 2 sees all scores of an item
    int32_t last_line[2] = {}, last_group_line[2] = {};
    int32_t line = 0, group_line = 0;  // first line of the word that is read
    int64_t reads_at = NEVER;    // its last line
    int64_t behind = 0, stands_from = NEVER;
    struct Row { Beat beat; bool final; };
    DelayLine<Row> rows;
    bool full = false;
    Beat out{};
    DelayLine<bool> sums;  // of a line of the group's row; whether of the last
    // table of statistics: entries reserved, offered to the segment merger
    int reserved = 0, ended = 0, offered = 0;  // ended: sums of the item under way
    static constexpr int ROOM = 1024;
    bool marks[ROOM];  // whether an entry is the last of its item
    int put = 0, get = 0;
    struct Now { bool advance, read, last; int64_t moved; } now{};  // read, last: of a line of the group's final word

    explicit Softmax(const Config& config) : c(config) {
        rows.size(c.prob_cycles);
        sums.size(c.sum_cycles);
    }
    bool ready() const { return !held[fill]; }
    bool stats_valid() const { return offered != 0; }
    bool stats_last() const { return marks[get]; }

    void open(const Item& item) {
        held[fill] = true;
        last_line[fill] = item.lines - 1;
        last_group_line[fill] = item.last_group_line;
        fill = !fill;
    }
    // The last score of an item arrived; the clock in which pass 2 can begin.
    int64_t scored(int64_t t, bool of) { return complete_at[of] = t + c.score_cycles + 2; }
    void take_stats() {
        --reserved;
        --offered;
        get = (get + 1) % ROOM;
    }

    void decide(int64_t t, bool words_ready) {
        now = Now{};
        now.advance = !full || words_ready;
        if (!now.advance) { if (stands_from == NEVER) stands_from = t; return; }
        if (stands_from != NEVER) { behind += t - stands_from; stands_from = NEVER; }
        now.moved = t - behind;
        if (reads_at == NEVER && complete_at[slot] <= t) begin_word(now.moved);
        while (reads_at <= now.moved && !final_word()) read(reads_at);  // those do nothing but come out later
        now.read = reads_at <= now.moved && reserved != c.stats_entries;
        now.last = group_line == last_group_line[slot];
    }
    bool final_word() const { return line + c.word_lines > last_line[slot]; }  // of its line of the group
    void begin_word(int64_t moved) {
        reads_at = moved + std::min(c.word_lines, last_line[slot] - line + 1) - 1;
    }
    // Whether a slot became free.
    bool tick(int64_t t, Agenda& agenda) {
        if (sums.ready(t)) {
            ++ended;
            if (sums.take()) { offered += ended; ended = 0; agenda.soon |= SEGMENT_MERGER; }
        }
        if (!now.advance) return false;
        full = rows.due() == now.moved;
        if (full) {
            const Row row = rows.take();
            out = row.beat;
            if (row.final) agenda.add(SOFTMAX, sums.put(t, row.beat.last));
        }
        const bool closes = now.read && now.last;
        if (now.read) read(now.moved);
        // it stands still when its output waits, and is woken by what takes that
        if (full) agenda.soon |= SOFTMAX | LINES;
        else agenda.set(SOFTMAX, next(t));
        return closes;
    }
    void read(int64_t moved) {
        const bool final = final_word(), group_end = group_line == last_group_line[slot], last = final && group_end;
        rows.put(moved, Row{Beat{line / c.word_lines, group_line, group_end, last}, final});
        reads_at = NEVER;
        if (final) { marks[put] = last; put = (put + 1) % ROOM; ++reserved; }
        if (group_end) { group_line = 0; line += c.word_lines; }
        else ++group_line;
        if (last) {
            line = 0;
            held[slot] = false;
            complete_at[slot] = NEVER;
            slot = !slot;
        }
        if (complete_at[slot] <= moved + behind + 1) begin_word(moved + 1);
    }
    // After clock t, in which it moved: when something leaves pass 2 or is read.
    int64_t next(int64_t t) const {
        int64_t at = rows.due();
        if (reads_at != NEVER) {
            const bool far = line + 3 * c.word_lines <= last_line[slot] && c.prob_cycles <= 2 * c.word_lines;
            if (far) at = std::min(at, reads_at + c.prob_cycles);  // the final word is not read before that
            else if (reads_at > now.moved || reserved != c.stats_entries) at = std::min(at, reads_at);
        }
        return std::max(t + 1, at + behind);
    }
};

// RTL: pimhw.rank_pu.reducer.Reducer.
struct Reducer {
    const Config& c;
    DelayLine<bool> due;
    int count = 0, whole_group_lines = 0;
    explicit Reducer(const Config& config) : c(config) { due.size(c.reduce_cycles); }
    bool last_sum() {  // of a line of the group: those read from the banks
        if (++count != c.head_dim) return false;
        count = 0;
        return true;
    }
};

// RTL: pimhw.rank_pu.merge.Merge.
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

// RTL: pimhw.rank_pu.segment_merger.SegmentMerger.
struct SegmentMerger {
    const Config& c;
    Merge merge;
    bool have = false, old = false, fetched = false, feeding = true, begun = false;
    int query = 0, beat = 0, result = 0;
    struct Now { bool running, given, result_end, done; } now{};
    explicit SegmentMerger(const Config& config) : c(config), merge(config) {}
    bool still() const { return !(now.running | fetched) && merge.still(); }
    void decide(bool valid, const Item& item, int whole_group_lines) {
        now.running = valid && have && query / c.queries_per_line < whole_group_lines;
        now.given = now.running && fetched && feeding;
        merge.decide(now.given);
        now.result_end = merge.now.out_valid && result == c.merge_beats - 1;
        now.done = now.result_end && query == item.last_query;
    }
    void tick(const Item& item, bool stats, bool stats_last) {
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
