"""Answering: a trained model and the rows that it is asked about."""
