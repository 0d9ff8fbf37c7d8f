"""The System One API (`/systemone`), as `transformers serve` speaks it: typed questions about a state. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from datashunt.errors import LLMUnusable
from datashunt.llm.adapter import Adapter, Decided, Manner, decision_reply, probability_of
from datashunt.prompts import Prompt

_QUESTION = "label"


def request_body(prompt: Prompt, model: str, _manner: Manner) -> dict[str, Any]:
    """The request for one prompt. The questions come with the rules; the state is nothing but data."""
    return {
        "model": model,
        "questions": {
            _QUESTION: {
                "type": "choice",
                "instructions": f"{prompt.instruction}\n\nThe state is {prompt.rules}",
                "criteria": {label: text or None for label, text in prompt.descriptions.items()},
            }
        },
        "state": prompt.data,
    }


def _decide(fields: Mapping[str, Any]) -> Decided:
    answers = fields.get("answers")
    if not isinstance(answers, dict):
        raise LLMUnusable("the endpoint's reply is no decision", kind="invalid_body")
    answer = answers.get(_QUESTION)
    if not isinstance(answer, dict) or not isinstance(answer.get("choice"), str):
        raise LLMUnusable("the endpoint's reply has no choice", kind="empty")
    told = answer.get("probabilities")
    try:
        mass = {label: probability_of(p) for label, p in told.items()} if isinstance(told, dict) else {}
    except ValueError:
        mass = {}  # in no form that we know: as good as none
    return Decided(answer["choice"], mass)


SYSTEMONE = Adapter("systemone", "/systemone", "answers", request_body, partial(decision_reply, _decide, "systemone"))
