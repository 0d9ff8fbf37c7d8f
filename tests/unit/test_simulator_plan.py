"""Which fault is due, and what is wrong with a file of faults."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datashunt.errors import UsageError
from datashunt.simulator.draws import uniform
from datashunt.simulator.faults import KINDS, LIVE, Plan, Rule, read
from datashunt.simulator.options import WITHOUT
from datashunt.simulator.window import Peak


def kinds(plan: Plan, count: int, place: str = "chat", at: float = 0.0) -> list[str | None]:
    faults = [plan.next(place, at) for _ in range(count)]
    return [fault.kind if fault else None for fault in faults]


@given(st.integers(1, 20), st.integers(0, 20))
def test_a_burst_by_number_hits_these_requests_and_no_others(first: int, more: int) -> None:
    plan = Plan([Rule(fault="500", calls=[first, first + more])])
    hit = [number for number, kind in enumerate(kinds(plan, 50), start=1) if kind]
    assert hit == list(range(first, first + more + 1))


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0, 250))
def test_a_window_of_time_holds_its_beginning_and_not_its_end(first: float, length: float, at: float) -> None:
    plan = Plan([Rule(fault="timeout", seconds=[first, first + length])])
    assert (plan.next("chat", at) is not None) == (first <= at < first + length)
    assert (Plan([Rule(fault="timeout", seconds=[first, None])]).next("chat", at) is not None) == (first <= at)


@given(st.integers(), st.lists(st.sampled_from(["chat", "decisions", "files", "other"]), max_size=60))
def test_the_same_requests_meet_the_same_faults(seed: int, places: list[str]) -> None:
    rules = [Rule(fault="500", rate=0.3), Rule(fault="reset", rate=0.5, at=["files", "chat"])]
    first, second = Plan(rules, seed), Plan(rules, seed)
    assert [first.next(place, 0.0) for place in places] == [second.next(place, 0.0) for place in places]


def test_a_rate_is_a_share_of_the_requests() -> None:
    faults = kinds(Plan([Rule(fault="429", rate=0.1)], seed=3), 5000)
    assert 400 <= faults.count("429") <= 600
    assert not any(kinds(Plan([Rule(fault="429", rate=0.0)]), 100))


def test_the_first_rule_that_is_due_decides_and_the_others_count_on() -> None:
    plan = Plan([Rule(fault="500", calls=[1, 2]), Rule(fault="503", calls=[2, 3])])
    assert kinds(plan, 4) == ["500", "500", "503", None]


def test_a_rule_is_about_live_requests_unless_it_says_so() -> None:
    plan = Plan([Rule(fault="500")])
    assert [place for place in (*LIVE, "batch", "files", "batches", "/healthz") if plan.next(place, 0.0)] == [*LIVE]
    refusal = Plan([Rule(fault="refusal")])
    assert refusal.next("systemone", 0.0) is None
    outage = Plan([Rule(fault="outage", seconds=[0, 1])])
    assert all(outage.next(place, 0.5) for place in ("chat", "files", "/healthz"))
    assert outage.next("batch", 0.5) is None


@pytest.mark.parametrize("name", sorted(KINDS))
def test_what_is_billed_is_the_kinds_or_the_rules_to_say(name: str) -> None:
    given: dict[str, Any] = {"fault": name}
    given |= {"slow_s": 1} if name == "slow_body" else {"seconds": [0, 1]} if name == "outage" else {}
    always, place = KINDS[name].billed, KINDS[name].at[0]
    plain = Plan([Rule(**given)]).next(place, 0.0)
    assert plain is not None
    assert plain.billed is bool(always)
    if always is None:
        told = Plan([Rule(**given, billed=True)]).next(place, 0.0)
        assert told is not None
        assert told.billed


def test_a_file_is_read_with_its_seed(tmp_path: Path) -> None:
    path = tmp_path / "faults.yaml"
    path.write_text(
        "seed: 7\nfaults:\n  - {fault: 429, rate: 0.5, retry_after_s: 2}\n  - {fault: timeout, seconds: [30, null]}\n"
    )
    plan, same = read(path), Plan([Rule(fault="429", rate=0.5, retry_after_s=2)], seed=7)
    assert kinds(plan, 30) == kinds(same, 30)
    late = [plan.next("chat", 40.0) for _ in range(30)]
    assert {fault.kind for fault in late if fault} == {"429", "timeout"}
    assert {fault.retry_after_s for fault in late if fault and fault.kind == "429"} == {2.0}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("faults: [", "cannot be read"),
        ("- a", r"document: expected a mapping with faults, .*\(docs/simulator.md, Faults\)"),
        ("", "document: expected a mapping with faults, a list of rules"),
        ("seed: 1", r"faults: expected a list of rules, .*\(docs/simulator.md, Faults\)"),
        ("faults: []", "faults: expected a list of rules"),
        ("faults: 503", "faults: expected a list of rules"),
        ("faults: [503]", "faults.0: expected a mapping, such as {fault: 503, rate: 0.1}"),
        ("faults: [{rate: 0.5}]", r"faults.0.fault: expected one of timeout, .*simulator.md"),
        ("faults: [{fault: 418}]", "faults.0: fault: expected one of timeout, .*, found 418"),
        ("faults: [{fault: 500, rate: 1.5}]", "faults.0.rate"),
        ("faults: [{fault: 500, rate: yes}]", "faults.0.rate"),
        ("faults: [{fault: 500, chance: 1}]", "faults.0.chance"),
        ("faults: [{fault: 500, calls: [0, 3]}]", "faults.0.calls.0"),
        ("faults: [{fault: 500, calls: [3, 2]}]", r"faults.0: calls: expected \[first, last\]"),
        ("faults: [{fault: 500, seconds: [null, 2]}]", r"faults.0: seconds: expected \[first, last\]"),
        (
            "faults: [{fault: refusal, at: [systemone]}]",
            "refusal can happen at .*, found systemone",
        ),
        ("faults: [{fault: timeout, at: [batch]}]", "timeout can happen at .*, found batch"),
        ("faults: [{fault: refusal, billed: false}]", "refusal is always billed"),
        ("faults: [{fault: 429, billed: true}]", "429 is never billed"),
        ("faults: [{fault: 500, retry_after_s: 1}]", "retry_after_s: expected with 429 and 503 only"),
        ("faults: [{fault: slow_body}]", "slow_s: expected with slow_body"),
        ("faults: [{fault: outage}]", "outage: expected seconds"),
        ("faults: [{fault: outage, seconds: [0, 1], rate: 0.5}]", "outage: expected seconds"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_place(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "faults.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=said) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml: cannot be read"):
        read(tmp_path / "none.yaml")


@given(st.integers(), st.text(), st.lists(st.text()))
def test_a_draw_lies_in_its_range_and_repeats_itself(seed: int, purpose: str, parts: list[str]) -> None:
    assert 0.0 <= uniform(seed, purpose, *parts) == uniform(seed, purpose, *parts) < 1.0


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 9)), max_size=40))
def test_a_peak_is_the_most_that_any_window_held(steps: list[tuple[int, int]]) -> None:
    peak, now, taken = Peak(60.0), 0.0, []
    for pause, tokens in steps:
        now += pause
        peak.add(now, tokens)
        taken.append((now, tokens))
    windows = [[n for at, n in taken if start <= at < start + 60.0] for start, _ in taken]
    assert peak.requests == max(map(len, windows), default=0)
    assert peak.tokens == max(map(sum, windows), default=0)


def test_the_page_about_the_simulation_tells_every_fault_and_everything_it_can_lack(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text(encoding="utf-8")
    lacks, _, faults = page.partition("## What it lacks")[2].partition("## Faults")
    told = [set(re.findall(r"^\| (`[^|]*)\|", part, re.MULTILINE)) for part in (lacks, faults)]
    lacking, kinds_told = ({name for row in rows for name in re.findall(r"`([\w-]+)`", row)} for rows in told)
    assert lacking == WITHOUT.keys()
    assert kinds_told == KINDS.keys()
    example = tmp_path / "faults.yaml"
    example.write_text(faults.partition("```yaml\n")[2].partition("```")[0], encoding="utf-8")
    assert kinds(read(example), 150)[99:].count("503") > 30
