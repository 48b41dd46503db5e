"""Project files: what they may say, and what it means."""
