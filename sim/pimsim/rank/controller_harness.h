// A memory controller with a user port in front of a rank, with its DFI front end: part of rank_harness.cpp.
// What joins the ports is generated (see controlled.py): the macro CONTROLLER_TOP and the functions set_user, get_user,
// set_host_line and get_host. A clock of the controller is a rising edge; its outputs may depend on its inputs.
#include <cstdio>

// An operation on the user port: reads and writes in a row are pipelined, all else waits until they are done.
struct UserOp {
    int32_t kind, address, value, unused;
    uint8_t data[LINE_BYTES], mask[(LINE_BYTES + 7) / 8];
};
enum { USER_READ, USER_WRITE, USER_CSR, USER_WAIT };

struct UserSignals {
    bool command_valid, command_write, csr_write, command_ready, write_ready, read_valid;
    int32_t address, csr_address, csr_value;
    const UserOp* line;  // what is written
    uint8_t read_data[LINE_BYTES];
};

struct Controller {
    VerilatedContext context;
    CONTROLLER_TOP* top;
    std::deque<UserOp> ops, writes;  // writes: accepted, and their data are due
    std::deque<std::vector<uint8_t>> lines;
    int64_t reads = 0, waiting = 0;
    Controller() {
        context.randReset(2); context.randSeed(1);
        top = new CONTROLLER_TOP{&context};
        top->clk = 0; top->rst = 1; top->eval();
    }
    ~Controller() { top->final(); delete top; }
    bool idle() const { return ops.empty() && writes.empty() && !reads && !waiting; }
    // What the controller has on the host's bus in this clock; ends it.
    template <class Slots, class Line>
    void clock(bool reset, bool out_valid, const uint8_t* out_data, Slots& slots, Line& line) {
        UserSignals s{};
        const bool drained = writes.empty() && !reads;
        const UserOp* op = reset || ops.empty() || waiting ? nullptr : &ops.front();
        if (op && op->kind <= USER_WRITE) { s.command_valid = true; s.command_write = op->kind == USER_WRITE; s.address = op->address; }
        const bool csr = op && op->kind == USER_CSR && drained;
        if (csr) { s.csr_write = true; s.csr_address = op->address; s.csr_value = op->value; }
        const UserOp none{};
        s.line = writes.empty() ? &none : &writes.front();
        top->rst = reset;
        set_user(top, s);
        set_host_line(top, out_valid, out_data);
        top->clk = 0; top->eval();
        get_user(top, s);
        get_host(top, slots, line);
        if (waiting) --waiting;
        if (op && op->kind == USER_WAIT && drained) { waiting = op->value; ops.pop_front(); }
        if (csr) ops.pop_front();
        if (!reset && s.write_ready && !writes.empty()) writes.pop_front();
        if (!reset && s.read_valid) { lines.emplace_back(s.read_data, s.read_data + LINE_BYTES); --reads; }
        if (s.command_valid && s.command_ready) {
            if (s.command_write) writes.push_back(*op); else ++reads;
            ops.pop_front();
        }
        top->clk = 1; top->eval();
    }
};
