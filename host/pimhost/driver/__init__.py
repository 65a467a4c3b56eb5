"""The host's driver of a rank."""
