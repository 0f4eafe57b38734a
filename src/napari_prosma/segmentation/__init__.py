"""From a checkpoint and an image to labels."""
