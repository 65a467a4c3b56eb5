"""Hardware: Amaranth components that become Verilog."""
