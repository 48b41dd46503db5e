"""Plans: from what a person writes to a graph that can be built, trained and asked."""
