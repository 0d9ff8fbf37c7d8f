"""What a simulation is told. Imports errors only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from datashunt.errors import UsageError


@dataclass(frozen=True, slots=True)
class Options:
    """How the simulated LLM answers, and how its endpoint behaves.

    Attributes:
        answers: file of id, text and label distribution (see `answers.read`).
        host: address to listen on. port: 0 takes a free one.
        accuracy: share of texts for which it says the most probable label of the file; for the others it
            takes another label for the most probable one.
        sample: say a label drawn from the distribution (temperature 1) instead of the most probable one.
        seed: another seed errs on, and draws for, other texts.
        latency_ms: time from a request to its reply; no thread and no CPU is used meanwhile.
        rpm: requests per window, None for no limit. tpm: prompt and completion tokens per window.
        window_s: length of the sliding window of both limits; 60 makes them limits per minute.
        logprobs: False behaves like servers that give none, whatever the request asks for.
        api_key: the only key that is let in; None lets any non-empty one in.

    Raises:
        UsageError: a value is out of its range.
    """

    answers: Path
    host: str = "127.0.0.1"
    port: int = 0
    accuracy: float = 1.0
    sample: bool = False
    seed: int = 0
    latency_ms: float = 0.0
    rpm: int | None = None
    tpm: int | None = None
    window_s: float = 60.0
    logprobs: bool = True
    api_key: SecretStr | None = None

    def __post_init__(self) -> None:
        for name, valid, expected in (
            ("port", 0 <= self.port <= 65535, "a number from 0 to 65535"),
            ("accuracy", 0.0 <= self.accuracy <= 1.0, "a fraction from 0 to 1"),
            ("latency_ms", 0.0 <= self.latency_ms < float("inf"), "milliseconds, 0 or more"),
            ("rpm", self.rpm is None or self.rpm >= 1, "at least 1 request"),
            ("tpm", self.tpm is None or self.tpm >= 1, "at least 1 token"),
            ("window_s", 0.0 < self.window_s < float("inf"), "seconds, more than 0"),
        ):
            if not valid:
                raise UsageError(f"{name} of the simulation: expected {expected}, found {getattr(self, name)}")
        if self.sample and self.accuracy < 1.0:
            raise UsageError(
                "sample and accuracy of the simulation exclude each other: a drawn label has no set accuracy"
            )
