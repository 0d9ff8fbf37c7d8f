"""Mutated input, millions of times, at every place where something comes from outside: `make fuzz`."""
