"""Device ops: torch modules over flat streams of static shape."""
