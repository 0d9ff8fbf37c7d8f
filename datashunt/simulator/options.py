"""What a simulation is told. Imports errors only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from datashunt.errors import UsageError

WITHOUT = {
    "chat": "no /v1/chat/completions",
    "decisions": "no /v1/decisions",
    "systemone": "no /v1/systemone",
    "batches": "no /v1/files and /v1/batches",
    "logprobs": "log-probabilities are asked for in vain",
    "response_format": "it is ignored: labels are those the prompt lists, the JSON comes in a code fence",
    "temperature": "refused with a 400",
    "max_tokens": "refused with a 400, as reasoning models do; max_completion_tokens is not",
    "usage": "replies do not tell their tokens; the ledger does",
    "fingerprint": "replies have no system_fingerprint",
    "limit_headers": "no x-ratelimit-* headers",
}
"""What a server may lack, and what then happens."""


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
        window_s: length of the sliding window of both limits, and of the ledger's peaks; 60 makes them
            limits per minute.
        api_key: the only key that is let in; None lets any non-empty one in.
        models: those it knows, None for any; others get a 404. decision_models: those of Decisions alone.
        max_choices: of one question of Decisions or systemone; more get an error.
        gullible: it obeys orders that stand anywhere but in the instructions and in what they announce as data
            (see `gullible.obeyed`).
        context_tokens: of prompt and reply together, None for no limit.
        faults: file of the faults it shows (see `faults.read`).
        without: what it lacks, names of WITHOUT.
        batch_delay_s: time a batch takes. batch_window_s: time after which it expires.

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
    api_key: SecretStr | None = None
    models: frozenset[str] | None = None
    decision_models: frozenset[str] | None = None
    max_choices: int = 255
    gullible: bool = False
    context_tokens: int | None = None
    faults: Path | None = None
    without: frozenset[str] = frozenset()
    batch_delay_s: float = 0.0
    batch_window_s: float = 86_400.0

    def __post_init__(self) -> None:
        unknown = sorted(self.without - WITHOUT.keys())
        for name, valid, expected in (
            ("port", 0 <= self.port <= 65535, "a number from 0 to 65535"),
            ("accuracy", 0.0 <= self.accuracy <= 1.0, "a fraction from 0 to 1"),
            ("latency_ms", 0.0 <= self.latency_ms < float("inf"), "milliseconds, 0 or more"),
            ("rpm", self.rpm is None or self.rpm >= 1, "at least 1 request"),
            ("tpm", self.tpm is None or self.tpm >= 1, "at least 1 token"),
            ("window_s", 0.0 < self.window_s < float("inf"), "seconds, more than 0"),
            ("max_choices", self.max_choices >= 2, "at least 2 choices"),
            ("context_tokens", self.context_tokens is None or self.context_tokens >= 1, "at least 1 token"),
            ("batch_delay_s", 0.0 <= self.batch_delay_s < float("inf"), "seconds, 0 or more"),
            ("batch_window_s", 0.0 < self.batch_window_s < float("inf"), "seconds, more than 0"),
            ("without", not unknown, f"names out of {', '.join(WITHOUT)}"),
        ):
            if not valid:
                found = ", ".join(unknown) if name == "without" else getattr(self, name)
                raise UsageError(f"{name} of the simulation: expected {expected}, found {found}")
        if self.sample and self.accuracy < 1.0:
            raise UsageError(
                "sample and accuracy of the simulation exclude each other: a drawn label has no set accuracy"
            )
