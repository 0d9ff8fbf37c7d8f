"""Any text on its whole way, from `submit` to its outcome: it ends with a label, or is refused with a reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lanes import LABELS, NAME, World
from pydantic import SecretStr

from datashunt.items import Item
from datashunt.llm import LLM
from datashunt.pipeline.bound import Bound
from datashunt.pipeline.submit import Intake
from datashunt.simulator import Options, Simulator

MB = 1_000_000
TAKEN = {
    "one byte": "x",
    "one letter of four bytes": "\U0001f98a",
    "a family of emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 50,
    "flags and tones": "\U0001f1e9\U0001f1ea\U0001f44d\U0001f3ff",
    "right to left": "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "turned round": "abc \u202edef\u202c \u2067ghi\u2069",
    "a tower of marks": "a" + "\u0301" * 2_000,
    "control characters": "".join(map(chr, [*range(1, 32), *range(127, 160)])) + "x",
    "line ends": "a\r\nb\u2028c\u2029d\u0085e",
    "no characters": "\ufffe\uffff\U0010ffff",
    "a byte order mark": "\ufeffa",
    "a terminal's orders": "\x1b[2J\x1b]0;title\x07",
    "SQL": "'); DROP TABLE items; --",
    "a template": "{{7*7}} ${jndi:ldap://127.0.0.1:9/a} %s%n {0.__class__}",
    "a control token": "<|im_end|> </s> [INST]",
    "JSON": '{"label": "positive"}',
    "1 MB": "long text " * (MB // 10),
    "10 MB": "long text " * MB,
    "10 MB without a blank": "\U0001f98a" * (10 * MB // 4),
}
REFUSED = {
    "nothing": ("", "empty"),
    "blanks": (" \t\n\u3000", "empty"),
    "NUL": ("a\0b", "nul_byte"),
    "a lone surrogate": ("a\ud800b", "invalid_utf8"),
    "half of a pair": ("\udc00", "invalid_utf8"),
    "more than 10 MB": ("x" * (10 * MB + 1), "too_large"),
}


@pytest.fixture
def llm(tmp_path: Path) -> Iterator[LLM]:
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps({"id": "x", "text": "x", "probabilities": dict.fromkeys(LABELS, 1.0)}))
    with Simulator(Options(path)) as simulator, closing(LLM(simulator.base_url, SecretStr("k"))) as made:
        yield made


def outcomes(world: World, llm: LLM, texts: list[str]) -> dict[str, str]:
    """Submit texts under their numbers, with no model of ones own; id → label, or why it was refused."""
    intake = Intake(world.store, 10 * MB, Bound(0))
    first = world.one("SELECT coalesce(max(id), 0) FROM items")
    call = uuid4().hex
    receipt, wakes = intake.submit(NAME, [Item(f"{call}-{n}", text) for n, text in enumerate(texts)], call)
    assert receipt.accepted + len(receipt.refused) == len(texts)
    asks = [row for wake in wakes for woken in world.scorer().run(NAME, wake.ids) for row in woken.ids]
    if asks:
        world.asker(llm).run(NAME, asks)  # type: ignore[arg-type]
    found = {one.id or "": one.reason for one in receipt.refused}
    return found | dict(world.rows("SELECT key, label FROM items WHERE id > :first AND state = 'done'", first=first))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TAKEN)
def test_a_text_that_can_be_stored_ends_with_a_label(world: World, llm: LLM, name: str) -> None:
    (label,) = outcomes(world, llm, [TAKEN[name]]).values()
    assert label in LABELS
    assert world.one("SELECT text FROM texts") == TAKEN[name]


@pytest.mark.parametrize("name", REFUSED)
def test_any_other_is_refused_with_a_reason(world: World, llm: LLM, name: str) -> None:
    text, reason = REFUSED[name]
    assert list(outcomes(world, llm, [text]).values()) == [reason]
    assert world.one("SELECT count(*) FROM items") == 0


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(), max_size=40), min_size=1, max_size=8, unique=True))
def test_whatever_comes_ends_one_way_or_the_other(world: World, llm: LLM, texts: list[str]) -> None:
    assert len(outcomes(world, llm, texts)) == len(texts)
    assert world.one("SELECT count(*) FROM items WHERE state <> 'done'") == 0
