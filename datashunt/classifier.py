"""A classifier: the problem a user declares in a YAML file, validated. Imports policy and errors.

A file needs `name`, `labels` and `instruction`; everything else has a default. Any change makes another
`spec_hash`; the store gives each hash a version number. Changed labels make another `labels_hash`, and
retire the bundles of the old one.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from datashunt.errors import SpecError
from datashunt.policy import FixedPolicy, Fraction, Part, PerMinute, Policy, Price, Real, TargetPolicy, Whole

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
NONE_OF_THESE = "none of these"
"""What the LLM may say when hard pruning took the right label away; no label may be called so."""


MAX_CHOICES = 255
"""Most options that a question of the Decisions API may have."""
Api = Literal["auto", "chat", "decisions", "systemone"]
Batching = Literal["auto", "off", "only"]
Secret = Literal["email", "phone", "card", "iban"]
A_YEAR_S = 31_536_000.0
_BATCHED = ("auto", "chat")


class SmallModelSpec(Part):
    """`base`: hub id, folder, or `auto` for the packaged encoder. `max_tokens`: longer texts are cut."""

    base: Annotated[str, Field(min_length=1)] = "auto"
    max_tokens: Annotated[Whole, Field(ge=8, le=8192)] = 128


class LLMSpec(Part):
    """Which LLM, at which price (USD per million tokens) and limits (per minute, all workers together).

    `models`: in place of `model`, the LLM and those asked in its stead when it is out of order or refuses an item.
    `api`: which of the endpoint's APIs is asked; `auto` finds out. `option_ids`: in chat, labels are answered by ids of
    one token each. `samples`: how often a server that gives no probabilities is asked about one item. `redact`: what is
    taken out of a text before it is sent; `phone_region`: the country (ISO 3166, two letters) whose numbers may stand
    without a country code. `concurrency`: requests at the same time. `weight`: share of a limit among classifiers that
    wait for it. `batch`: which asks go through the Batches API: those whose deadline is further away than
    `batch_window_s` seconds (`auto`), none or all. `batch_discount`: what part of the price of a live call is saved
    there.
    """

    model: Annotated[str, Field(min_length=1)] = "gpt-4.1-mini"
    models: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(max_length=8)] = ()
    api: Api = "auto"
    option_ids: bool = False
    samples: Annotated[Whole, Field(ge=1, le=20)] = 1
    redact: tuple[Secret, ...] = ()
    phone_region: Annotated[str, Field(pattern="^[A-Z]{2}$")] | None = None
    input_price: Price | None = None
    cached_price: Price | None = None
    output_price: Price | None = None
    rpm: PerMinute | None = None
    tpm: PerMinute | None = None
    concurrency: Annotated[Whole, Field(ge=1, le=1_000_000)] | None = None
    weight: Annotated[Real, Field(ge=0.001, le=1000.0)] = 1.0
    batch: Batching = "auto"
    batch_window_s: Annotated[Real, Field(gt=0, le=A_YEAR_S)] = 90_000.0
    batch_discount: Fraction = 0.5

    @model_validator(mode="before")
    @classmethod
    def _first_of_the_list(cls, value: Any) -> Any:
        """`model` is the first of `models` where these are given."""
        if not isinstance(value, dict) or not isinstance(value.get("models"), list | tuple) or not value["models"]:
            return value
        names = value["models"]
        if value.get("model", names[0]) != names[0]:
            raise ValueError("expected either model or models")
        if len(set(map(str, names))) < len(names):
            raise ValueError("models: expected each model once")
        return {**value, "model": names[0]}

    @property
    def all_models(self) -> tuple[str, ...]:
        """The LLM, then its fallbacks in order."""
        return self.models or (self.model,)

    @field_validator("batch", mode="before")
    @classmethod
    def _yaml_off_is_false(cls, value: object) -> object:
        return "off" if value is False else value

    @model_validator(mode="after")
    def _batches_are_chat(self) -> LLMSpec:
        if self.batch == "only" and self.api not in _BATCHED:
            raise ValueError(f"expected api chat or auto beside batch: only, found {self.api}: batches ask by chat")
        return self

    @property
    def batch_beyond_s(self) -> float | None:
        """An ask whose deadline is more seconds away than this goes into a batch; below 0: all do, None: none does."""
        if self.batch == "off" or self.api not in _BATCHED:
            return None
        return -1.0 if self.batch == "only" else self.batch_window_s

    @model_validator(mode="after")
    def _prices_together(self) -> LLMSpec:
        if (self.input_price is None) != (self.output_price is None):
            raise ValueError("expected both input_price and output_price, or neither")
        if self.cached_price is not None and self.input_price is None:
            raise ValueError("expected input_price and output_price beside cached_price")
        return self

    @model_validator(mode="after")
    def _phones_of_a_region(self) -> LLMSpec:
        if self.phone_region is not None and "phone" not in self.redact:
            raise ValueError("expected phone in redact beside phone_region, which says how to find phone numbers")
        return self

    @field_validator("redact")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(value)))


class PromptSpec(Part):
    """Prompt pruning: `hard` offers fewer labels, `soft` tells the small model's probabilities.

    `coverage`: how often the label that the LLM would give among all labels must still be offered by `hard`.
    """

    pruning: Literal["off", "soft", "hard", "both"] = "off"
    coverage: Annotated[Real, Field(gt=0.0, lt=1.0)] = 0.99

    @field_validator("pruning", mode="before")
    @classmethod
    def _yaml_off_is_false(cls, value: object) -> object:
        return "off" if value is False else value

    @property
    def hard(self) -> bool:
        """Whether fewer labels may be offered."""
        return self.pruning in {"hard", "both"}

    @property
    def soft(self) -> bool:
        """Whether the LLM is told the small model's probabilities."""
        return self.pruning in {"soft", "both"}


class DistilSpec(Part):
    """A distillation is due `every_s` seconds at most, and only with `min_new_answers` to learn from.

    `max_answers`: most answers that one distillation trains on; it bounds its time and memory.
    """

    every_s: Annotated[Real, Field(gt=0, le=A_YEAR_S)] = 300.0
    min_new_answers: Annotated[Whole, Field(ge=1, le=1_000_000_000)] = 200
    max_answers: Annotated[Whole, Field(ge=10, le=1_000_000_000)] = 20_000


class Spec(Part):
    """One classification problem.

    Attributes:
        labels: name → description (may be empty), in the file's order; probabilities are stored in it.
    """

    name: str
    labels: dict[str, str]
    instruction: Annotated[str, Field(min_length=1)]
    small_model: SmallModelSpec = SmallModelSpec()
    policy: Policy = FixedPolicy()
    llm: LLMSpec = LLMSpec()
    prompt: PromptSpec = PromptSpec()
    distil: DistilSpec = DistilSpec()

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError("expected lower-case letters, digits, - and _, at most 63, a letter or digit first")
        return value

    @field_validator("instruction")
    @classmethod
    def _some_instruction(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("expected what the LLM shall do, in words")
        return value.strip()

    @field_validator("labels", mode="before")
    @classmethod
    def _names_to_descriptions(cls, value: object) -> object:
        if isinstance(value, list):
            return _labels_of_list(value)
        if isinstance(value, dict):
            named = _labels_of_list(list(value))
            return {name: "" if text is None else text for name, text in zip(named, value.values(), strict=True)}
        raise ValueError("expected a list of label names, or a mapping of name to description")

    @field_validator("labels")
    @classmethod
    def _usable_labels(cls, value: dict[str, str]) -> dict[str, str]:
        if len(value) < 2:
            raise ValueError(f"expected at least two labels, found {len(value)}")
        if NONE_OF_THESE in {name.strip().lower() for name in value}:
            raise ValueError(f"{NONE_OF_THESE!r} is reserved for pruned prompts")
        return value

    @model_validator(mode="after")
    def _labels_for_the_api(self) -> Spec:
        if self.llm.api == "decisions" and len(self.labels) > MAX_CHOICES:
            raise ValueError(f"llm.api: decisions takes at most {MAX_CHOICES} labels, found {len(self.labels)}")
        return self

    @model_validator(mode="after")
    def _targets_of_its_labels(self) -> Spec:
        if not isinstance(self.policy, TargetPolicy):
            return self
        for name in self.policy.labels:
            if name not in self.labels:
                raise ValueError(f"policy.labels names {name!r}, which is no label of this classifier")
        if set(self.policy.always_ask) == set(self.labels):
            raise ValueError("policy.labels: every label is always asked, so that nothing could be kept")
        return self

    @property
    def promise(self) -> dict[str, Any] | None:
        """What is promised, as JSON values; None: nothing. Another promise needs another proof.

        A promise of all items rests on how they are asked, too.
        """
        if not isinstance(self.policy, TargetPolicy):
            return None
        if self.policy.of == "kept":
            return self.policy.promise
        asked = {"models": list(self.llm.all_models), **self.prompt.model_dump(mode="json")}
        return {**self.policy.promise, "asked": asked}

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels in order; index i of every stored probability vector speaks of label i."""
        return tuple(self.labels)

    @property
    def meanings(self) -> tuple[str, ...]:
        """For each label a text about it: the small model reads it before there are answers. The name comes first."""
        about = ((name.replace("_", " "), description) for name, description in self.labels.items())
        return tuple(" ".join(f"{name}: {described} {self.instruction}".split()) for name, described in about)

    @property
    def labels_hash(self) -> str:
        """Changes when a label is added, removed, renamed or moved; not with a description."""
        return digest(list(self.labels))

    @property
    def spec_hash(self) -> str:
        """Changes with anything in the file that changes the problem, its policy or its models."""
        return digest(self.document())

    def document(self) -> dict[str, Any]:
        """The whole spec, defaults filled in, as JSON values; labels as pairs, since JSON objects lose order."""
        document = self.model_dump(mode="json")
        document["labels"] = [[name, text] for name, text in self.labels.items()]
        return document


def _label_name(name: object) -> str:
    if isinstance(name, bool):
        raise ValueError(f"found {str(name).lower()}, which YAML reads as a truth value: put quotes around it")
    if not isinstance(name, (str, int)):
        raise ValueError(f"found {name!r}, which YAML does not read as text: put quotes around it")
    text = str(name)
    if not text.strip() or text != text.strip() or not text.isprintable():
        raise ValueError(f"label {text!r}: expected printable text without white space around it")
    if len(text) > 200:
        raise ValueError(f"label {text[:40]!r}…: expected at most 200 characters, found {len(text)}")
    return text


def _labels_of_list(names: list[object]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for entry in names:
        if isinstance(entry, (dict, list)):
            raise ValueError(f"found {entry!r} in a list of labels: write them as name: description")
        key = _label_name(entry)
        if key in labels:
            raise ValueError(f"label {key!r} stands twice")
        labels[key] = ""
    return labels


def digest(value: object) -> str:
    """First 16 hex digits of the SHA-256 of a JSON value, keys sorted."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def parse(document: object, *, where: str = "classifier") -> Spec:
    """Validate a decoded document.

    Raises:
        SpecError: naming `where`, the field, what was found and what was expected.
    """
    if not isinstance(document, dict):
        raise SpecError(f"{where}: expected fields such as name, labels and instruction, found {_short(document)}")
    try:
        spec = Spec.model_validate(document)
    except ValidationError as error:
        problems = "; ".join(_problem(item) for item in error.errors(include_url=False))
        raise SpecError(f"{where}: {problems}") from None
    if not _storable(spec):
        raise SpecError(f"{where}: holds a NUL or a lone surrogate, which no database takes as text: remove it")
    return spec


def _storable(spec: Spec) -> bool:
    try:
        text = json.dumps(spec.document(), ensure_ascii=False).encode().decode()
    except UnicodeEncodeError:
        return False
    return "\0" not in "".join(_strings(json.loads(text)))


def _strings(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in _strings(part)]
    if isinstance(value, list):
        return [text for part in value for text in _strings(part)]
    return [value] if isinstance(value, str) else []


def load(path: Path) -> Spec:
    """Read a classifier file.

    Raises:
        SpecError: the file cannot be read, is no YAML, or declares no valid classifier.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: cannot be read: {error}") from None
    try:
        document = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader that also refuses double keys
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"{path}: is no YAML: {' '.join(str(error).split())}") from None
    return parse(document, where=str(path))


class _UniqueKeys(yaml.SafeLoader):
    """YAML lets a later key replace an earlier one in silence; a label written twice must be an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (str, int, float, bool)) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", key_node.start_mark)
            seen.add(key if isinstance(key, (str, int, float, bool)) else id(key_node))
        return super().construct_mapping(node, deep)


def _problem(item: Any) -> str:
    where = list(item["loc"])
    if where[:1] == ["policy"]:
        del where[1:2]  # pydantic names the mode whose fields it read
    field = ".".join(map(str, where)) or "document"
    if item["type"] == "union_tag_invalid":
        modes, found = item["ctx"]["expected_tags"].replace(", ", " or "), item["ctx"]["tag"]
        return f"{field}.mode: expected {modes} (found {found!r})"
    message = str(item["msg"])
    for noise in ("Value error, ", "Input should be ", "String should have "):
        message = message.removeprefix(noise)
    if item["type"] == "missing":
        return f"{field}: missing, and required"
    if item["type"] == "extra_forbidden":
        return f"{field}: there is no such field (found {_short(item['input'])})"
    if item["type"] == "model_type":  # pydantic would name our class
        message = "fields, as in a mapping"
    if item["type"] != "value_error":
        message = f"expected {message}"
    return f"{field}: {message} (found {_short(item['input'])})"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
