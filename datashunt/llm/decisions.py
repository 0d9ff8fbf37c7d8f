"""The Decisions API (`/decisions`): one choice question, and a probability for each option. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from datashunt.errors import LLMUnusable
from datashunt.llm.adapter import Adapter, Decided, Manner, decision_reply, probability_of
from datashunt.prompts import Prompt


def request_body(prompt: Prompt, model: str, _manner: Manner) -> dict[str, Any]:
    """The request for one prompt. What the data is stands before it, so that the prefix is always the same."""
    return {
        "model": model,
        "input": [
            {"role": "system", "content": f"The user message is {prompt.rules}"},
            {"role": "user", "content": prompt.data},
        ],
        "questions": [
            {
                "type": "choice",
                "name": "label",
                "instructions": prompt.instruction,
                "choices": [
                    {"value": label, "description": text} if text else {"value": label}
                    for label, text in prompt.descriptions.items()
                ],
            }
        ],
    }


def _decide(fields: Mapping[str, Any]) -> Decided:
    answers = fields.get("answers")
    if not isinstance(answers, list):
        raise LLMUnusable("the endpoint's reply is no decision", kind="invalid_body")
    if not answers or not isinstance(answers[0], dict):
        raise LLMUnusable("the endpoint's reply has no answers", kind="empty")
    answer = answers[0]
    if answer.get("type") == "refusal":
        raise LLMUnusable("the LLM refused to answer", kind="refusal")
    if not isinstance(answer.get("choice"), str):
        raise LLMUnusable("the endpoint's answer names no choice", kind="invalid_json")
    try:
        told = {entry["value"]: probability_of(entry["probability"]) for entry in answer.get("probabilities") or ()}
    except (KeyError, TypeError, ValueError):
        told = {}  # in no form that we know: as good as none
    return Decided(answer["choice"], told)


DECISIONS = Adapter("decisions", "/decisions", "answers", request_body, partial(decision_reply, _decide, "decisions"))
