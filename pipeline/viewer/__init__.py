"""Looking: what was planned, what it made of rows, and why something is not there."""
