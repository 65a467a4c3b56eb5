"""The host side: reference attention and everything that asks a PIM device for work."""
