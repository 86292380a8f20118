"""A faster model with the same function."""
