"""What the panels have in common."""
