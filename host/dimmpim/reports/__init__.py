"""Reports, timelines and what commands print."""
