"""`datashunt what-if` on past traffic in a real database."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from lanes import NAME, PRICE, REJECTED, FakeLLM, World, reply
from test_command_line import Run, is_one_sentence, run

from datashunt.items import Item

__all__ = ["run"]  # the fixture

SURE, DOUBT = "positive 0.95", "negative 0.5"
RATE = 0.5


def scored(world: World, texts: list[str], llm: FakeLLM | None = None, begin: int = 0) -> None:
    entries = [Item(f"i{begin + n}", f"{text} {n}") for n, text in enumerate(texts)]
    _, wakes = world.submit(*entries)
    list(world.scorer().run(NAME, wakes[0].ids))
    world.ask(llm or FakeLLM([reply("positive")]))


@pytest.fixture
def busy(world: World) -> World:
    """Sixty sure items, on which the LLM agrees, and twenty doubtful ones, on which it does not; half are audited."""
    world.apply(policy={"audit_rate": RATE})
    world.bundle()
    scored(world, [SURE] * 60 + [DOUBT] * 20)
    return world


def looked(run: Run, *words: str | Path) -> dict[str, Any]:
    shown = run("what-if", NAME, "--json", *words)
    assert shown.code == 0, shown.err
    found: dict[str, Any] = json.loads(shown.out)
    return found


def point(found: dict[str, Any], name: str) -> dict[str, Any]:
    (one,) = [one for one in found["points"] if one["name"] == name]
    return dict(one)


def test_past_traffic_is_shown_at_several_thresholds(run: Run, busy: World) -> None:
    shown = run("what-if", NAME)
    assert shown.code == 0
    assert "in force" in shown.out
    assert "differ: of the kept items" in shown.out
    assert "bundle 1 of sentiment, 80 items in 1.0 days" in shown.out
    assert "hypothetical" not in shown.out


def test_shares_calls_and_cost_are_those_of_the_traffic(run: Run, busy: World) -> None:
    found = looked(run)
    audits = busy.one("SELECT count(*) FROM asks WHERE propensity IS NOT NULL")
    assert (found["items"], found["audits"], found["audit_rate"], found["audits_open"]) == (80, audits, RATE, 0)
    now = point(found, "in force")
    assert now["threshold"] == 0.9
    assert now["kept"] == 0.75
    assert now["calls"] == pytest.approx((0.25 + 0.75 * RATE) * 80)
    assert now["usd"] == pytest.approx(now["calls"] * float(PRICE))
    assert now["differ"] == 0
    assert 0 < now["high"] < 0.2
    everything = found["points"][0]
    assert (everything["threshold"], everything["kept"]) == (0.5, 1.0)
    assert everything["audited"] == audits
    assert everything["differ"] == audits - now["audited"]


def test_alpha_finds_the_threshold_that_the_audits_would_certify(run: Run, busy: World) -> None:
    found = looked(run, "--alpha", "0.3", "--delta", "0.2")
    named = point(found, "α = 0.3")
    assert 0.5 < named["threshold"] <= 0.95
    assert named["kept"] == 0.75
    assert "0 of" in found["notes"][0]
    assert "hypothetical" in found["notes"][1]


def test_too_few_audits_say_how_many_are_missing(run: Run, busy: World) -> None:
    shown = run("what-if", NAME, "--alpha", "0.001")
    assert shown.code == 0
    assert "no threshold would be certified: not yet:" in shown.out
    assert "more audits at least" in shown.out


def test_of_all_is_a_share_of_all_items(run: Run, busy: World) -> None:
    found = looked(run, "--of", "all")
    assert {one["audited"] for one in found["points"]} == {found["audits"]}
    assert "differ: of all items, those kept" in run("what-if", NAME, "--of", "all").out


def test_a_budget_finds_the_threshold_that_spends_it(run: Run, busy: World) -> None:
    few, all_of_it = looked(run, "--calls", "45"), looked(run, "--calls", "1000")
    assert point(few, "budget")["threshold"] == 0.5
    assert point(all_of_it, "budget") == {
        **point(all_of_it, "budget"), "threshold": None, "kept": 0.0, "calls": 80.0
    }  # fmt: skip
    assert point(looked(run, "--budget", str(50 * float(PRICE))), "in force")["calls"] == 50.0


def test_another_price_changes_the_cost_and_nothing_else(run: Run, busy: World) -> None:
    before, after = looked(run), looked(run, "--llm-price", "10", "40")
    assert after["usd_per_call"] == pytest.approx((100 * 10 + 10 * 40) / 1_000_000)
    assert [one["kept"] for one in before["points"]] == [one["kept"] for one in after["points"]]
    assert point(after, "in force")["usd"] == pytest.approx(point(after, "in force")["calls"] * 0.0014)


def test_the_picture_is_drawn(run: Run, busy: World, tmp_path: Path) -> None:
    file = tmp_path / "what-if.png"
    assert run("what-if", NAME, "--alpha", "0.3", "--calls", "60", "--out", file).code == 0
    head = file.read_bytes()[:24]
    assert head[:4] == b"\x89PNG"
    assert struct.unpack(">II", head[16:24]) == (1600, 900)
    nowhere = tmp_path / "none" / "what-if.png"
    assert is_one_sentence(run("what-if", NAME, "--out", nowhere), 2, str(nowhere), "cannot be written")


def test_an_audit_that_died_counts_as_a_disagreement(run: Run, busy: World) -> None:
    before = looked(run)
    scored(busy, [SURE] * 8, FakeLLM([REJECTED]), begin=100)
    dead = busy.one("SELECT count(*) FROM asks WHERE state = 'dead' AND propensity IS NOT NULL")
    assert dead > 0
    after = looked(run)
    assert after["audits"] == before["audits"] + dead
    assert point(after, "in force")["differ"] == dead


def test_an_audit_that_waits_does_not_count_yet(run: Run, busy: World) -> None:
    before = looked(run)
    _, wakes = busy.submit(*[Item(f"w{n}", f"{SURE} {n}") for n in range(8)])
    list(busy.scorer().run(NAME, wakes[0].ids))
    after = looked(run)
    assert after["audits"] == before["audits"]
    assert after["audits_open"] == busy.one("SELECT count(*) FROM asks WHERE state = 'waiting'") > 0


def test_audits_at_several_rates_are_thinned_to_the_lowest(run: Run, busy: World) -> None:
    busy.apply(policy={"audit_rate": 1.0})
    scored(busy, [SURE] * 40, begin=200)
    found = looked(run)
    drawn = busy.one("SELECT count(*) FROM asks WHERE propensity IS NOT NULL")
    assert found["audit_rate"] == 1.0
    assert found["audits_left_out"] > 0
    assert found["audits"] + found["audits_left_out"] == drawn
    assert "drawn at a higher rate are left out" in run("what-if", NAME).out


def test_answers_of_another_llm_say_nothing_of_this_one(run: Run, busy: World) -> None:
    busy.apply(llm={"model": "teacher-2"}, policy={"audit_rate": RATE})
    assert is_one_sentence(run("what-if", NAME), 2, "no audit of what bundle 1", "is answered", "--days")


def test_what_is_older_than_the_window_is_not_looked_at(run: Run, busy: World) -> None:
    busy.change("UPDATE scores SET created_at = now() - interval '10 days'")
    assert is_one_sentence(run("what-if", NAME), 2, "scored nothing in the last 7 days", "--days")
    assert looked(run, "--days", "30")["days"] == pytest.approx(10.0, abs=0.01)


def test_without_a_bundle_or_audits_there_is_nothing_to_look_at(run: Run, world: World) -> None:
    assert is_one_sentence(run("what-if", NAME), 2, "no bundle of sentiment serves yet")
    assert is_one_sentence(run("what-if", "nobody"), 2, "there is no classifier named 'nobody'")
    world.bundle()
    assert is_one_sentence(run("what-if", NAME), 2, "bundle 1 of sentiment scored nothing")
    scored(world, [SURE] * 3)
    assert is_one_sentence(run("what-if", NAME), 2, "raise policy.audit_rate")


def test_wrong_options_are_one_sentence(run: Run, busy: World, tmp_path: Path) -> None:
    for words, said in (
        (("--alpha", "1.5"), "alpha must lie inside (0, 1), found 1.5"),
        (("--alpha", "0.1", "--delta", "0"), "delta must lie inside (0, 1), found 0"),
        (("--budget", "0"), "--budget: expected more than 0 a day, found 0"),
        (("--calls", "-1"), "--calls: expected more than 0 a day, found -1"),
        (("--calls", "5", "--budget", "1"), "expected one of --budget and --calls, found both"),
        (("--calls", "5"), "auditing 50.0% of 80 items a day takes 40.0"),
        (("--llm-price", "-1", "2"), "expected two prices of 0 or more, found -1 and 2"),
        (("--out", "x.pdf"), "x.pdf: unknown kind of picture: expected .png"),
    ):
        assert is_one_sentence(run("what-if", NAME, *words), 2, said), said
    busy.change("UPDATE calls SET cost_usd = 0, prompt_tokens = NULL")
    assert is_one_sentence(run("what-if", NAME, "--budget", "1"), 2, "costs nothing, or nobody knows its price")
    assert is_one_sentence(run("what-if", NAME, "--llm-price", "1", "2"), 2, "tells how many tokens it took")
