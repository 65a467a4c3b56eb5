"""Delivery of a rank: the Verilog and what a flow needs beside it."""
