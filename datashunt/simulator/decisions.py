"""Decisions: choice questions about one input, answered with a probability for each choice. Imports prompts, items.

Predicates and scores are refused: a file of labels knows nothing of them. Images are, too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StrictStr

from datashunt.items import Usage
from datashunt.prompts import count_tokens
from datashunt.simulator.belief import Said
from datashunt.simulator.bodies import PREFIX, TOKENS_PER_MESSAGE, Manner, item_in, validated
from datashunt.simulator.messages import Refused, Response, error

MAX_QUESTIONS = 400


@dataclass(frozen=True, slots=True)
class Decisions:
    """What a request asks. `names`: of the questions, None for one without; `offers`: the choices of each."""

    model: str
    item: str
    instructions: str
    said: str
    names: tuple[str | None, ...]
    offers: tuple[tuple[str, ...], ...]
    prompt_tokens: int
    max_tokens: None = None

    def reply(self, said: Sequence[Said], manner: Manner) -> Response:
        """The answers, in question order; each costs one token."""
        usage = Usage(self.prompt_tokens, len(said))
        body: dict[str, Any] = {
            "model": PREFIX + self.model,
            "answers": [_answer(name, one) for name, one in zip(self.names, said, strict=True)],
        }
        if "usage" not in manner.without:
            body["usage"] = {
                "input_tokens": usage.prompt,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": usage.completion,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.total,
            }
        return Response(200, body, billed=usage, model=self.model)


class _Text(BaseModel):
    type: Literal["input_text", "output_text"]
    text: str


class _Json(BaseModel):
    type: Literal["input_json"]
    data: dict[str, Any] | list[dict[str, Any]]


_Parts = str | list[Annotated[_Text | _Json, Field(discriminator="type")]]


class _Message(BaseModel):
    role: Literal["user", "developer", "system", "assistant"]
    content: _Parts
    type: Literal["message"] = "message"


class _Choice(BaseModel):
    value: StrictStr
    description: str = ""


class _Question(BaseModel):
    type: Literal["choice"]
    instructions: _Parts
    choices: Annotated[list[_Choice], Field(min_length=2)]
    name: str | None = None


class _Body(BaseModel):
    model: Annotated[str, Field(min_length=1)]
    input: str | Annotated[list[_Message], Field(min_length=1)]
    questions: Annotated[list[_Question], Field(min_length=1, max_length=MAX_QUESTIONS)]


def read_decisions(document: bytes, manner: Manner) -> Decisions:
    """Read the body of a Decisions request.

    The input, or the last message's content, is the text of the item, or one JSON object that has it as `item`.

    Raises:
        Refused: carrying a 400 that names the parameter and what was expected.
    """
    body = validated(_Body, document, "the body")
    messages = [body.input] if isinstance(body.input, str) else [_text(message.content) for message in body.input]
    offers = tuple(tuple(choice.value for choice in question.choices) for question in body.questions)
    for place, choices in enumerate(offers):
        _check(choices, f"questions.{place}.choices", manner.max_choices)
    asked = [
        part
        for question in body.questions
        for part in (_text(question.instructions), *(c.value + c.description for c in question.choices))
    ]
    return Decisions(
        model=body.model,
        item=item_in(messages[-1]),
        instructions="\n".join((*messages[:-1], *asked)),
        said=messages[-1],
        names=tuple(question.name for question in body.questions),
        offers=offers,
        prompt_tokens=sum(count_tokens(message) + TOKENS_PER_MESSAGE for message in messages)
        + sum(map(count_tokens, asked)),
    )


def confidence(probabilities: Sequence[float]) -> float:
    """How far the largest of n probabilities, sum 1, is on the way from 1/n to 1."""
    if len(probabilities) == 1:
        return 1.0
    even = 1 / len(probabilities)
    return max(0.0, (max(probabilities) - even) / (1 - even))


def _check(choices: Sequence[str], param: str, most: int) -> None:
    if len(choices) > most:
        raise Refused(error(400, f"{param}: expected at most {most} choices, found {len(choices)}", param=param))
    if len(set(choices)) < len(choices):
        raise Refused(error(400, f"{param}: expected each choice once", param=param))


def _text(content: _Parts) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(
        part.text if isinstance(part, _Text) else json.dumps(part.data, ensure_ascii=False) for part in content
    )


def _answer(name: str | None, said: Said) -> dict[str, Any]:
    return {
        "type": "choice",
        "name": name,
        "choice": said.label,
        "confidence": confidence(list(said.probabilities.values())),
        "probabilities": [{"value": label, "probability": p} for label, p in said.probabilities.items()],
    }
