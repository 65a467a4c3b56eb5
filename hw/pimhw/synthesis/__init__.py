"""Area and path of generated Verilog: Yosys with a small generic cell library, or with a user's Liberty file."""
