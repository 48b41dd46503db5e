"""What is computed: the language, types, nodes, planner and passes. Imports the standard library only."""
