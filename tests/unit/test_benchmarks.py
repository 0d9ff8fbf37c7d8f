from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import (
    budget,
    ceiling,
    classifiers,
    decision,
    distil,
    figures,
    history,
    latency,
    lessons,
    llm_faults,
    llm_lane,
    memory,
    rival,
    score_lane,
    submit,
)
from benchmarks.__main__ import ALL
from benchmarks.command import parser, write
from benchmarks.figures import BEGIN, END, Measure, Result
from benchmarks.lanes import LABELS, DayClock, TextLLM, TextModel
from benchmarks.llm_service import Limits
from benchmarks.texts import texts, texts_of_length
from datashunt import prompts
from datashunt.classifier import parse


def held(worker: int) -> memory.Sample:
    """Bytes of each part: only the worker's change."""
    return dict.fromkeys(memory.PARTS, 100) | {"worker": worker}


RESULTS = [
    Result("score_lane", False, 61.2, score_lane._measures(100, [(1.0, 0.8), (2.0, 1.9), (1.0, 0.6)], 3.0)),
    Result("submit", False, 20.0, submit._measures([1.0, 2.0, 4.0], [(0.1, 0.2, 0.3)])),
    Result(
        "memory",
        False,
        50.0,
        memory._measures(6_000, [(1_000, held(100), 400), (5_000, held(200), 200), (6_000, held(210), 220)]),
        memory._series([(1_000, held(2**20), 2**21)]),
    ),
]


def value(result: Result, name: str) -> float:
    return next(measure.value for measure in result.measures if measure.name == name)


def test_every_benchmark_is_run_by_the_whole() -> None:
    lanes = (submit, score_lane, ceiling, classifiers, latency, history, rival, llm_lane, llm_faults)
    every = (*lanes, memory, distil, budget, decision)
    assert {one.benchmark for one in every} == set(ALL)


def test_calls_are_compared_with_those_that_the_faults_force() -> None:
    faults = {"reset": {"requests": 8}, "429": {"requests": 2}, "outage": {"requests": 11}}
    run = llm_faults.Run(
        items=100,
        done=100,
        outcomes=100,
        dead=0,
        attempts=1,
        ledger={"requests": 121, "faults": faults},
        usual=1.0,
        back_s=1.0,
    )
    assert (run.forced, run.outage, run.excess) == (110, 11, 1.1)


def test_the_rate_is_back_when_it_is_what_it_was_before_the_outage() -> None:
    def served(at: float) -> int:
        return round(20 * (min(at, 30.0) + max(0.0, at - 53.0)))

    readings = [llm_faults.Reading(step / 10, served(step / 10)) for step in range(800)]
    assert llm_faults.back_after(readings, 30.0, 50.0) == pytest.approx(3.0, abs=0.3)
    assert llm_faults.back_after(readings[:520], 30.0, 50.0) == float("inf")
    assert llm_faults.back_after([], 30.0, 50.0) == float("inf")


def test_a_table_of_mixed_counts_says_which_are_reduced() -> None:
    full = replace(RESULTS[0], full=True)
    assert figures.markdown([full, RESULTS[1]]).startswith("Full counts, but reduced ones of submit, on ")
    assert figures.markdown(RESULTS).startswith("Reduced counts, on ")


def test_options_are_parsed() -> None:
    options = parser("x").parse_args(["--full", "--json", "out.json"])
    assert options.full
    assert options.json.name == "out.json"
    assert not parser("x").parse_args([]).full


def test_the_share_is_the_median_of_the_rounds_and_counts_time_not_items() -> None:
    assert value(RESULTS[0], "share") == 0.8
    assert value(RESULTS[0], "share_least") == 0.6
    assert value(RESULTS[0], "lane_items_s") == 100.0
    assert value(RESULTS[0], "beside_model_us") == pytest.approx(1.0 / 300 * 1e6)


def test_the_ceiling_counts_the_cpu_of_all_processes() -> None:
    rounds = [ceiling.Round(wall, 0.1, 0.2, 0.3, 0.4, 40.0, 2e6, 3e6) for wall in (1.0, 4.0)]
    found = Result("ceiling", False, 1.0, ceiling._measures(10_000, [*rounds, rounds[0]]))
    assert value(found, "items_s") == pytest.approx(10_000)
    assert value(found, "items_s_least") == 2_500
    assert value(found, "cpu_us") == pytest.approx(100.0)
    assert value(found, "postgres_us") == pytest.approx(30.0)
    assert value(found, "messages") == pytest.approx(4.0)
    assert (value(found, "traffic"), value(found, "wal")) == pytest.approx((200.0, 300.0))


def test_what_a_single_item_waits_is_what_its_model_did_not_take() -> None:
    found = {one.name: one for one in latency._measures([30.0, 90.0, 20.0], [20.0, 20.0, 15.0])}
    assert (found["beside_p50"].value, found["beside_p50"].reached) == (10.0, True)
    assert (found["beside_p99"].value, found["beside_p99"].reached) == (70.0, False)


def test_many_classifiers_are_compared_round_by_round() -> None:
    found = Result("x", True, 1.0, classifiers._measures(50, [(2.0, 1.0), (1.0, 0.8), (1.0, 0.9)], [2**20, 2**21]))
    assert value(found, "share") == 0.8
    assert value(found, "one_items_s") == pytest.approx(4_000 / 0.9)
    assert (value(found, "one_mb"), value(found, "many_mb")) == (1.0, 2.0)


def test_history_is_judged_by_the_medians_before_and_after() -> None:
    def rounds(*walls: float) -> list[ceiling.Round]:
        return [ceiling.Round(wall, 0.1, 0.1, wall / 2, 0.1, 8.0, 0.0, 0.0) for wall in walls]

    found = Result("x", True, 1.0, history._measures(1_000, 10, 900.0, rounds(1.0, 9.0, 0.5), rounds(2.0, 2.0, 9.0)))
    assert value(found, "share") == 0.5
    assert value(found, "filled_us") == pytest.approx(1_000.0)


def test_a_rival_is_compared_by_medians() -> None:
    real = {"ours": [600.0, 500.0, 700.0], "many": [400.0, 300.0, 500.0], "plain": [200.0], "one": [100.0]}
    real["plain_one"] = [75.0]
    free = {"ours": [8_000.0], "many": [1_000.0], "one": [200.0]}
    found = Result("rival", True, 1.0, rival._measures(10, 3, real, free))
    assert (value(found, "plain"), value(found, "batches"), value(found, "one")) == (3.0, 1.5, 6.0)
    assert value(found, "plain_one") == 8.0
    assert (value(found, "free_batches"), value(found, "free_one")) == (8.0, 40.0)
    assert value(found, "free_many_items_s") == 1_000.0


def test_submit_is_judged_by_its_median_call() -> None:
    assert value(RESULTS[1], "items_s") == 10_000
    assert value(RESULTS[1], "items_s_least") == 5_000
    assert value(RESULTS[1], "store_us") == pytest.approx(10.0)


def test_memory_may_grow_until_it_has_settled_and_not_after() -> None:
    growth = next(measure for measure in RESULTS[2].measures if measure.name == "worker_growth")
    assert growth.value == pytest.approx(0.05)
    assert growth.reached is False
    assert [value(RESULTS[2], f"{part}_growth") for part in ("producer", "broker", "postgres")] == [0.0] * 3
    assert value(RESULTS[2], "peak_mb") == pytest.approx(400 / 2**20)


def test_a_distillation_is_judged_by_its_medians() -> None:
    tenth = lessons.Taught((10.0, 12.0, 11.0), (13.0, 13.0, 13.0), 2**30)
    hundredth = lessons.Taught((33.0, 22.0, 20.0), (39.0, 39.0, 39.0), 2**31)
    pairs = [(11.0, 10.0), (24.0, 20.0), (10.5, 10.0)]
    found = Result("distil", True, 1.0, distil._measures(pairs, tenth, hundredth, 200))
    assert value(found, "overhead") == pytest.approx(1.1)
    assert value(found, "growth") == pytest.approx(2.0)
    assert value(found, "growth_judged") == pytest.approx(3.0)
    assert (value(found, "tenth_mb"), value(found, "hundredth_mb")) == (1024.0, 2048.0)


def ledger(served: int, tokens: int, throttled: int = 0) -> dict[str, int]:
    peaks = {"peak_requests": served, "peak_tokens": tokens}
    counts = {"requests": served + throttled, "served": served, "throttled": throttled}
    return {**counts, **peaks, "prompt_tokens": tokens - 10, "completion_tokens": 10}


def test_a_limits_use_is_what_the_ledger_counts_between_two_looks() -> None:
    before, after = ledger(100, 1_000), ledger(1_300, 60_000, throttled=2)
    requests = llm_lane.of_ledger(Limits(rpm=800), before, after, 90.0)
    assert (requests.used, requests.over, requests.requests, requests.throttled) == (1.0, 1_300 / 800, 1_302, 2)
    tokens = llm_lane.of_ledger(Limits(rpm=800, tpm=59_000), before, after, 60.0)
    assert tokens.used == pytest.approx(1.0)
    assert tokens.over == 60_000 / 59_000


def test_calls_that_only_one_side_knows_are_found_item_by_item() -> None:
    calls = {"fine": (1, 0), "repeated": (1, 1), "never sent": (1, 1), "ours alone": (2, 0)}
    found = llm_lane.of_books(calls, {"fine": 1, "repeated": 2, "never sent": 1, "ours alone": 1, "theirs alone": 1})
    assert (found.repeated, found.under_way, found.disagree, found.booked_only) == (1, 2, 2, 1)


def test_a_percentile_is_one_of_the_values() -> None:
    assert llm_lane.percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 3.0
    assert llm_lane.percentile([1.0, 2.0], 0.99) == 2.0


def test_answers_of_a_lesson_are_the_same_each_time_and_a_fifth_is_held_out() -> None:
    made = lessons.answers(60)
    assert made == lessons.answers(60)
    assert {answer.label for answer in made} == set(lessons.LABELS)
    assert [answer.role for answer in made].count("train") == 48


@pytest.mark.parametrize(
    ("measured", "at_most", "reached"), [(2.0, False, True), (1.0, False, False), (2.0, True, False), (1.0, True, True)]
)
def test_a_target_is_a_bound_from_one_side(measured: float, at_most: bool, reached: bool) -> None:
    assert Measure("x", "x", measured, target=1.5, at_most=at_most).reached is reached


def test_figures_are_written_under_the_documented_keys(tmp_path: Path) -> None:
    write(tmp_path / "out.json", [result.to_json() for result in RESULTS])
    lane, _, curve = json.loads((tmp_path / "out.json").read_text())
    assert set(lane) == {"benchmark", "full", "seconds", "machine", "measures", "series"}
    assert lane["measures"]["share"] == {"value": 0.8, "unit": "", "target": 0.9, "reached": False}
    (row,) = curve["series"]
    assert (row["items"], row["worker_mb"]) == (1_000, 1.0)


def test_the_page_gets_its_table_again_and_keeps_the_rest() -> None:
    page = f"# Title\n{BEGIN}\nold\n{END}\nthe end\n"
    fresh = figures.refreshed(page, figures.markdown(RESULTS))
    assert fresh.startswith(f"# Title\n{BEGIN}\nReduced counts, on ")
    assert (
        "| submit | bulk submit from one client, median of calls | 10,000 items/s | ≥ 30,000 items/s | missed |"
        in fresh
    )
    assert fresh.endswith(f"{END}\nthe end\n")
    assert "old" not in fresh
    assert figures.refreshed(fresh, figures.markdown(RESULTS)) == fresh


@pytest.mark.parametrize("page", ["no markers", f"{END} {BEGIN}", BEGIN])
def test_a_page_without_both_markers_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="add both lines"):
        figures.refreshed(page, "table")


def test_generated_texts_are_those_of_their_seed_and_as_long_as_asked() -> None:
    made = texts(2_000, seed=3)
    assert made == texts(2_000, seed=3) != texts(2_000, seed=4)
    lengths = sorted(len(text.split()) for text in made)
    assert 16 <= lengths[1_000] <= 18
    assert lengths[0] < 8 < 40 < lengths[-1]
    assert {len(text) for text in texts_of_length(50, 200, seed=1)} == {200}


def test_the_load_of_a_budget_triples_at_noon_and_confidences_are_as_often_right_as_they_say() -> None:
    day = budget.arrivals(20_000, seed=3)
    assert (np.diff(day.times) >= 0).all()
    assert (day.times < 0.5).mean() == pytest.approx(0.25, abs=0.01)
    assert (day.small == day.truth).mean() == pytest.approx(day.confidence.mean(), abs=0.01)
    item = day.item(1, 7)
    model, llm = TextModel().probabilities([item.text], batch_tokens=0), TextLLM()
    assert model.max() == pytest.approx(day.confidence[7], abs=1e-5)
    assert model.argmax() == day.small[7]
    spec = parse({"name": "x", "labels": list(LABELS), "instruction": "Choose a label: negative or positive."})
    for n in range(20):
        prompt = prompts.render(spec, day.item(0, n).text)
        assert llm.ask(prompt, "stand-in", deadline_s=1.0, api="chat", samples=0).label == LABELS[day.truth[n]]


def test_a_budgets_rivals_have_as_many_calls() -> None:
    day = budget.Arrivals(
        np.linspace(0, 1, 4), np.array([0.8, 0.85, 0.95, 0.5]), np.array([0, 0, 0, 0]), np.array([1, 1, 1, 1])
    )
    assert budget.first_come(day, 2) == 0.5
    assert budget.hindsight(day, 1) == 0.25
    assert budget.right_if_asked(day, np.array([0, 1, 2])) == 0.75
    calm = replace(day, truth=np.array([0, 1, 0, 1]))
    assert (budget.first_come(calm, 2), budget.hindsight(calm, 2)) == (0.75, 0.75)
    seen = budget.Seen([0.98, 0.5], [0.9, 0.8], 0.01, 3, 4)
    found = {measure.name: measure for measure in budget._measures([day, calm], 2, seen)}
    assert (found["used_first"].reached, found["used_second"].reached, found["over"].reached) == (True, False, False)
    assert found["hindsight_second"].value == 0.75


def test_a_simulated_day_ends_after_its_seconds() -> None:
    clock = DayClock(began=time.monotonic() - 30.0, day_s=20.0)
    assert 1.5 <= clock.days() < 2.0
    assert DayClock(began=time.monotonic() + 100.0, day_s=20.0).days() == 0.0
