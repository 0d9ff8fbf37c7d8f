"""Trials of a promise: which bundle is tried, on which judge answers, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from datashunt.items import Role, readable
from datashunt.store.classifiers import Bundle, Registered, bundle_of

DRIFT = "drift"
LLM_CHANGED = "the LLM changed"


@dataclass(frozen=True, slots=True)
class Trial:
    """One attempt to prove a promise of one bundle; see the table."""

    id: int
    bundle_id: int
    delta: float
    thresholds: tuple[float, ...]
    after_ask: int
    planned: int
    n: int
    missing: int | None
    note: str | None
    created_at: datetime
    cuts: Mapping[str, Any] | None = None
    asked: int = 0
    stood_in: int = 0


@dataclass(frozen=True, slots=True)
class Judged:
    """A judge ask as a trial sees it.

    Attributes:
        ask: its row. text: the item's.
        label: the LLM's, or None if it never answered. llm: model and fingerprint of its response, "" without one.
        propensity: with which it was drawn. kept: the bundle that served then kept the item.
        probabilities: of the bundle on trial, if it scored the item.
    """

    ask: int
    text: str
    label: str | None
    llm: str
    propensity: float
    kept: bool
    probabilities: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class TrialAnswer:
    """What one judge answer is to a trial; see the table."""

    ask: int
    confidence: float
    said: int
    truth: int
    weight: float
    kept: bool
    llm: str
    reach: float | None = None


def to_prove(tx: Connection, classifier: Registered) -> list[Bundle]:
    """The bundles that want a proof: the incumbent, and the newest challenger that won and waits for its own."""
    challenger = tx.execute(
        text(
            "SELECT b.* FROM distillations d JOIN bundles b ON b.id = d.bundle_id"
            " WHERE d.classifier_id = :classifier AND d.state = 'uncertified' AND b.state = 'challenger'"
            "   AND b.labels_hash = :labels ORDER BY b.id DESC LIMIT 1"
        ),
        {"classifier": classifier.id, "labels": classifier.spec.labels_hash},
    ).one_or_none()
    found = [] if classifier.incumbent is None else [classifier.incumbent]
    return [*found, *([] if challenger is None else [bundle_of(challenger)])]


def open_trial(tx: Connection, bundle_id: int) -> Trial | None:
    """The trial of a bundle that is under way."""
    row = tx.execute(
        text("SELECT * FROM trials WHERE bundle_id = :bundle AND ended_at IS NULL"), {"bundle": bundle_id}
    ).one_or_none()
    return None if row is None else _trial(row)


def renewals(tx: Connection, classifier_id: int) -> int:
    """How many trials the classifier has begun in its life; each has spent its part of δ."""
    return int(
        tx.execute(text("SELECT count(*) FROM trials WHERE classifier_id = :id"), {"id": classifier_id}).scalar_one()
    )


def begin(
    tx: Connection,
    classifier: Registered,
    bundle_id: int,
    promise: Mapping[str, Any],
    *,
    delta: float,
    thresholds: Sequence[float],
    planned: int,
    cuts: Mapping[str, Any] | None = None,
) -> Trial:
    """Open a trial. Only asks count that are made from now on, and its part of δ is spent."""
    row = tx.execute(
        text(
            "INSERT INTO trials (classifier_id, bundle_id, promise, delta, thresholds, llm_model, prompt_hash,"
            " after_ask, asked_up_to, planned, cuts) SELECT :classifier, :bundle, CAST(:promise AS jsonb), :delta,"
            " :thresholds, :model, :prompt, newest, newest, :planned, CAST(:cuts AS jsonb)"
            " FROM (SELECT coalesce(max(id), 0) AS newest FROM asks) AS asked RETURNING *"
        ),
        {
            "classifier": classifier.id,
            "bundle": bundle_id,
            "promise": json.dumps(dict(promise)),
            "delta": delta,
            "thresholds": list(thresholds),
            "model": classifier.spec.llm.model,
            "prompt": classifier.prompt_hash,
            "planned": planned,
            "cuts": None if cuts is None else json.dumps(dict(cuts)),
        },
    ).one()
    return _trial(row)


# Scalar subqueries, which the planner does not turn into joins: each looks up one item by an index.
_JUDGED = text("""
    WITH since AS (SELECT greatest(:after, coalesce(max(ask_id), 0)) AS ask FROM trial_answers WHERE trial_id = :trial),
    judges AS (
        SELECT asks.id, asks.item_id, asks.score_id, asks.reason, asks.propensity,
               asks.state IN ('waiting', 'calling') AND asks.created_at > now() - make_interval(secs => :patience_s)
                   AS open
          FROM since, asks
         WHERE classifier_id = :classifier AND role = 'judge' AND id > since.ask AND state <> 'withdrawn'
           AND coalesce((SELECT prompt_hash = :prompt AND requested_model = :model FROM answers
                          WHERE ask_id = asks.id AND answers.item_id = asks.item_id), true)
           AND (SELECT id FROM asks before
                 WHERE before.item_id = asks.item_id AND before.id < asks.id AND before.state <> 'withdrawn'
                 LIMIT 1) IS NULL
           AND (SELECT id FROM scores
                 WHERE scores.item_id = asks.item_id AND scores.id < coalesce(asks.score_id, 9223372036854775807)
                 LIMIT 1) IS NULL
         ORDER BY id LIMIT :most),
    ready AS (SELECT * FROM judges WHERE id < coalesce((SELECT min(id) FROM judges WHERE open), 9223372036854775807))
    SELECT ready.id AS ask, left(texts.text, :characters) AS text, answers.label,
           ready.propensity, ready.reason = 'audit' AS kept,
           coalesce(concat_ws(' ', answers.llm_model, nullif(answers.fingerprint, '')), '') AS llm,
           CASE WHEN scores.bundle_id = :bundle THEN scores.probabilities END AS probabilities
      FROM ready JOIN texts ON texts.item_id = ready.item_id
      LEFT JOIN answers ON answers.ask_id = ready.id AND answers.item_id = ready.item_id
      LEFT JOIN scores ON scores.id = ready.score_id AND scores.item_id = ready.item_id
     ORDER BY ready.id
""")


def judged(tx: Connection, classifier: Registered, trial: Trial, *, patience_s: float, most: int) -> list[Judged]:
    """The judge asks that a trial has not read yet, in their order, up to the first that still waits for its answer.

    One that waits longer than `patience_s` counts as unanswered. What a person labelled meanwhile, what was run again,
    or was answered under another prompt or by another model than those in force, is nobody's failure and left out.

    An item counts the first time it is scored, never when it is run again: its earlier answer may have taught,
    calibrated or judged the bundle, or it was kept, and the bundle was held to its text. Not only what was asked before
    is left out: what an earlier bundle was sure of would remain, and that is no fair sample. Items that waited to be
    scored when the trial began do count, since nothing was known of them.
    """
    rows = tx.execute(
        _JUDGED,
        {
            "classifier": classifier.id,
            "model": classifier.spec.llm.model,
            "prompt": classifier.prompt_hash,
            "trial": trial.id,
            "bundle": trial.bundle_id,
            "after": trial.after_ask,
            "patience_s": patience_s,
            "most": most,
            "characters": readable(classifier.spec.small_model.max_tokens),
        },
    )
    return [
        Judged(
            ask=row.ask,
            text=row.text,
            label=row.label,
            llm=row.llm,
            propensity=row.propensity,
            kept=row.kept,
            probabilities=None if row.probabilities is None else tuple(row.probabilities),
        )
        for row in rows
    ]


_LLMS = text("""
    SELECT DISTINCT concat_ws(' ', llm_model, nullif(fingerprint, '')) AS llm
      FROM unnest(CAST(:roles AS text[])) AS of (role), LATERAL (
           SELECT llm_model, fingerprint, fallback, reused_from, created_at FROM answers
            WHERE classifier_id = :classifier AND labels_hash = :labels AND answers.role = of.role
            ORDER BY id DESC LIMIT :most) AS newest
     WHERE NOT fallback AND reused_from IS NULL AND created_at > :since
""")


def llms_since(tx: Connection, classifier: Registered, since: datetime, most: int = 500) -> set[str]:
    """Models and fingerprints that the newest responses of the first LLM name, of those that came since a moment.

    So many answers of each role are read, whatever came since.
    """
    values = {"classifier": classifier.id, "labels": classifier.spec.labels_hash, "since": since, "most": most}
    return set(tx.execute(_LLMS, {**values, "roles": list(Role)}).scalars())


def add(tx: Connection, trial: Trial, answers: Sequence[TrialAnswer]) -> None:
    """Write down and count what judge answers are to a trial; those that are there stay as they are."""
    if not answers:
        return
    tx.execute(
        text(
            "WITH added AS ("
            " INSERT INTO trial_answers (trial_id, ask_id, confidence, said, truth, weight, kept, llm, reach)"
            " SELECT :trial, v.* FROM unnest(CAST(:asks AS bigint[]), CAST(:confidences AS float8[]),"
            "   CAST(:said AS smallint[]), CAST(:truth AS smallint[]), CAST(:weights AS real[]), CAST(:kept AS bool[]),"
            "   CAST(:llm AS text[]), CAST(:reach AS float8[])) AS v ON CONFLICT DO NOTHING RETURNING ask_id)"
            " UPDATE trials SET n = n + (SELECT count(*) FROM added) WHERE id = :trial"
        ),
        {
            "trial": trial.id,
            "asks": [one.ask for one in answers],
            "confidences": [one.confidence for one in answers],
            "said": [one.said for one in answers],
            "truth": [one.truth for one in answers],
            "weights": [one.weight for one in answers],
            "kept": [one.kept for one in answers],
            "llm": [one.llm for one in answers],
            "reach": [one.reach for one in answers],
        },
    )


def answers(tx: Connection, trial: Trial) -> list[TrialAnswer]:
    """All that a trial has read, in the order of the asks."""
    rows = tx.execute(
        text(
            "SELECT ask_id, confidence, said, truth, weight, kept, llm, reach FROM trial_answers"
            " WHERE trial_id = :trial ORDER BY ask_id"
        ),
        {"trial": trial.id},
    )
    return [TrialAnswer(*row) for row in rows]


_ASKED = text("""
    WITH escalated AS (
        SELECT asks.id, asks.item_id, asks.state, asks.state IN ('waiting', 'calling') AS waits,
               asks.created_at > now() - make_interval(secs => :patience_s) AS recent
          FROM asks JOIN trials ON trials.id = :trial AND asks.id > trials.asked_up_to
         WHERE asks.classifier_id = :classifier AND asks.reason = 'escalation' AND asks.state <> 'withdrawn'
         ORDER BY asks.id LIMIT :most),
    ready AS (SELECT * FROM escalated
               WHERE id < coalesce((SELECT min(id) FROM escalated WHERE waits AND recent), 9223372036854775807)),
    found AS (SELECT count(*) AS asked, max(ready.id) AS newest,
                     count(*) FILTER (WHERE ready.waits OR answers.fallback) AS stood_in
                FROM ready LEFT JOIN answers ON answers.ask_id = ready.id AND answers.item_id = ready.item_id)
    UPDATE trials SET asked = trials.asked + found.asked, stood_in = trials.stood_in + found.stood_in,
                      asked_up_to = coalesce(found.newest, asked_up_to)
      FROM found WHERE trials.id = :trial RETURNING trials.*
""")


def count_asked(tx: Connection, classifier_id: int, trial: Trial, *, patience_s: float, most: int) -> Trial:
    """Go on counting items that escalated, and those that another model answered, up to the first that still waits.

    One that waits longer than `patience_s` counts as answered by another. Returns the trial as it is then.
    """
    values = {"classifier": classifier_id, "trial": trial.id, "patience_s": patience_s, "most": most}
    return _trial(tx.execute(_ASKED, values).one())


def confidences(tx: Connection, bundle_id: int) -> dict[int, float]:
    """How sure a bundle was of each judge ask that its trial under way has read, by the ask's row."""
    rows = tx.execute(
        text(
            "SELECT ask_id, confidence FROM trial_answers JOIN trials ON trials.id = trial_id"
            " WHERE bundle_id = :bundle AND ended_at IS NULL"
        ),
        {"bundle": bundle_id},
    )
    return {row.ask_id: row.confidence for row in rows}


def note(tx: Connection, trial: Trial, *, missing: int | None, what: str | None) -> None:
    """Write down what a trial lacks."""
    tx.execute(
        text("UPDATE trials SET missing = :missing, note = :what WHERE id = :trial"),
        {"trial": trial.id, "missing": missing, "what": what},
    )


def end(tx: Connection, classifier_id: int, why: str) -> None:
    """End the trials of a classifier that are under way."""
    tx.execute(
        text("UPDATE trials SET ended_at = now(), ended_why = :why WHERE classifier_id = :id AND ended_at IS NULL"),
        {"id": classifier_id, "why": why},
    )


def end_of(tx: Connection, bundle_id: int, why: str) -> None:
    """End the trial of one bundle."""
    tx.execute(
        text("UPDATE trials SET ended_at = now(), ended_why = :why WHERE bundle_id = :id AND ended_at IS NULL"),
        {"id": bundle_id, "why": why},
    )


def _trial(row: Row[Any]) -> Trial:
    fields = {name: getattr(row, name) for name in Trial.__slots__ if name != "thresholds"}
    return Trial(thresholds=tuple(row.thresholds), **fields)
