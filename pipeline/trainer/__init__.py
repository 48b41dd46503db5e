"""Training: steps, their log and their checkpoints."""
