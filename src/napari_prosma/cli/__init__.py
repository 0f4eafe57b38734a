"""The same functions from a shell."""
