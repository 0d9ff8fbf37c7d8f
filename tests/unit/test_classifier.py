"""Classifier files: what is taken, what is refused and how it is said, and what counts as a change."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datashunt.classifier import Spec, digest, load, parse
from datashunt.day import day_at
from datashunt.errors import SpecError
from datashunt.policy import BudgetPolicy, TargetPolicy
from datashunt.store.classifiers import stored_document

SMALLEST: dict[str, Any] = {"name": "mood", "labels": ["bad", "good"], "instruction": "Say the mood."}


def of(**changes: Any) -> Spec:
    return parse({**SMALLEST, **changes})


def file(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "mood.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_file_needs_name_labels_and_instruction_only() -> None:
    spec = of()
    assert spec.labels == {"bad": "", "good": ""}
    assert (spec.policy.mode, spec.policy.threshold, spec.policy.audit_rate) == ("fixed", 0.9, 0.05)
    assert spec.prompt.coverage == 0.99
    assert (spec.prompt.pruning, spec.small_model.base, spec.llm.api) == ("off", "auto", "auto")


def test_a_budget_is_so_many_usd_or_calls_a_day() -> None:
    money = of(policy={"mode": "budget", "usd_per_day": "2.50"}).policy
    assert isinstance(money, BudgetPolicy)
    assert (money.unit, money.per_day, money.timezone, money.at_cap) == ("usd", Decimal("2.50"), "UTC", "keep")
    calls = of(policy={"mode": "budget", "calls_per_day": 300, "timezone": "Europe/Berlin", "at_cap": "hold"}).policy
    assert isinstance(calls, BudgetPolicy)
    assert (calls.unit, calls.per_day) == ("calls", 300)


BUDGET = {"mode": "budget", "calls_per_day": 5}


TARGET = {"mode": "target", "alpha": 0.05}


def test_a_target_has_defaults_and_says_what_is_promised() -> None:
    policy = of(policy=TARGET).policy
    assert isinstance(policy, TargetPolicy)
    assert (policy.delta, policy.of, policy.on_uncertified, policy.audit_rate) == (0.1, "kept", "ask", 0.05)
    assert policy.promise == {"alpha": 0.05, "delta": 0.1, "of": "kept", "labels": {}}


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"mode": "target"}, "policy.alpha: missing, and required"),
        ({**TARGET, "alpha": 0}, "policy.alpha: expected greater than 0 (found 0)"),
        ({**TARGET, "alpha": 1}, "policy.alpha: expected less than 1 (found 1)"),
        ({**TARGET, "delta": 1.0}, "policy.delta: expected less than 1 (found 1.0)"),
        ({**TARGET, "delta": float("nan")}, "policy.delta: "),
        ({**TARGET, "of": "some"}, "policy.of: expected 'kept' or 'all' (found 'some')"),
        ({**TARGET, "audit_rate": 0.001}, "policy.audit_rate: expected greater than or equal to 0.005 (found 0.001)"),
        ({**TARGET, "on_uncertified": "drop"}, "policy.on_uncertified: expected 'ask', 'keep' or 'hold'"),
        ({**TARGET, "labels": {"nobody": {"alpha": 0.1}}}, "policy.labels names 'nobody', which is no label"),
        ({**TARGET, "labels": {"bad": {}}}, "policy.labels.bad: expected alpha, min_recall or always_ask: true"),
        ({**TARGET, "labels": {"bad": {"min_recall": 1}}}, "policy.labels.bad.min_recall: expected less than 1"),
        ({**TARGET, "usd_per_day": 1}, "policy.usd_per_day: there is no such field"),
    ],
)
def test_a_wrong_target_is_refused_with_a_sentence(policy: Any, said: str) -> None:
    with pytest.raises(SpecError, match=re.escape(said)):
        of(policy=policy)


def test_labels_that_are_all_asked_would_keep_nothing() -> None:
    every = {name: {"always_ask": True} for name in of().label_names}
    with pytest.raises(SpecError, match="every label is always asked"):
        of(policy={**TARGET, "labels": every})


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"mode": "budget"}, "policy: expected one of usd_per_day and calls_per_day, found neither"),
        ({**BUDGET, "usd_per_day": 1}, "policy: expected one of usd_per_day and calls_per_day, found both"),
        ({"mode": "budget", "calls_per_day": 0}, "policy.calls_per_day: expected more than 0: without money"),
        ({"mode": "budget", "usd_per_day": "0.0"}, "policy.usd_per_day: expected more than 0: without money"),
        ({"mode": "budget", "usd_per_day": "1e-12"}, "policy.usd_per_day: expected more than 0"),
        ({"mode": "budget", "usd_per_day": -1}, "policy.usd_per_day: expected greater than or equal to 0 (found -1)"),
        ({"mode": "budget", "usd_per_day": True}, "policy.usd_per_day: expected a number"),
        ({**BUDGET, "timezone": "Mars/Olympus"}, "policy.timezone: expected the IANA name of a time zone, such as UTC"),
        ({**BUDGET, "timezone": "America"}, "policy.timezone: expected the IANA name"),
        ({**BUDGET, "timezone": "../UTC"}, "policy.timezone: expected the IANA name"),
        ({**BUDGET, "timezone": ""}, "policy.timezone: expected the IANA name"),
        ({**BUDGET, "at_cap": "drop"}, "policy.at_cap: expected 'keep', 'hold' or 'wait' (found 'drop')"),
        ({**BUDGET, "alpha": 0.1}, "policy.alpha: there is no such field (found 0.1)"),
        ({"calls_per_day": 5}, "policy.calls_per_day: there is no such field (found 5)"),
        ({"mode": 3}, "policy.mode: expected 'fixed' or 'budget' or 'target' (found '3')"),
        (None, "policy: expected fields, as in a mapping (found None)"),
    ],
)
def test_a_wrong_budget_is_refused_with_a_sentence(policy: Any, said: str) -> None:
    with pytest.raises(SpecError) as refused:
        of(policy=policy)
    assert said in str(refused.value)


@given(st.text(max_size=30))
def test_any_time_zone_is_known_or_refused(name: str) -> None:
    try:
        policy = of(policy={**BUDGET, "timezone": name}).policy
    except SpecError as error:
        assert str(error).startswith("classifier: policy.timezone: ")  # noqa: PT017
    else:
        assert isinstance(policy, BudgetPolicy)
        day_at(datetime(2025, 6, 1, tzinfo=UTC), policy.timezone)


@pytest.mark.parametrize("field", ["name", "labels", "instruction"])
def test_a_missing_field_is_named(field: str) -> None:
    with pytest.raises(SpecError, match=f"^classifier: {field}: missing, and required$"):
        parse({name: value for name, value in SMALLEST.items() if name != field})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "My Tickets"}, "name: expected lower-case letters"),
        ({"name": "a" * 64}, "name: expected lower-case letters"),
        ({"name": 7}, "name: expected a valid string (found 7)"),
        ({"labels": ["only"]}, "labels: expected at least two labels, found 1"),
        ({"labels": "bad, good"}, "labels: expected a list of label names, or a mapping"),
        ({"labels": ["bad", "bad"]}, "labels: label 'bad' stands twice"),
        ({"labels": {1: "one", "1": "another"}}, "labels: label '1' stands twice"),
        ({"labels": ["bad", " good"]}, "labels: label ' good': expected printable text"),
        ({"labels": ["bad", ""]}, "labels: label '': expected printable text"),
        ({"labels": ["bad", "go\nod"]}, "expected printable text"),
        ({"labels": ["bad", "g" * 201]}, "expected at most 200 characters, found 201"),
        ({"labels": ["bad", {"good": "text"}]}, "write them as name: description"),
        ({"labels": ["bad", "None of These"]}, "'none of these' is reserved"),
        ({"labels": [True, False]}, "found true, which YAML reads as a truth value"),
        ({"labels": ["bad", None]}, "found None, which YAML does not read as text"),
        ({"labels": ["bad", 1e3]}, "found 1000.0, which YAML does not read as text"),
        ({"labels": {"bad": 5, "good": ""}}, "labels.bad: expected a valid string (found 5)"),
        ({"labels": {"bad": "a\0b", "good": ""}}, "labels: holds a NUL"),
        ({"instruction": "  "}, "instruction: expected what the LLM shall do"),
        ({"instruction": "a\0b"}, "instruction: holds a NUL"),
        ({"instruction": "\ud800"}, "instruction: expected a valid string"),
        ({"policy": {"threshold": 1.5}}, "policy.threshold: expected less than or equal to 1 (found 1.5)"),
        ({"policy": {"threshold": "high"}}, "policy.threshold: expected a valid number"),
        ({"policy": {"audit_rate": float("nan")}}, "policy.audit_rate: "),
        ({"policy": {"mode": "magic"}}, "policy.mode: expected 'fixed' or 'budget' or 'target' (found 'magic')"),
        ({"prompt": {"pruning": "maybe"}}, "prompt.pruning: expected 'off', 'soft', 'hard' or 'both'"),
        ({"prompt": {"pruning": True}}, "prompt.pruning: expected 'off', 'soft', 'hard' or 'both'"),
        ({"prompt": {"coverage": 1}}, "prompt.coverage: expected less than 1 (found 1)"),
        ({"prompt": {"coverage": 0.0}}, "prompt.coverage: expected greater than 0 (found 0.0)"),
        ({"prompt": {"coverage": True}}, "prompt.coverage: expected a number"),
        ({"llm": {"input_price": "1"}}, "llm: expected both input_price and output_price, or neither"),
        ({"llm": {"cached_price": "1"}}, "llm: expected input_price and output_price beside cached_price"),
        ({"llm": {"api": "magic"}}, "llm.api: expected 'auto', 'chat', 'decisions' or 'systemone'"),
        ({"llm": {"samples": 0}}, "llm.samples: expected greater than or equal to 1"),
        ({"llm": {"redact": ["name"]}}, "llm.redact.0: expected 'email', 'phone', 'card' or 'iban'"),
        ({"llm": {"phone_region": "US"}}, "llm: expected phone in redact beside phone_region"),
        ({"llm": {"redact": ["phone"], "phone_region": "us"}}, "llm.phone_region: expected"),
        ({"labels": [f"l{n}" for n in range(256)], "llm": {"api": "decisions"}}, "decisions takes at most 255 labels"),
        ({"llm": {"input_price": "-1", "output_price": "1"}}, "llm.input_price: expected greater than or equal to 0"),
        ({"llm": {"rpm": 0}}, "llm.rpm: expected greater than or equal to 1 (found 0)"),
        ({"llm": {"concurrency": 0}}, "llm.concurrency: expected greater than or equal to 1 (found 0)"),
        ({"llm": {"weight": 0}}, "llm.weight: expected greater than or equal to 0.001 (found 0)"),
        ({"distil": {"every_s": 0}}, "distil.every_s: expected greater than 0 (found 0)"),
        ({"distil": {"every_s": float("inf")}}, "distil.every_s: expected less than or equal to 31536000"),
        ({"distil": {"every_s": float("nan")}}, "distil.every_s: expected "),
        ({"distil": {"every_s": 1e300}}, "distil.every_s: expected less than or equal to 31536000"),
        ({"llm": {"input_price": "1e30", "output_price": "1"}}, "llm.input_price: expected less than or equal to 1000"),
        ({"llm": {"rpm": True}}, "llm.rpm: expected a number, and YAML reads this as a truth value (found True)"),
        ({"llm": {"model": ""}}, "llm.model: expected at least 1 character (found '')"),
        ({"policy": {"threshold": True}}, "policy.threshold: expected a number"),
        ({"policy": 5}, "policy: expected fields, as in a mapping (found 5)"),
        ({"small_model": {"base": ""}}, "small_model.base: expected at least 1 character (found '')"),
        ({"treshold": 0.5}, "treshold: there is no such field (found 0.5)"),
        ({"policy": {"treshold": 0.5}}, "policy.treshold: there is no such field (found 0.5)"),
    ],
)
def test_a_wrong_field_is_named_with_what_was_found_and_expected(change: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as refused:
        of(**change)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_all_wrong_fields_are_named_at_once() -> None:
    with pytest.raises(SpecError, match=r"name: .*; instruction: missing"):
        parse({"name": "No", "labels": ["a", "b"]})


@pytest.mark.parametrize("document", [None, [], "text", 5])
def test_what_is_no_mapping_is_refused(document: object) -> None:
    with pytest.raises(SpecError, match="expected fields such as name, labels and instruction"):
        parse(document)


def test_a_file_is_read(tmp_path: Path) -> None:
    spec = load(
        file(
            tmp_path,
            "name: mood\nlabels:\n  bad: sad or angry\n  good:\ninstruction: |\n  Say.\nprompt: {pruning: off}\n",
        )
    )
    assert spec.labels == {"bad": "sad or angry", "good": ""}
    assert (spec.instruction, spec.prompt.pruning) == ("Say.", "off")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: [", "is no YAML"),
        ("name: a\nname: b\n", "'name' stands twice"),
        ("labels:\n  bad: 1\n  bad: 2\n", "'bad' stands twice"),
        ("name: 2024-13-45\n", "is no YAML"),
        ("!!python/object/apply:os.getcwd []", "is no YAML"),
        ("[" * 1500, "is no YAML"),
        ("", "found None"),
        (b"\xff\xfe\xff", "cannot be read"),
    ],
)
def test_a_file_that_is_no_classifier_names_itself(tmp_path: Path, text: str | bytes, said: str) -> None:
    path = file(tmp_path, text)
    with pytest.raises(SpecError) as refused:
        load(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert said in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        load(tmp_path / "none.yaml")


def test_yaml_truth_values_as_labels_ask_for_quotes(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="put quotes around it"):
        load(file(tmp_path, "name: mood\nlabels: [yes, no]\ninstruction: Say.\n"))


def test_numbers_may_be_labels() -> None:
    assert of(labels=[1, 2]).label_names == ("1", "2")


@pytest.mark.parametrize(
    ("change", "labels_change"),
    [
        ({"labels": ["good", "bad"]}, True),
        ({"labels": ["bad", "good", "ugly"]}, True),
        ({"labels": {"bad": "a description", "good": ""}}, False),
        ({"instruction": "Say another mood."}, False),
        ({"policy": {"threshold": 0.8}}, False),
        ({"llm": {"model": "other"}}, False),
        ({"distil": {"min_new_answers": 7}}, False),
    ],
)
def test_every_change_makes_another_version_and_only_labels_retire_bundles(
    change: dict[str, Any], labels_change: bool
) -> None:
    assert of(**change).spec_hash != of().spec_hash
    assert (of(**change).labels_hash != of().labels_hash) is labels_change


def test_what_a_label_means_is_its_name_its_description_and_the_question() -> None:
    known = of(labels={"card_arrival": "Where is\n my card?", "other": ""}, instruction="What is it about?")
    assert known.meanings == ("card arrival: Where is my card? What is it about?", "other: What is it about?")


def test_defaults_written_out_are_no_change() -> None:
    written = of(policy={"mode": "fixed", "threshold": 0.9, "audit_rate": 0.05}, prompt={"pruning": "off"})
    assert written.spec_hash == of().spec_hash
    assert of(labels={"bad": "", "good": None}).spec_hash == of().spec_hash


@given(st.permutations(["z", "a", "ü", "10", "9"]), st.floats(0, 1))
def test_a_spec_survives_its_way_through_the_database(labels: list[str], threshold: float) -> None:
    spec = of(labels=labels, policy={"threshold": threshold}, llm={"input_price": "0.10", "output_price": "2"})
    stored = json.loads(json.dumps(spec.document(), sort_keys=True))
    again = parse(stored_document(stored))
    assert again == spec
    assert again.label_names == tuple(labels)
    assert again.spec_hash == spec.spec_hash


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest([1, 2]) != digest([2, 1])
    assert len(digest(None)) == 16


def test_a_list_of_models_stands_in_place_of_one() -> None:
    spec = parse({**SMALLEST, "llm": {"models": ["first", "second"]}})
    assert (spec.llm.model, spec.llm.all_models) == ("first", ("first", "second"))
    assert parse(stored_document(json.loads(json.dumps(spec.document())))) == spec
    assert parse({**SMALLEST, "llm": {"model": "only"}}).llm.all_models == ("only",)


@pytest.mark.parametrize(
    ("llm", "problem"),
    [
        ({"model": "a", "models": ["b", "c"]}, "either model or models"),
        ({"models": ["a", "a"]}, "each model once"),
        ({"models": ["a", ""]}, "llm.models.1"),
    ],
)
def test_a_wrong_list_of_models_is_refused(llm: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        parse({**SMALLEST, "llm": llm})
