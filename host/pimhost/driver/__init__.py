"""Host driver of a rank."""
