// The interface of a rank's simulation (as rank_harness.cpp has it) in front of the timing model.
#include "rank_timing.h"

#include <algorithm>

namespace {

template <class T> int64_t take(std::vector<T>& from, T* into, int64_t room) {
    const int64_t n = std::min<int64_t>(room, from.size());
    if (!into) return from.size();
    std::copy(from.begin(), from.begin() + n, into);
    from.erase(from.begin(), from.begin() + n);
    return n;
}

}  // namespace

extern "C" {

RankTiming* rank_new(const Config* config) { return new RankTiming(*config); }
int64_t rank_config_bytes() { return sizeof(Config); }
void rank_delete(RankTiming* rank) { delete rank; }
int64_t rank_clock(RankTiming* rank) { return rank->clock; }
void rank_tracing(RankTiming* rank, int on) { rank->tracing = on; }
void rank_watchful(RankTiming* rank, int on) { rank->watchful = on; }
int64_t rank_host_left(RankTiming* rank) { return rank->ops.size(); }

void rank_host(RankTiming* rank, const uint8_t* ops, int64_t count) {
    const Config& c = rank->c;
    for (int64_t n = 0; n < count; ++n, ops += c.op_bytes) {
        HostOp op{};
        std::memcpy(&op, ops, 6 * sizeof(int32_t));
        std::memcpy(op.data, ops + 6 * sizeof(int32_t), c.line_bytes);
        std::memcpy(op.mask, ops + 6 * sizeof(int32_t) + c.line_bytes, (c.line_bytes + 7) / 8);
        rank->give(op);
    }
}

// Runs until `clocks` have passed, or, as asked, until no host op waits, or so many kv_heads have finished in all.
int64_t rank_run(RankTiming* rank, int64_t clocks, int64_t until_finished, int until_host_idle) {
    const int64_t begin = rank->clock, end = begin + std::min(clocks, (int64_t(1) << 60) - begin);
    while (rank->clock < end) {
        if (until_finished >= 0 && int64_t(rank->finished.size()) >= until_finished) break;
        if (until_host_idle && rank->ops.empty() && rank->data.empty()) break;
        rank->step(end, until_host_idle != 0);
    }
    return rank->clock - begin;
}

int64_t rank_trace(RankTiming* rank, TraceRecord* into, int64_t room) { return take(rank->trace, into, room); }
int64_t rank_issued(RankTiming* rank, int64_t* into, int64_t room) { return take(rank->issued, into, room); }

int64_t rank_lines(RankTiming* rank, uint8_t* into, int64_t room) {
    const Config& c = rank->c;
    if (!into) return rank->lines.size();
    const int64_t n = std::min<int64_t>(room, rank->lines.size());
    for (int64_t k = 0; k < n; ++k, into += c.line_record_bytes) {
        std::memcpy(into, &rank->lines[k].clock, sizeof(int64_t));
        std::memcpy(into + sizeof(int64_t), rank->lines[k].data, c.line_bytes);
    }
    rank->lines.erase(rank->lines.begin(), rank->lines.begin() + n);
    return n;
}

int64_t rank_finished(RankTiming* rank, int64_t* into, int64_t room) {
    const int64_t n = std::min<int64_t>(room, rank->finished.size());
    if (into) std::copy(rank->finished.begin(), rank->finished.begin() + n, into);
    return into ? n : rank->finished.size();
}

// Commands by code, accesses of PIM_MAC, clocks with a bank open: before now, or up to the end of a descriptor.
int64_t rank_counts(RankTiming* rank, int64_t finish, int64_t* into, int64_t room) {
    if (room != NUM_CODES + 2 || finish >= int64_t(rank->finished.size())) return -1;
    rank->count(finish, into);
    return room;
}

// There are no cells.
void rank_poke(RankTiming*, const int32_t*, const int32_t*, const int32_t*, const int32_t*, const uint8_t*, int64_t) {}
void rank_peek(RankTiming*, const int32_t*, const int32_t*, const int32_t*, uint8_t*, int64_t) {}

}
