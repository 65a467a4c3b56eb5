"""Host side: reference attention, models, GPUs, serving, and the driver of PIM devices."""
