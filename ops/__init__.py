"""How each op computes: host ops on Arrow arrays, device ops as torch modules."""
