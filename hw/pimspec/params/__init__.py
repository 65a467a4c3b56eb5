"""Parameters of every hardware unit, and the presets."""
