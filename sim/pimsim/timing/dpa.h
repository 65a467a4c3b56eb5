// pimhw.dpa: programs of resident requests, checked in a first pass, issued in a second.
// Long because interpreter and dispatcher share the tables, and are one clocked unit in the model.
#pragma once
#include <vector>

#include "contract.h"
#include "host_side.h"
#include "parts.h"
#include "sequencer.h"


inline uint64_t part(uint64_t word, const FieldPlace& f) {
    return word >> f.offset & (f.width >= 64 ? ~uint64_t(0) : (uint64_t(1) << f.width) - 1);
}

struct Request {
    int32_t program = 0, length = 0, tokens = 0, first_entry = 0, num_entries = 0, last_query = 0;
    bool normalise = false, static_order = false;
};

// Tables, and one pass over a program.
// RTL: pimhw.dpa.interpreter.Interpreter, pimhw.dpa.loop_stack.LoopStack, pimhw.dpa.translation.Translation.
struct Interpreter {
    const Config& c;
    std::vector<uint64_t> words;
    std::vector<uint32_t> directory, leaf, owner;
    // what a pass works for
    bool issue = false;
    int slot = 0;
    Request request;
    // the pass
    enum Sequence { IDLE, QUERIES, SCORES, SCORED, PROBS, PROBED, SUMS, SUMMED } state = IDLE;
    bool running = false, ended = false, advance = false, final = false;
    int fault = 0;
    int32_t pc = 0, segment = 0, k_left = 0, v_left = 0;
    uint32_t count = 0, x[8] = {}, first_entry = 0;
    struct Loop { int32_t start, end, left; bool segments; } loops[16];
    int level = 0, loop_segment = 0;
    int32_t tokens_left = 0;
    struct Stage { bool executed = false, is_micro = false; int translated = 0; int32_t pc = 0; uint32_t vrow = 0; MicroOp micro{}; };
    Stage stages[3];
    // signals of a clock
    bool failed = false, over = false;

    explicit Interpreter(const Config& config)
        : c(config), words(c.program_words), directory(size_t(1) << c.slot_bits << clog2(c.directory_entries)),
          leaf(size_t(c.leaves) * c.leaf_entries), owner(c.num_chunks) {}

    bool valid() const { return issue && stages[2].executed && stages[2].is_micro && !failed; }
    bool still() const { return !running && !ended && !stages[0].executed && !stages[1].executed && !stages[2].executed; }
    void decide() {
        failed = stages[2].executed && stages[2].translated > 0;
        over = (ended && !stages[0].executed && !stages[1].executed && !stages[2].executed) || failed;
    }
    int over_fault() const { return failed ? stages[2].translated : fault; }
    int32_t over_pc() const { return failed ? stages[2].pc : fault ? pc : 0; }
    uint32_t over_row() const { return failed ? stages[2].vrow : 0; }

    // The physical row of a virtual one; a fault if the slot may not read it.
    int translate(uint32_t vrow, int32_t& row) const {
        const uint32_t chunk_of = vrow / c.chunk_rows;
        if (c.vrow_bits < 32 && vrow >> c.vrow_bits) return FAULT_UNMAPPED;
        const uint32_t d = directory[(size_t(slot) << clog2(c.directory_entries)) + chunk_of / c.leaf_entries];
        if (!part(d, c.directory_valid)) return FAULT_UNMAPPED;
        const uint32_t l = leaf[part(d, c.directory_leaf) * c.leaf_entries + chunk_of % c.leaf_entries];
        if (!part(l, c.leaf_valid)) return FAULT_UNMAPPED;
        const uint32_t chunk = uint32_t(part(l, c.leaf_chunk)), o = owner[chunk];
        if (!part(o, c.owner_valid) || int(part(o, c.owner_slot)) != slot || !part(o, c.owner_readable))
            return FAULT_PERMISSION;
        row = int32_t(chunk * c.chunk_rows + vrow % c.chunk_rows);
        return FAULT_NONE;
    }

    bool in_segments() const {
        for (int k = 0; k < level; ++k) if (loops[k].segments) return true;
        return false;
    }
    int32_t segment_tokens() const { return tokens_left <= c.segment_tokens ? tokens_left : c.segment_tokens; }

    int check(uint64_t word, int op, uint32_t at) const {
        const bool known = op < NUM_OPCODES && c.isa_width[op];
        if (int64_t(count) == c.watchdog) return FAULT_WATCHDOG;
        if (pc >= request.length) return FAULT_PC;
        if (!known) return FAULT_BAD_OPCODE;
        const bool inp = op == ISA_WR_INP, probs = inp && part(word, c.WR_INP_what) == INPUT_PROBS, queries = inp && !probs;
        const int width = c.isa_width[op];
        if (width < 64 && word >> width) return FAULT_RESERVED;
        const int kind = int(part(word, c.LOOP_kind));
        if (op == ISA_LOOP && kind != LOOP_IMM && part(word, c.LOOP_count)) return FAULT_RESERVED;
        if (probs && (part(word, c.WR_INP_rs) || part(word, c.WR_INP_stride))) return FAULT_RESERVED;
        if (source(word, op) >= c.num_registers || target(word, op) >= c.num_registers) return FAULT_REGISTER;
        if (op == ISA_LOOP) {
            const int32_t length = int32_t(part(word, c.LOOP_length)), after = pc + 1 + length;
            const int32_t enclosing = level ? loops[level - 1].end : request.length;
            if (level == c.loop_depth || length == 0 || after > enclosing || kind > LOOP_ROWS ||
                (kind == LOOP_SEGMENTS && in_segments()) || (kind == LOOP_ROWS && !in_segments()))
                return FAULT_LOOP;
        }
        bool allowed = true;
        switch (op) {
        case ISA_END: case ISA_BARRIER: allowed = state == IDLE; break;
        case ISA_WR_INP: allowed = state == (probs ? PROBS : IDLE); break;
        case ISA_SOFTMAX: allowed = state == QUERIES && in_segments() && loop_segment == segment; break;
        case ISA_MAC: allowed = state == (part(word, c.MAC_mode) == MODE_LANE ? PROBED : SCORES); break;
        case ISA_RD_OUT: allowed = state == (part(word, c.RD_OUT_what) == OUTPUT_SUMS ? SUMS : SCORED); break;
        case ISA_MERGE: allowed = state == SUMMED && (segment == 0 || at == first_entry); break;
        default: break;
        }
        if (!allowed) return FAULT_ORDER;
        if ((queries || op == ISA_MERGE) && (uint64_t(at) + c.queries_at_once > uint64_t(request.num_entries) || at % c.queries_at_once))
            return FAULT_BAD_ENTRY;
        if (op == ISA_END && part(word, c.END_advance) && request.tokens == c.max_tokens) return FAULT_TOKENS;
        return FAULT_NONE;
    }
    int source(uint64_t word, int op) const {
        switch (op) {
        case ISA_ADDI: return int(part(word, c.ADDI_rs));
        case ISA_WR_INP: return int(part(word, c.WR_INP_rs));
        case ISA_MAC: return int(part(word, c.MAC_rs));
        case ISA_MERGE: return int(part(word, c.MERGE_rs));
        default: return 0;
        }
    }
    int target(uint64_t word, int op) const {
        if (op == ISA_ADDI) return int(part(word, c.ADDI_rd));
        if (op == ISA_MOVI) return int(part(word, c.MOVI_rd));
        return source(word, op);
    }
    uint32_t added(uint64_t word, int op) const {
        switch (op) {
        case ISA_MOVI: return uint32_t(part(word, c.MOVI_imm));
        case ISA_ADDI: return uint32_t(part(word, c.ADDI_imm));
        case ISA_WR_INP: return uint32_t(part(word, c.WR_INP_stride));
        case ISA_MAC: return uint32_t(part(word, c.MAC_stride));
        case ISA_MERGE: return uint32_t(part(word, c.MERGE_stride));
        default: return 0;
        }
    }

    void start(bool second) {
        issue = second;
        running = true;
        pc = 0;
        count = 0;
        state = IDLE;
        level = 0;
        for (uint32_t& r : x) r = 0;
    }

    // What the instruction does; its micro-op, if it has one.
    Stage execute(uint64_t word, int op, uint32_t at) {
        Stage s;
        s.executed = true;
        s.pc = pc;
        s.vrow = at;
        MicroOp& m = s.micro;
        m.last_query = request.last_query;
        m.static_order = request.static_order;
        bool write = op == ISA_MOVI || op == ISA_ADDI || op == ISA_MAC;
        auto emits = [&](int kind) { s.is_micro = true; m.kind = kind; };
        switch (op) {
        case ISA_END: emits(MICRO_END); break;
        case ISA_BARRIER: emits(MICRO_BARRIER); break;
        case ISA_WR_INP:
            if (part(word, c.WR_INP_what) == INPUT_PROBS) { emits(MICRO_WR_PROBS); state = PROBED; }
            else { emits(MICRO_WR_QUERIES); state = QUERIES; segment = 0; write = true; }
            break;
        case ISA_SOFTMAX:
            emits(MICRO_SOFTMAX);
            k_left = v_left = m.lines = (segment_tokens() + c.chips - 1) / c.chips;
            m.first = loop_segment == 0;
            m.final = final = tokens_left <= c.segment_tokens;
            state = SCORES;
            break;
        case ISA_MAC:
            s.translated = translate(at, m.row);
            if (part(word, c.MAC_mode) == MODE_LANE) {
                emits(MICRO_MAC_V);
                state = v_left <= c.row_lines ? SUMS : PROBS;
                v_left -= c.row_lines;
            } else {
                emits(MICRO_MAC_K);
                state = SCORED;
            }
            break;
        case ISA_RD_OUT:
            if (part(word, c.RD_OUT_what) == OUTPUT_SUMS) { emits(MICRO_RD_SUMS); state = SUMMED; }
            else { emits(MICRO_RD_SCORES); state = k_left <= c.row_lines ? PROBS : SCORES; k_left -= c.row_lines; }
            break;
        case ISA_MERGE:
            emits(MICRO_MERGE);
            m.first = segment == 0;
            m.final = final;
            m.normalise = request.normalise;
            state = final ? IDLE : QUERIES;
            write = final;
            ++segment;
            first_entry = at;
            break;
        default: break;
        }
        if (write) x[target(word, op)] = at + added(word, op);
        next(word, op);
        ++count;
        return s;
    }

    void next(uint64_t word, int op) {
        int32_t straight = pc + 1;
        if (op == ISA_LOOP) {
            const int kind = int(part(word, c.LOOP_kind));
            const int32_t after = pc + 1 + int32_t(part(word, c.LOOP_length));
            const int32_t row_tokens = c.row_lines * c.chips;
            int32_t wanted = int32_t(part(word, c.LOOP_count));
            if (kind == LOOP_SEGMENTS) wanted = (request.tokens + c.segment_tokens - 1) / c.segment_tokens;
            if (kind == LOOP_ROWS) wanted = (segment_tokens() + row_tokens - 1) / row_tokens;
            if (wanted) {
                loops[level++] = Loop{pc + 1, after, wanted - 1, kind == LOOP_SEGMENTS};
                if (kind == LOOP_SEGMENTS) { tokens_left = request.tokens; loop_segment = 0; }
                pc = pc + 1;
                return;
            }
            straight = after;
        }
        pc = straight;
        while (level && straight == loops[level - 1].end) {
            Loop& loop = loops[level - 1];
            if (loop.left) {
                --loop.left;
                if (loop.segments) { tokens_left -= c.segment_tokens; ++loop_segment; }
                pc = loop.start;
                return;
            }
            --level;
        }
    }

    void tick(bool starts, bool second, bool ready) {
        const bool move = !valid() || ready, was_over = over;
        if (move) {
            const uint64_t word = words[(request.program + pc) % c.program_words];
            const int op = int(word & ((1 << OPCODE_BITS) - 1));
            Stage entering;
            if (running) {
                const uint32_t at = op == ISA_MOVI ? 0 : x[source(word, op) & 7];
                const int why = check(word, op, at);
                if (why) {
                    running = false;
                    ended = true;
                    fault = why;
                    advance = false;
                } else if (!failed) {
                    const bool end = op == ISA_END;
                    entering = execute(word, op, at);
                    if (end) { running = false; ended = true; fault = FAULT_NONE; advance = part(word, c.END_advance) != 0; }
                }
            }
            stages[2] = stages[1];
            stages[1] = stages[0];
            stages[0] = entering;
        }
        if (starts) start(second);
        if (was_over) {
            running = ended = false;
            for (Stage& s : stages) s.executed = false;
        }
    }
};

// Resident requests, and who runs next.
// RTL: pimhw.dpa.dispatcher.Dispatcher, pimhw.dpa.controller.DpaController.
struct Dispatcher {
    const Config& c;
    Interpreter core;
    Fifo<ConfigWord, 64> configs;
    enum State { CLEAR, READY, LOAD, LOADED, CHECK, AGAIN, ISSUE } state = CLEAR;
    int32_t sweep = 0;
    bool releasing = false;
    int passed = 0;       // operations in a row that went before a program that could begin
    bool looked = false;  // what the operation would change has been looked up
    std::vector<bool> uses;  // leaves that directories of a slot have named since RELEASE
    int slot = 0;
    struct Slot {
        Request request;
        bool has_request = false, has_scale = false, faulted = false;
        int32_t pending = 0, tokens = 0, done = 0, fault = 0, fault_pc = 0;
        uint32_t fault_row = 0;
    };
    std::vector<Slot> slots;
    int waiting = 0;  // slots with starts
    struct Totals { int32_t refused = 0, refusal = 0, programs = 0, faults = 0; } totals, before;  // before clock `counted`
    int64_t counted = -1;
    // signals of a clock
    bool config_taken = false, asked = false, does = false, begins = false, starts = false, second = false;

    explicit Dispatcher(const Config& config)
        : c(config), uses(size_t(c.leaves) << c.slot_bits), core(config), slots(size_t(1) << c.slot_bits) {
        configs.size(c.host_queue);
    }
    bool running() const { return c.num_slots != 0 && (state != READY || waiting || releasing || configs.valid); }
    bool at_rest() const { return (c.num_slots == 0 || state == READY) && !waiting && !configs.valid && configs.inner == 0; }

    int fault_of(const ConfigWord& w) const {
        const uint64_t v = w.value;
        const bool no_slot = w.slot >= c.num_slots;
        const Slot& s = slots[w.slot];
        auto idle = [&]() { return no_slot ? CONFIG_REFUSED_RANGE : s.pending ? CONFIG_REFUSED_BUSY : CONFIG_REFUSED_NONE; };
        switch (w.op) {
        case CONFIG_WRITE_WORD: return w.index >= c.program_words ? CONFIG_REFUSED_RANGE : CONFIG_REFUSED_NONE;
        case CONFIG_SET_REQUEST: {
            if (const int why = idle()) return why;
            const Request r = unpack(v);
            const bool bad = r.length == 0 || r.program + r.length > c.program_words || r.tokens == 0 ||
                r.num_entries == 0 || r.first_entry % c.queries_at_once || r.first_entry + r.num_entries > c.queries ||
                r.last_query >= c.queries_at_once;
            return bad ? CONFIG_REFUSED_BAD_VALUE : CONFIG_REFUSED_NONE;
        }
        case CONFIG_SET_SCALE: {
            if (const int why = idle()) return why;
            const uint32_t scale = uint32_t(v), exponent = scale >> 23 & 255;
            return scale >> 31 || exponent == 0 || exponent == 255 ? CONFIG_REFUSED_BAD_VALUE : CONFIG_REFUSED_NONE;
        }
        case CONFIG_SET_DIRECTORY:
            if (w.index >= c.directory_entries || int64_t(part(v, c.directory_leaf)) >= c.leaves) return CONFIG_REFUSED_RANGE;
            return idle();
        case CONFIG_SET_LEAF:
            return w.index >= c.leaves * c.leaf_entries || int64_t(part(v, c.leaf_chunk)) >= c.num_chunks ? CONFIG_REFUSED_RANGE
                                                                                                          : CONFIG_REFUSED_NONE;
        case CONFIG_SET_OWNER:
            return w.index >= c.num_chunks || int64_t(part(v, c.owner_slot)) >= c.num_slots ? CONFIG_REFUSED_RANGE : CONFIG_REFUSED_NONE;
        case CONFIG_START:
            if (no_slot) return CONFIG_REFUSED_RANGE;
            if (!s.has_request || !s.has_scale || s.faulted) return CONFIG_REFUSED_NOT_READY;
            return s.pending == c.max_pending ? CONFIG_REFUSED_FULL : CONFIG_REFUSED_NONE;
        case CONFIG_RELEASE: return idle();
        default: return CONFIG_REFUSED_BAD_OP;
        }
    }
    // The counts of the controller in clock t: they follow in the second clock.
    const Totals& shown(int64_t t) const { return t >= counted + 2 ? totals : before; }
    Totals& counts(int64_t t) {
        before = totals;
        counted = t;
        return totals;
    }
    Request unpack(uint64_t v) const {
        Request r;
        r.program = int32_t(part(v, c.request_program));
        r.length = int32_t(part(v, c.request_length));
        r.tokens = int32_t(part(v, c.request_tokens));
        r.first_entry = int32_t(part(v, c.request_first_entry));
        r.num_entries = int32_t(part(v, c.request_num_entries));
        r.last_query = int32_t(part(v, c.request_last_query));
        r.normalise = part(v, c.request_normalise) != 0;
        r.static_order = part(v, c.request_static_order) != 0;
        return r;
    }

    // Nothing changes until its micro-op is taken, or the host writes.
    bool waits() const {
        return state == ISSUE && core.valid() && !core.over && !configs.valid && configs.inner == 0 && !releasing;
    }
    size_t use_of(int32_t of_slot, int32_t leaf) const { return size_t(of_slot) * c.leaves + leaf; }
    // Whether the operation would write what the program under way reads.
    bool touches(const ConfigWord& w) const {
        switch (w.op) {
        case CONFIG_WRITE_WORD: return w.index >= core.request.program && w.index < core.request.program + core.request.length;
        case CONFIG_SET_LEAF: return uses[use_of(slot, w.index / c.leaf_entries)];
        case CONFIG_SET_OWNER: {
            const uint32_t was = core.owner[w.index];
            auto of_slot = [&](uint64_t o) { return part(o, c.owner_valid) && int(part(o, c.owner_slot)) == slot; };
            return of_slot(was) || of_slot(w.value);
        }
        default: return false;
        }
    }
    // `open`: the oldest operation may be done.
    void decide(bool enable, bool open) {
        core.decide();
        starts = state == LOADED || state == AGAIN;
        second = state == AGAIN;
        asked = configs.valid && open;
        const bool could = enable && waiting && !releasing, good = asked && !fault_of(configs.out);
        begins = state == READY && could && (!asked || passed == c.host_queue);
        does = false;
        if (asked && !releasing) {
            if (state == READY) does = !begins;
            else if ((state == CHECK || state == ISSUE) && !core.over) does = looked && !(good && touches(configs.out));
        }
        config_taken = does && !(good && configs.out.op == CONFIG_RELEASE);
        if (releasing) config_taken = sweep == c.release_clocks - 1;
    }

    void configure(int64_t t, const ConfigWord& w) {
        const int why = fault_of(w);
        if (why) { Totals& n = counts(t); ++n.refused; n.refusal = why; return; }
        Slot& s = slots[w.slot];
        switch (w.op) {
        case CONFIG_WRITE_WORD: core.words[w.index] = w.value; break;
        case CONFIG_SET_REQUEST: s.request = unpack(w.value); s.tokens = s.request.tokens; s.has_request = true; break;
        case CONFIG_SET_SCALE: s.has_scale = true; break;
        case CONFIG_SET_DIRECTORY:
            core.directory[(size_t(w.slot) << clog2(c.directory_entries)) + w.index] = uint32_t(w.value);
            if (part(w.value, c.directory_valid)) uses[use_of(w.slot, int32_t(part(w.value, c.directory_leaf)))] = true;
            break;
        case CONFIG_SET_LEAF: core.leaf[w.index] = uint32_t(w.value); break;
        case CONFIG_SET_OWNER: core.owner[w.index] = uint32_t(w.value); break;
        case CONFIG_START: if (s.pending++ == 0) ++waiting; break;
        default:  // CONFIG_RELEASE
            s.tokens = 0;
            s.has_request = s.has_scale = s.faulted = false;
            sweep = 0;
            releasing = true;
        }
    }

    void tick(int64_t t, bool enable, bool ready, bool config, const ConfigWord& word) {
        const bool over = core.over;
        const int why = core.over_fault();
        const int32_t pc = core.over_pc();
        const uint32_t row = core.over_row();
        const bool advances = core.advance;
        const ConfigWord given = configs.out;
        const bool in_pass = state == CHECK || state == ISSUE, could = enable && waiting && !releasing;
        looked = in_pass && asked && !releasing && !over && !does;
        core.tick(starts, second, ready);
        configs.tick(config, word, config_taken);
        if (releasing) {
            if (sweep < c.directory_entries) core.directory[(size_t(given.slot) << clog2(c.directory_entries)) + sweep] = 0;
            if (sweep < c.leaves) uses[use_of(given.slot, sweep)] = false;
            if (sweep == c.release_clocks - 1) releasing = false;
            ++sweep;
        }
        switch (state) {
        case CLEAR: {
            if (sweep == c.sweep - 1) {
                state = READY;
                slot = c.num_slots - 1;
            }
            ++sweep;
            break;
        }
        case READY:
            if (does) passed = could ? passed + 1 : 0;
            if (begins) {
                passed = 0;
                int next = slot;
                do { next = next + 1 == c.num_slots ? 0 : next + 1; } while (!slots[next].pending);
                slot = next;
                state = LOAD;
            }
            break;
        case LOAD:
            state = LOADED;
            core.slot = slot;
            core.request = slots[slot].request;
            core.request.tokens = slots[slot].tokens;
            break;
        case LOADED: state = CHECK; break;
        case CHECK:
            if (!over) break;
            state = AGAIN;
            if (why) {
                Slot& s = slots[slot];
                s.faulted = true;
                s.pending = 0;
                s.fault = why;
                s.fault_pc = pc;
                s.fault_row = row;
                --waiting;
                ++counts(t).faults;
                state = READY;
            }
            break;
        case AGAIN: state = ISSUE; break;
        case ISSUE:
            if (!over) break;
            Slot& s = slots[slot];
            ++s.done;
            s.tokens = core.request.tokens + advances;
            if (--s.pending == 0) --waiting;
            ++counts(t).programs;
            state = READY;
        }
        if (does) configure(t, given);
    }
};
