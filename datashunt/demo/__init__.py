"""The demo: real sentences, real processes, a simulated LLM. Nothing but the package registry is reached."""

from datashunt.demo.run import Options, run

__all__ = ["Options", "run"]
