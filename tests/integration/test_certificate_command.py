"""`certificate`, `status` and `classifier apply` of a classifier with a target, as a person meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lanes import LABELS, NAME, FakeLLM, World
from test_certify import PROMISE, certified, certify, says, texts, tried, work
from test_command_line import Run, is_one_sentence, run, write

__all__ = ["certified", "run", "tried"]  # fixtures


def test_what_is_missing_is_said(run: Run, tried: World) -> None:
    work(tried, texts(10, start=100))
    certify(tried)
    shown = run("certificate", NAME)
    assert shown.code == 0
    assert "promised: at most 0.3 of the kept disagree; with probability at least 0.1" in shown.out
    assert "bundle 1: not yet: " in shown.out
    assert "10 judge answers read" in shown.out
    assert "audited: 100.00% of all items" in shown.out
    assert "no certificate yet; bundle 1: not yet" in " ".join(run("status").out.split())
    assert json.loads(run("status", NAME, "--json").out)["threshold"] is None


def test_what_is_proven_is_said_with_what_it_rests_on(run: Run, certified: World) -> None:
    shown = run("certificate", NAME)
    assert "certified: bundle 1 from a confidence of" in shown.out
    assert "for items like those audited since" in shown.out
    assert "at most 0.3 of the kept disagree: 0 of 40 miss" in shown.out
    assert "of teacher-1 (teacher-1-2026 fp_1), prompt" in shown.out
    assert "certificate: bundle 1 is certified" in shown.out
    document = json.loads(run("certificate", NAME, "--json").out)
    assert document["certificate"]["k"] == 0
    assert document["certificate"]["bundle_hash"]
    assert document["trials"][0]["n"] == 40
    status = json.loads(run("status", NAME, "--json").out)
    assert status["threshold"] == document["certificate"]["threshold"]


def test_agreement_is_measured_on_audits_of_what_is_kept(run: Run, certified: World) -> None:
    certified.submit(*texts(40, start=500))
    list(certified.scorer().run(NAME, [row.id for row in certified.rows("SELECT id FROM items")]))
    certified.change("UPDATE asks SET role = 'judge' WHERE state = 'waiting'")
    certified.ask(FakeLLM([says]))
    n = certified.one("SELECT count(*) FROM asks WHERE reason = 'audit'")
    assert n > 0
    found = json.loads(run("certificate", NAME, "--json").out)
    agreement = found["agreement"]
    assert (agreement["kept"]["share"], agreement["kept"]["audits"], agreement["all"]["audits"]) == (1.0, n, 40 + n)
    assert found["audits_of_kept"] == {"asks": n, "cost_usd": pytest.approx(n * 0.00012)}
    assert agreement["kept"]["low"] == pytest.approx(0.05 ** (1 / n))
    assert sum(agreement[f"kept as {label}"]["audits"] for label in LABELS) == n
    told = json.loads(run("status", NAME, "--json").out)["agreement"]
    assert told == {what: agreement[what] for what in ("kept", "kept, text not trained on", "all")}
    assert "agreement with the LLM, 7 days: 100.0% (" in run("status").out
    row = certified.rows("SELECT * FROM live_quality")[0]
    assert (row.audits, row.audits_of_kept, row.kept_agreement, row.agreement) == (40 + n, n, 1.0, 1.0)
    rows = certified.rows("SELECT label, audits_of_kept, kept_agreement FROM live_quality_by_label")
    assert {row.label: row.audits_of_kept for row in rows} == {
        label: agreement[f"kept as {label}"]["audits"] for label in LABELS if agreement[f"kept as {label}"]["audits"]
    }
    assert {row.kept_agreement for row in rows} == {1.0}


def test_while_no_bundle_serves_a_fifth_is_held_out(run: Run, world: World) -> None:
    world.apply(policy={**PROMISE, "audit_rate": 0.05})
    shown = run("certificate", NAME).out
    assert "audited: 20.00% of all items" in shown
    assert "no trial is under way" in shown


def test_a_classifier_without_a_target_promises_nothing(run: Run, world: World) -> None:
    world.bundle()
    assert run("certificate", NAME).out.startswith("no target: policy.mode is not target, so nothing is promised")


def test_an_unknown_classifier_is_one_sentence(run: Run, world: World) -> None:
    assert is_one_sentence(run("certificate", "nobody"), 2, "nobody")


def test_apply_says_what_a_target_takes_and_refuses_what_cannot_be_proven(
    run: Run, world: World, tmp_path: Path
) -> None:
    mood = {"name": "mood", "labels": ["bad", "good"], "instruction": "Say it."}
    strict = {**mood, "policy": {**PROMISE, "delta": 0.1, "alpha": 0.005}}
    shown = run("classifier", "apply", write(tmp_path, "mood.yaml", json.dumps(strict)))
    assert "takes 938 answers of its scope without a miss (460 if δ = 0.1 were spent at once" in shown.out
    assert "none proven" in run("classifier", "list").out
    impossible = {**mood, "policy": {**PROMISE, "of": "all", "on_uncertified": "hold"}, "llm": {"models": ["a", "b"]}}
    shown = run("classifier", "apply", write(tmp_path, "mood2.yaml", json.dumps(impossible)))
    assert shown.code != 0
    assert "policy.of: all counts what is asked as right" in shown.err
