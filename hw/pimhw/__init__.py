"""The hardware: Amaranth components that become Verilog."""
