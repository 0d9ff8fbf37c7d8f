"""The product's own decisions over a recorded stream: no broker, no database, no LLM."""
