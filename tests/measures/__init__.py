"""How well the tests test: what they run (`make coverage`), and what they notice (`make mutation`)."""
