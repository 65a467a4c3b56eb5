// Parameters of a rank as the timing model needs them; the order is that of RankConfig in timing_model.py.
#pragma once
#include <cstdint>

constexpr int MAX_BANKS = 64;
constexpr int MAX_RULES = 256;

// Codes of commands as in pimspec.dram.commands.Command, given by the configuration.
struct Codes {
    int32_t ACT, PREpb, PREab, RD, WR, REFab, PIM_MAC, PIM_WR_SB, PIM_RD_RB;
};

// Level of a rule: of one bank, of a bank group, of the rank, and of the rank counted from the command itself.
enum RuleLevel { AT_BANK = 0, AT_GROUP = 1, AT_RANK = 2, FROM_COMMAND = 3 };

// After `event`, no `following` for `clocks`; with `window` > 1 counted from the window-th last event.
struct Rule {
    int32_t event, following, level, clocks, window;
};

// A field of a line of the window: its first bit, and its width.
struct FieldPlace {
    int32_t offset, width;
};

struct Region {
    int32_t base, size;
};

struct Config {
    Codes code;
    // records of the interface: a host command, a line that the host reads
    int32_t op_bytes, line_record_bytes;
    // DRAM and command engine
    int32_t banks, banks_per_group, columns, row_bits, line_bytes;
    int32_t interval, refresh_clocks, patience, split_bursts;
    int32_t margin_PREab, margin_MAC, margin_RD, margin_WR, margin_PREpb, margin_ACT, margin_WR_SB, margin_RD_RB;
    // delays
    int32_t write_clocks, read_clocks, operand_ready, score_wait, row_wait;
    // attention
    int32_t chips, head_dim, queries_at_once, queries_per_line, accesses_per_k, accesses_per_v, tokens_per_turn, row_lines, row_words;
    int32_t prob_slots, segment_rows, segment_tokens, dims_per_bank;
    // queues
    int32_t line_queue, host_queue, descriptor_queue, segments_ahead, query_pause, scores_per_sum, queries;
    // softmax, reducer, merge
    int32_t score_cycles, prob_cycles, sum_cycles, word_lines, stats_entries;
    int32_t reduce_cycles, merge_beats, weigh_cycles, merge_depth, normal_depth, reciprocal_cycles;
    // host port
    int32_t quiet_clocks, window_rows, first_row, control_bits, descriptor_bits;
    Region control, reads, query_region, outputs, statistics, slots;
    FieldPlace op, op_bank, op_row, op_column;
    FieldPlace k_row, v_row, tokens, last_query, query, output, scale, normalise, static_order;
    FieldPlace owner, busy, done, queued, refused, refusal;
    // DPA controller, if `num_slots` is not 0
    int32_t num_slots, slot_bits, program_words, num_registers, loop_depth, chunk_rows, directory_entries, leaf_entries;
    int32_t leaves, num_chunks, vrow_bits, max_tokens, watchdog, sweep, config_bits, max_pending;
    FieldPlace config_op, config_slot, config_index, config_value;
    FieldPlace request_program, request_length, request_tokens, request_first_entry, request_num_entries;
    FieldPlace request_last_query, request_normalise, request_static_order;
    FieldPlace directory_valid, directory_leaf, leaf_valid, leaf_chunk, owner_valid, owner_slot, owner_readable;
    FieldPlace slot_state, slot_pending, slot_tokens, slot_programs_done, slot_fault;
    FieldPlace dpa_queued, dpa_running, dpa_refused, dpa_refusal, dpa_programs, dpa_faults;
    // words of programs: bits of each opcode's operands, and where they are
    int32_t isa_width[16];
    FieldPlace END_advance, MOVI_rd, MOVI_imm, ADDI_rd, ADDI_rs, ADDI_imm, LOOP_kind, LOOP_count, LOOP_length;
    FieldPlace WR_INP_what, WR_INP_rs, WR_INP_stride, MAC_mode, MAC_rs, MAC_stride, RD_OUT_what, MERGE_rs, MERGE_stride;
    // rules of the command engine
    int32_t num_rules;
    Rule rules[MAX_RULES];
};
