"""Reports, timelines and terminal output of commands."""
