"""The list of suspicious labels."""
