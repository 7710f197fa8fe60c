"""A run once more, from its lock, and whether it came out the same."""
