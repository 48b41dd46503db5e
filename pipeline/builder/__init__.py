"""Building: what a plan computes once, into the columns of a store."""
