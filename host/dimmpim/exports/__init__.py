"""Files for other simulators."""
