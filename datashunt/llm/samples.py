"""Several answers to one question made into one, where the LLM gives no probabilities. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from datashunt.classifier import NONE_OF_THESE
from datashunt.items import ProbabilitySource, Reply
from datashunt.prompts import Prompt, over_candidates


def decided(reply: Reply, earlier: Sequence[str], wanted: int, prompt: Prompt) -> Reply | None:
    """The answer that a reply completes, or None while samples are missing.

    The label is what most samples say (the first said of several), the probabilities are the shares of the
    samples, scaled to the candidates. A reply with probabilities of its own needs no samples: its label is then
    the most probable, for it may have been drawn at random.

    Args:
        reply: the newest.
        earlier: samples that other requests for the same question brought.
        wanted: how many make an answer; 1: any reply is one.
        prompt: the question.
    """
    if wanted < 2:
        return reply
    if reply.probabilities is not None:
        return replace(reply, label=max(reply.probabilities, key=reply.probabilities.__getitem__), votes=())
    votes = (*earlier, *reply.votes)
    if len(votes) < wanted:
        return None
    counts = Counter(votes)
    label = max(counts, key=counts.__getitem__)
    if label == NONE_OF_THESE:
        return replace(reply, label=label)
    shares = over_candidates(counts, prompt)
    return replace(reply, label=label, probabilities=shares, source=ProbabilitySource.SAMPLES)
