"""Attention: shapes, placement of K and V, cost of mappings."""
