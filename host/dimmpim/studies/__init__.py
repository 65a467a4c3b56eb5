"""Studies: measurements that commands print."""
