"""cocotb benches, run inside a simulator by :mod:`pimsim.cocotb_run`."""
