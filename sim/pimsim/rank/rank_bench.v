// What stands around a rank under cocotb: the cells behind its chips, and a bus driver that is given commands in
// batches and stops at the clock that it is told, so that Python need not wake in between. The module that joins them
// is generated (see rank_bench_top.py). Verilog 2005, for Icarus and Verilator.

// The cells of one bank: rows are given a place when first written; what was never written reads as ones.
module cell_array #(parameter ROW_BITS = 1, COLUMN_BITS = 1, ACCESS_BYTES = 1, ROWS_HELD = 1) (
    input clk, en, write,
    input [ROW_BITS-1:0] row,
    input [COLUMN_BITS-1:0] column,
    input [8*ACCESS_BYTES-1:0] data,
    input [ACCESS_BYTES-1:0] mask,
    output reg [8*ACCESS_BYTES-1:0] read_data,
    output reg full
);
    localparam COLUMNS = 1 << COLUMN_BITS;
    reg [15:0] place [0:(1<<ROW_BITS)-1];  // 0: never written
    reg [8*ACCESS_BYTES-1:0] cells [0:COLUMNS*(ROWS_HELD+1)-1];
    reg [8*ACCESS_BYTES-1:0] word;
    integer used, k;
    initial begin
        used = 0;
        full = 0;
        read_data = 0;
        for (k = 0; k < 1 << ROW_BITS; k = k + 1) place[k] = 0;
    end
    always @(posedge clk) if (en) begin
        if (!write) begin
            read_data <= place[row] ? cells[place[row]*COLUMNS+column] : {8*ACCESS_BYTES{1'b1}};
        end else if (!place[row] && used == ROWS_HELD) begin
            full <= 1;
        end else begin
            if (!place[row]) begin
                used = used + 1;
                place[row] = used;
                for (k = 0; k < COLUMNS; k = k + 1) cells[used*COLUMNS+k] = {8*ACCESS_BYTES{1'b1}};
            end
            word = cells[place[row]*COLUMNS+column];
            for (k = 0; k < ACCESS_BYTES; k = k + 1) if (!mask[k]) word[8*k +: 8] = data[8*k +: 8];
            cells[place[row]*COLUMNS+column] = word;
        end
    end
endmodule

// Clock, reset and the host's bus. A clock is counted in its middle, where all outputs of the rank have settled; then
// the commands to the chips, the lines for the host and what has finished are noted in the file rank_bus.log, `wake`
// changes if the time has come, and Python acts before the next clock begins.
module bus_driver #(
    parameter HOST_BITS = 1, LINE_BYTES = 1, WRITE_CLOCKS = 1, COMMAND_BITS = 1, BUS_BITS = 1, QUEUE_BITS = 1,
    parameter WR_CODE = 1, WRA_CODE = 1, SLOTS = 2, LATE_BITS = 1
) (
    output reg clk, rst,
    output reg [SLOTS-1:0] host_valid,
    output reg [SLOTS*HOST_BITS-1:0] host,
    output reg [8*LINE_BYTES-1:0] host_data,
    output reg [LINE_BYTES-1:0] host_mask,
    input host_out_valid,
    input [8*LINE_BYTES-1:0] host_out_data,
    input command_valid,
    input [COMMAND_BITS-1:0] command,
    input [SLOTS-2:0] late_valid,
    input [(SLOTS-1)*LATE_BITS-1:0] late,
    input bus_valid,
    input [BUS_BITS-1:0] bus,
    input rank_finished,
    input cells_full
);
    localparam OP_BITS = 40 + HOST_BITS + 9 * LINE_BYTES;
    // Given by Python: commands, each {mask, data, host, phase, wait}, and when to wake it.
    reg [OP_BITS-1:0] ops [0:(1<<QUEUE_BITS)-1] /*verilator public_flat_rw*/;
    reg [QUEUE_BITS:0] given /*verilator public_flat_rw*/;
    reg [QUEUE_BITS:0] wake_at_level /*verilator public_flat_rw*/;  // so few commands are left
    reg [31:0] wake_at_finished /*verilator public_flat_rw*/;
    reg [63:0] wake_at_clock /*verilator public_flat_rw*/;
    reg wake_at_host_done /*verilator public_flat_rw*/;
    // For Python.
    reg [63:0] clocks /*verilator public_flat_rw*/;
    reg [31:0] finished /*verilator public_flat_rw*/;
    reg [QUEUE_BITS:0] taken /*verilator public_flat_rw*/;
    reg lines_due /*verilator public_flat_rw*/;  // a line of a WR is still to be driven
    reg no_room /*verilator public_flat_rw*/;  // a row was written for which the cells have no place
    reg wake /*verilator public_flat_rw*/;

    reg [OP_BITS-1:0] op;
    reg [31:0] waited;
    reg [WRITE_CLOCKS-1:0] due;  // bit k: in k + 1 clocks a line is to be driven
    reg [9*LINE_BYTES-1:0] lines [0:WRITE_CLOCKS];
    reg started, more;
    reg [7:0] free;  // the first slot of the clock that may still be used
    integer log, k;
    wire [QUEUE_BITS:0] level = given - taken;
    function [QUEUE_BITS:0] level_now(input [QUEUE_BITS:0] all, input [QUEUE_BITS:0] gone);
        level_now = all - gone;
    endfunction

    initial begin
        clk = 0;
        rst = 1;
        host_valid = 0;
        host = 0;
        host_data = 0;
        host_mask = 0;
        given = 0;
        wake_at_level = 0;
        wake_at_finished = ~0;
        wake_at_clock = 0;
        wake_at_host_done = 0;
        clocks = 0;
        finished = 0;
        taken = 0;
        lines_due = 0;
        no_room = 0;
        wake = 0;
        waited = 0;
        due = 0;
        started = 0;
        for (k = 0; k <= WRITE_CLOCKS; k = k + 1) lines[k] = 0;
        log = $fopen("rank_bus.log", "w");
        #6 wake = 1;  // three clocks of four have begun: Python may act for the first time
    end

    always #1 clk = ~clk;

    // Drives the clock that begins.
    always @(posedge clk) if (wake || started) begin
        started <= 1;
        rst <= 0;
        host_valid <= 0;
        host <= 0;
        {host_mask, host_data} <= due[0] ? lines[0] : 0;
        for (k = 0; k < WRITE_CLOCKS; k = k + 1) lines[k] = lines[k+1];
        due = due >> 1;
        if (level != 0) begin
            op = ops[taken[QUEUE_BITS-1:0]];
            waited = waited + 1;
            more = $signed(waited) >= $signed(op[31:0]);
            free = 0;
            while (more) begin
                waited = 0;
                taken = taken + 1;
                host_valid[op[39:32]] <= 1;
                host[op[39:32]*HOST_BITS +: HOST_BITS] <= op[40 +: HOST_BITS];
                free = op[39:32] + 1;
                if ((op[40 +: 5] == WR_CODE || op[40 +: 5] == WRA_CODE) && !due[WRITE_CLOCKS-1]) begin
                    due[WRITE_CLOCKS-1] = 1;
                    lines[WRITE_CLOCKS-1] = op[40+HOST_BITS +: 9*LINE_BYTES];
                end
                op = ops[taken[QUEUE_BITS-1:0]];
                more = level_now(given, taken) != 0 && op[31:0] == 0 && op[39:32] >= free;
            end
        end
    end

    always @(negedge clk) if (started) begin
        if (command_valid) $fwrite(log, "C %0d %h\n", clocks, command);
        for (k = 0; k < SLOTS - 1; k = k + 1)
            if (late_valid[k]) $fwrite(log, "D%0d %0d %h\n", k + 1, clocks, late[k*LATE_BITS +: LATE_BITS]);
        if (bus_valid) $fwrite(log, "B %0d %h\n", clocks, bus);
        if (host_out_valid) $fwrite(log, "L %0d %h\n", clocks, host_out_data);
        if (rank_finished) begin
            finished = finished + 1;
            $fwrite(log, "F %0d 0\n", clocks);
        end
        clocks = clocks + 1;
        lines_due = due != 0;
        no_room = cells_full;
        if (clocks >= wake_at_clock || finished >= wake_at_finished || (wake_at_level != 0 && level <= wake_at_level)
            || (wake_at_host_done && level == 0 && !lines_due)) begin
            $fflush(log);
            wake = ~wake;
        end
    end
endmodule
