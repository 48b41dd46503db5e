"""Decoding: what a trained model writes, token by token, or thinks of every answer at once."""
