"""The gates computed quickly, with the same numbers."""
