"""From cases to a checkpoint."""
