"""Loading: from stored rows to the packs and batches that a model is given."""
