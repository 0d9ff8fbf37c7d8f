"""The ledger: what was committed is there again, what was not is gone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datashunt.backtest.ledger import DECISIONS, STATE, Decision, Ledger, Trained
from datashunt.errors import UsageError

COUNTERS = ("calls", "judges", "learned", "new_answers")


def decision(position: int, **more: Any) -> Decision:
    known: dict[str, Any] = {
        "id": f"i{position}", "label": "x", "source": "llm", "confidence": None, "bundle": None, "small_label": None,
        "small_confidence": None, "reason": "escalation", "role": "train", "audited": False, "offered": None,
        "answer": "x", "calls": 1, "cost_usd": 0.25,
    }  # fmt: skip
    return Decision(position=position, **{**known, **more})


def trained(number: int, up_to: int) -> Trained:
    return Trained(
        number=number, at_item=up_to, up_to=up_to, state="promoted", folder=f"bundles/{number}", recipe="head",
        prune_cut=0.5, threshold=0.8, verdict={"reason": "good"}, counts={"train": 3}, seconds=1.5, certificate=None,
        evaluation={"n": 3},
    )  # fmt: skip


def written(folder: Path, *batches: Sequence[Decision], identity: str = "one") -> Ledger:
    ledger = Ledger(folder, identity)
    for batch in batches:
        ledger.commit(batch)
    ledger.close()
    return ledger


def counters(ledger: Ledger) -> list[int]:
    return [getattr(ledger, name) for name in COUNTERS]


decisions = st.lists(
    st.builds(
        lambda **drawn: drawn,
        id=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
        role=st.sampled_from(["train", "fit", "judge"]),
        answer=st.none() | st.sampled_from(["x", "y\u2028z", "ü"]),
        calls=st.integers(0, 2),
        offered=st.none() | st.just(("x", "y")),
        confidence=st.none() | st.floats(0, 1),
    ),
    max_size=12,
)


@given(decisions, decisions)
@settings(max_examples=40, deadline=None)
def test_a_reopened_ledger_is_the_one_that_was_closed(first: list[dict[str, Any]], later: list[dict[str, Any]]) -> None:
    with TemporaryDirectory() as place:
        ledger = Ledger(Path(place), "one")
        ledger.commit([decision(n, **given) for n, given in enumerate(first)])
        ledger.commit([], [trained(1, len(first))])
        ledger.commit([decision(len(first) + n, **given) for n, given in enumerate(later)])
        ledger.close()
        again = Ledger(Path(place), "one")
        again.close()
    assert again.decisions == ledger.decisions
    assert again.trained == ledger.trained
    assert counters(again) == counters(ledger)


def test_an_id_may_hold_what_ends_a_line_elsewhere(tmp_path: Path) -> None:
    made = [decision(0, id="a\u2028b"), decision(1, id="a\x85b"), decision(2, id="a\r\nb")]
    written(tmp_path, made)
    assert written(tmp_path).decisions == made


def test_counts_what_was_paid_and_what_was_learned(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "one")
    ledger.commit([decision(0), decision(1, calls=2), decision(2, role="judge"), decision(3, role="fit")])
    assert counters(ledger) == [5, 1, 0, 2]
    ledger.commit([decision(4, answer=None, label=None, source=None)])
    assert counters(ledger) == [6, 1, 0, 2]
    ledger.commit([], [trained(1, 5)])
    assert counters(ledger) == [6, 1, 2, 0]
    ledger.commit([decision(5), decision(6, calls=0, answer=None, source="small", reason=None)])
    assert counters(ledger) == [7, 1, 2, 1]
    ledger.close()


@pytest.mark.parametrize("torn", [b'{"position": 2, "id": "i', b'{"position": 2}\n{"posi'])
def test_what_a_killed_run_had_not_committed_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    written(tmp_path, [decision(0), decision(1)])
    whole = (tmp_path / DECISIONS).read_bytes()
    (tmp_path / DECISIONS).write_bytes(whole + torn)
    again = written(tmp_path, [decision(2)])
    assert [one.position for one in again.decisions] == [0, 1, 2]
    assert [one.position for one in written(tmp_path).decisions] == [0, 1, 2]
    assert (tmp_path / DECISIONS).read_bytes().startswith(whole)


def test_a_run_killed_before_its_first_commit_begins_anew(tmp_path: Path) -> None:
    (tmp_path / DECISIONS).write_bytes(b'{"position": 0')
    assert written(tmp_path, [decision(0)]).decisions == [decision(0)]


def test_another_run_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    written(tmp_path, [decision(0)])
    with pytest.raises(UsageError, match="holds a backtest of another stream"):
        Ledger(tmp_path, "another")
    assert written(tmp_path).decisions == [decision(0)]


@pytest.mark.parametrize("state", ["[]", "{}", "null", '{"identity": "one"}', '{"identity": "one", "bytes": 0}', "{"])
def test_a_damaged_state_is_refused_with_what_to_do(tmp_path: Path, state: str) -> None:
    written(tmp_path, [decision(0)])
    (tmp_path / STATE).write_text(state)
    with pytest.raises(UsageError, match="files are damaged: remove it"):
        Ledger(tmp_path, "one")


def test_a_damaged_decision_is_refused_with_what_to_do(tmp_path: Path) -> None:
    written(tmp_path, [decision(0)])
    content = (tmp_path / DECISIONS).read_bytes()
    for damage in (b"x" * (len(content) - 1) + b"\n", content.replace(b"small_label", b"SMALL_label")):
        (tmp_path / DECISIONS).write_bytes(damage)
        with pytest.raises(UsageError, match="files are damaged: remove it"):
            Ledger(tmp_path, "one")
