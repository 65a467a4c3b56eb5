"""Rank PU on the buffer chip: softmax, merge of partial results, byte re-layout."""
