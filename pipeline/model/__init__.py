"""The device half as a program with parameters: how it is compiled, recorded and kept."""
