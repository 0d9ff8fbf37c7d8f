"""JSON bodies read into models; what does not fit is a 400 that names the parameter. Imports its siblings only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from datashunt.simulator.belief import Said
from datashunt.simulator.messages import Refused, Response, error

PREFIX = "simulation/"
"""Stands before every model name in a reply."""

TOKENS_PER_MESSAGE = 4
"""What a message costs beside its content."""

_M = TypeVar("_M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Manner:
    """How this server replies. `fingerprint`: of its answers; the others are those of `Options`."""

    fingerprint: str
    without: frozenset[str] = frozenset()
    max_choices: int = 255
    gullible: bool = False


class Asked(Protocol):
    """A request that asks the LLM about one item, in whichever protocol."""

    @property
    def model(self) -> str:
        """The model that is asked."""

    @property
    def item(self) -> str:
        """The item's text."""

    @property
    def instructions(self) -> str:
        """What was said by those whom it should obey."""

    @property
    def said(self) -> str:
        """The message about the item, whole."""

    @property
    def offers(self) -> Sequence[Sequence[str]]:
        """The labels offered, for each question about the item."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the request, by `datashunt.prompts.count_tokens`."""

    @property
    def max_tokens(self) -> int | None:
        """The reply is cut after so many; None for no limit."""

    def reply(self, said: Sequence[Said], manner: Manner) -> Response:
        """The paid reply that says this, one for each question."""


def item_in(text: str) -> str:
    """The `item` of the JSON object that the text is, or else the text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    item = value.get("item") if isinstance(value, dict) else None
    return item if isinstance(item, str) else text


def validated(model: type[_M], document: str | bytes, where: str, *, param: str | None = None) -> _M:
    """Read a JSON document.

    Raises:
        Refused: carrying a 400 that names `param`, or the place in the document.
    """
    try:
        return model.model_validate_json(document)
    except ValidationError as problem:
        first = problem.errors(include_input=False, include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        message = f"{where}: {path or 'document'}: {first['msg']}"
        raise Refused(error(400, message, param=param or path or None)) from None
