"""Estimator: what a run will take, beforehand; nothing here needs a GPU, or the numbers of a model."""
