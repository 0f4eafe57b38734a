"""What panels and shell do alike."""
