"""Pictures of a graph: every view renders the one JSON that `graph.view` makes."""
