"""From a checkpoint and an image to what each skip let through."""
