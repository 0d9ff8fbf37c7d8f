"""`/v1/systemone`: typed questions about a state, as `transformers serve` answers them. Imports prompts, items.

Questions of the types `score` and `noul`, and images, are refused: a file of labels knows nothing of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from datashunt.items import Usage
from datashunt.prompts import count_tokens
from datashunt.simulator.belief import Said
from datashunt.simulator.bodies import Manner, item_in
from datashunt.simulator.decisions import confidence
from datashunt.simulator.messages import Refused, Response

MAX_QUESTIONS = 64


@dataclass(frozen=True, slots=True)
class SystemOne:
    """What a request asks. `names`: of the questions; `offers`: the criteria of each."""

    model: str
    item: str
    instructions: str
    said: str
    names: tuple[str, ...]
    offers: tuple[tuple[str, ...], ...]
    prompt_tokens: int
    max_tokens: None = None

    def reply(self, said: Sequence[Said], manner: Manner) -> Response:
        """The answers by name. No text is generated, and the model's name comes back as it was given."""
        usage = Usage(self.prompt_tokens, 0)
        answers = {name: _answer(one) for name, one in zip(self.names, said, strict=True)}
        body: dict[str, Any] = {"model": self.model, "answers": answers}
        if "usage" not in manner.without:
            body["usage"] = {"input_tokens": usage.prompt, "output_tokens": 0}
        return Response(200, body, billed=usage, model=self.model)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


_Content = str | dict[str, Any] | list[Any]


class _Question(_Strict):
    type: Literal["choice"]
    criteria: Annotated[dict[str, _Content | None], Field(min_length=1)]
    instructions: _Content | None = None


class _Body(_Strict):
    model: Annotated[str, Field(min_length=1)]
    state: _Content
    questions: Annotated[dict[str, _Question], Field(min_length=1, max_length=MAX_QUESTIONS)]


def read_systemone(document: bytes, manner: Manner) -> SystemOne:
    """Read the body of a systemone request.

    The state is the text of the item, or a JSON object (or the text of one) that has it as `item`.

    Raises:
        Refused: carrying a 422 whose `detail` lists what was wrong where; for too many criteria.
    """
    try:
        body = _Body.model_validate_json(document)
    except ValidationError as problem:
        found = problem.errors(include_input=False, include_url=False, include_context=False)
        detail = [{**one, "loc": ["body", *one["loc"]]} for one in found]
        raise Refused(Response(422, {"detail": detail})) from None
    for name, question in body.questions.items():
        if len(question.criteria) > manner.max_choices:
            found_number = f"Question {name!r}: at most {manner.max_choices} options, got {len(question.criteria)}"
            detail = [{"loc": ["body", "questions"], "msg": found_number, "type": "value_error"}]
            raise Refused(Response(422, {"detail": detail}))
    asked = [
        part
        for question in body.questions.values()
        for part in (_text(question.instructions), *(label + _text(says) for label, says in question.criteria.items()))
    ]
    state = _text(body.state)
    return SystemOne(
        model=body.model,
        item=item_in(state),
        instructions="\n".join(asked),
        said=state,
        names=tuple(body.questions),
        offers=tuple(tuple(question.criteria) for question in body.questions.values()),
        prompt_tokens=sum(map(count_tokens, (state, *asked))),
    )


def _text(content: _Content | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return json.dumps(content, ensure_ascii=False)


def _answer(said: Said) -> dict[str, Any]:
    return {
        "type": "choice",
        "choice": said.label,
        "confidence": confidence(list(said.probabilities.values())),
        "probabilities": dict(said.probabilities),
    }
