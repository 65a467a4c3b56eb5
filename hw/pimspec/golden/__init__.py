"""Golden models, bit-exact: pure functions on integer bit patterns, one file for each hardware unit."""
