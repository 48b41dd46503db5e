"""The host half run: its ops on batches of rows, in this process and in others."""
