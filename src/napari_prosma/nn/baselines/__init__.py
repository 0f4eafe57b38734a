"""The networks that ours is compared with, each from its paper's description.."""
