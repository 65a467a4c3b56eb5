// pimhw.host_side.host_commands: the commands of the host's bus, each done, passed on, or refused.
#pragma once
#include "contract.h"
#include "parts.h"

constexpr int MAX_LINE = 256, MAX_SLOTS = 8;

struct HostOp {
    int32_t wait, code, bank, row, column, phase;
    uint8_t data[MAX_LINE], mask[MAX_LINE / 8];
};

// Commands of a clock, by CK.
struct HostSlots {
    HostOp ops[MAX_SLOTS];
    int count = 0;
};

inline bool is_read(int32_t code) { return code == CMD_RD || code == CMD_RDA; }
inline bool is_write(int32_t code) { return code == CMD_WR || code == CMD_WRA; }
inline bool is_column(int32_t code) { return is_read(code) || is_write(code); }
inline bool is_precharge(int32_t code) { return code == CMD_PREpb || code == CMD_PREab; }
inline bool is_banked(int32_t code) { return is_column(code) || code == CMD_ACT || code == CMD_PREpb; }

// RTL: pimhw.host_side.host_commands.HostCommands.
struct HostCommands {
    const Config& c;
    int32_t open_rows[MAX_BANKS] = {};
    Mask opened = 0, data_open = 0;
    enum { ACTIVE, POWER_DOWN, SELF_REFRESH } state = ACTIVE;
    uint32_t modes[7] = {};
    bool refreshed = false;
    struct Command { int32_t code, bank, row, column, phase; };
    Command direct[MAX_SLOTS];
    int num_direct = 0;
    struct Column { bool read = false, write = false, is_open = false, direct = false, owned = false; int32_t bank = 0, row = 0, column = 0; } column;
    // signals of a clock
    struct Now { bool writing, in_use; int refused, refusal; bool accepted[MAX_SLOTS]; } now{};

    explicit HostCommands(const Config& config) : c(config) {}
    bool in_window(int32_t row) const {
        const int bits = clog2(c.window_rows);
        return row >> bits == (1 << (c.row_bits - bits)) - 1;
    }
    bool still() const { return !num_direct && !column.read && !column.write && !refreshed; }

    static bool meets(const HostOp& a, const HostOp& b) {
        if (a.code == CMD_NOP || b.code == CMD_NOP) return false;
        if (is_precharge(a.code) && is_precharge(b.code)) return false;
        if (!is_banked(a.code) || !is_banked(b.code)) return true;
        return a.bank == b.bank || (is_column(a.code) && is_column(b.code));
    }
    int reason(const HostSlots& slots, int k, bool owner) const {
        const HostOp& op = slots.ops[k];
        const int32_t code = op.code;
        const bool all_closed = code == CMD_REFab || code == CMD_MRS || code == CMD_ZQCS || code == CMD_ZQCL || code == CMD_SRE;
        if (!all_closed && !is_banked(code) && code != CMD_PREab && code != CMD_NOP && code != CMD_SRX && code != CMD_PDE && code != CMD_PDX)
            return REFUSE_UNKNOWN;
        if (is_banked(code) && op.bank >= c.banks) return REFUSE_UNKNOWN;
        for (int j = 0; j < k; ++j)
            if (meets(op, slots.ops[j])) return REFUSE_CONFLICT;
        if (code == CMD_SRX) { if (state != SELF_REFRESH) return REFUSE_POWER; }
        else if (code == CMD_PDX) { if (state != POWER_DOWN) return REFUSE_POWER; }
        else if (state != ACTIVE && code != CMD_NOP) return REFUSE_POWER;
        if (owner && ((all_closed && code != CMD_REFab) || code == CMD_PDE)) return REFUSE_OWNED;
        if (code == CMD_ACT && opened >> op.bank & 1) return REFUSE_ROW_OPEN;
        if (all_closed && opened) return REFUSE_ROW_OPEN;
        return REFUSE_NONE;
    }
    void decide(const HostSlots& slots, bool owner) {
        now = Now{};
        now.in_use = data_open || state != ACTIVE;
        for (int k = 0; k < slots.count; ++k) {
            const HostOp& op = slots.ops[k];
            now.writing |= is_write(op.code);
            const int why = reason(slots, k, owner);
            if (why) { ++now.refused; now.refusal = why; continue; }
            now.accepted[k] = true;
            now.in_use |= (op.code == CMD_ACT && !in_window(op.row) && !owner) || op.code == CMD_PDE || op.code == CMD_SRE;
        }
    }
    // The column command stays as it is, but for its flags, while there is none.
    void tick(const HostSlots& slots, bool owner) {
        num_direct = 0;
        refreshed = column.read = column.write = false;
        const Mask opened_before = opened, data_before = data_open;
        int32_t at = 0, column_at = 0;
        for (int k = 0; k < slots.count; ++k) {
            if (!now.accepted[k]) continue;
            const HostOp& op = slots.ops[k];
            const Mask here = is_banked(op.code) ? bit(op.bank) : 0;
            bool forward = op.code != CMD_NOP;
            if (op.code == CMD_ACT) forward = !in_window(op.row);
            if (is_column(op.code)) {
                forward = (data_before & here) != 0;
                column.read = is_read(op.code);
                column.write = is_write(op.code);
                at = op.bank;
                column_at = op.column;
            }
            if (forward && !owner) direct[num_direct++] = Command{op.code, op.bank, op.row, op.column, op.phase};
            refreshed |= op.code == CMD_REFab && owner;
            switch (op.code) {
                case CMD_ACT:
                    opened |= here;
                    data_open = !in_window(op.row) && !owner ? data_open | here : data_open & ~here;
                    break;
                case CMD_PREpb: case CMD_RDA: case CMD_WRA: opened &= ~here; data_open &= ~here; break;
                case CMD_PREab: opened = data_open = 0; break;
                case CMD_PDE: state = POWER_DOWN; break;
                case CMD_SRE: state = SELF_REFRESH; break;
                case CMD_PDX: case CMD_SRX: state = ACTIVE; break;
                case CMD_MRS: if (op.bank < 7) modes[op.bank] = uint32_t(op.row); break;
                default: break;
            }
        }
        column.is_open = opened_before >> at & 1;
        column.direct = (data_before >> at & 1) && !owner;
        column.owned = owner;
        column.bank = at;
        column.row = open_rows[at];
        column.column = column_at;
        for (int k = 0; k < slots.count; ++k)
            if (now.accepted[k] && slots.ops[k].code == CMD_ACT) open_rows[slots.ops[k].bank] = slots.ops[k].row;
    }
};
