"""Distillations as due rows with a lease, and the answers they learn from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from datashunt.items import FEWEST_JUDGES, Role, readable
from datashunt.store.classifiers import Registered

MAX_ANSWERS = 50_000
"""Most answers one distillation reads, newest first: it bounds memory, and old ones have been learned."""

MOST_LOOKED_THROUGH = 1_000_000
"""Newest scores among which those of one bundle are looked for: no index knows them, and it may have few."""

LONGEST_WAIT_S = 3_600.0
"""Longest time after a failure until the next try."""


def make_due(tx: Connection, classifier: Registered, *, judges: int, needed: int | None = None) -> int | None:
    """Open a distillation if enough new answers are there and none is open; returns its row.

    Answers given under a soft prior, reused ones and those of a fallback teach nothing (see `answers`), so they are
    not counted. What a failed run was to learn is new still; and after other labels were in force nothing is learned of
    these, since no bundle of theirs serves. Failures in a row under one version of the file double the
    time until the next try, up to an hour: a base that cannot be loaded fails each time, and at full cost. While a
    bundle is on trial and nothing is proven of it, as many new answers are needed as it has learned from: its successor
    would begin the proof anew.

    Args:
        tx: the transaction.
        classifier: with its current spec.
        judges: judge answers without which the challenger could get no verdict, and training would be in vain.
        needed: new answers that are enough; None: `distil.min_new_answers`.
    """
    due: int | None = tx.execute(
        text(
            "WITH runs AS (SELECT * FROM distillations WHERE classifier_id = :classifier AND spec_version > coalesce("
            "     (SELECT max(version) FROM specs WHERE classifier_id = :classifier AND labels_hash <> :labels), 0)),"
            " ended AS (SELECT max(id) AS newest, coalesce(max(up_to_answer), 0) AS learned FROM runs"
            "     WHERE state IN ('promoted', 'rejected', 'overtaken', 'uncertified')),"
            " failed AS (SELECT count(*) FILTER (WHERE spec_version = :version) AS times,"
            "       max(finished_at) FILTER (WHERE spec_version = :version) AS last,"
            "       CASE WHEN count(id) = 0 THEN min(learned) ELSE 0 END AS learned"
            "     FROM ended LEFT JOIN runs ON state = 'failed' AND id > coalesce(newest, 0)),"
            " wanted AS (SELECT greatest(:needed,"
            "       (SELECT max(n_train) FROM distillations d JOIN trials t USING (bundle_id)"
            "         WHERE d.classifier_id = :classifier AND t.ended_at IS NULL AND NOT EXISTS ("
            "           SELECT FROM certificates WHERE trial_id = t.id AND revoked_at IS NULL))) AS answers)"
            " INSERT INTO distillations (classifier_id, spec_version, state)"
            " SELECT :classifier, :version, 'due' FROM failed, wanted WHERE wanted.answers <= ("
            "  SELECT count(*) FROM (SELECT FROM answers WHERE classifier_id = :classifier AND labels_hash = :labels"
            "     AND role = 'train' AND NOT had_prior AND reused_from IS NULL"
            "     AND NOT fallback AND id > failed.learned LIMIT (SELECT answers FROM wanted)) AS new)"
            " AND :judges <= (SELECT count(*) FROM (SELECT FROM answers WHERE classifier_id = :classifier"
            "     AND labels_hash = :labels AND role = 'judge' AND NOT had_prior AND requested_model = :model"
            "     AND prompt_hash = :prompt LIMIT :judges) AS enough)"
            " AND (times = 0 OR now() >= last + make_interval("
            "     secs => least(CAST(:longest AS float8), :every_s * power(2.0::float8, least(times, 30)))))"
            " ON CONFLICT DO NOTHING RETURNING id"
        ),
        {
            "classifier": classifier.id,
            "version": classifier.version,
            "labels": classifier.spec.labels_hash,
            "needed": classifier.spec.distil.min_new_answers if needed is None else needed,
            "judges": judges,
            "model": classifier.spec.llm.model,
            "prompt": classifier.prompt_hash,
            "every_s": classifier.spec.distil.every_s,
            "longest": LONGEST_WAIT_S,
        },
    ).scalar_one_or_none()
    return due


@dataclass(frozen=True, slots=True)
class Claim:
    """A distillation that is ours, and what it may see: so that a second attempt learns from the same.

    Attributes:
        row: the run. attempts: how often it was claimed, this time included.
        up_to_answer, up_to_score: ids of the newest answer and score of the time of the first attempt.
    """

    row: int
    attempts: int
    up_to_answer: int
    up_to_score: int


# The worker may not delete it. What it was to learn is new still, as after any failure.
_DROP = text("""
    UPDATE distillations d SET state = 'failed', finished_at = now(), error = :why
      FROM specs was
     WHERE d.classifier_id = :classifier AND d.state = 'due'
       AND was.classifier_id = d.classifier_id AND was.version = d.spec_version
       AND (was.labels_hash <> :labels OR was.prompt_hash <> :prompt)
       AND NOT (:needed <= (SELECT count(*) FROM (
                    SELECT FROM answers WHERE classifier_id = :classifier AND labels_hash = :labels AND role = 'train'
                       AND NOT had_prior AND reused_from IS NULL AND NOT fallback LIMIT :needed) AS enough)
            AND :judges <= (SELECT count(*) FROM (
                    SELECT FROM answers WHERE classifier_id = :classifier AND labels_hash = :labels AND role = 'judge'
                       AND NOT had_prior AND requested_model = :model AND prompt_hash = :prompt
                     LIMIT :judges) AS enough))
""")


def claim(tx: Connection, classifier: Registered, token: UUID, *, lease_s: float) -> Claim | None:
    """Take the due distillation of a classifier; None when there is none, or somebody runs it.

    What an earlier attempt could see stays all that this one sees, unless the file or the incumbent changed meanwhile.
    If the labels or the prompt changed, and there are too few answers under the new ones, it ends without being begun.
    """
    tx.execute(
        _DROP,
        {
            "classifier": classifier.id,
            "labels": classifier.spec.labels_hash,
            "prompt": classifier.prompt_hash,
            "model": classifier.spec.llm.model,
            "needed": classifier.spec.distil.min_new_answers,
            "judges": FEWEST_JUDGES,
            "why": "it was not begun: the labels or the prompt changed, and too few answers are of the new ones",
        },
    )
    row = tx.execute(
        text(
            "UPDATE distillations SET state = 'running', lease_token = :token, attempts = attempts + 1,"
            " lease_until = now() + make_interval(secs => :lease_s), started_at = now(), error = NULL,"
            " up_to_answer = coalesce(CASE WHEN same THEN up_to_answer END,"
            "   (SELECT max(id) FROM answers), 0),"
            " up_to_score = coalesce(CASE WHEN same THEN up_to_score END, (SELECT max(id) FROM scores), 0),"
            " spec_version = :version, incumbent_id = :incumbent, stage = 'reading answers', progress = 0"
            " FROM (SELECT id AS due, spec_version = :version"
            "         AND incumbent_id IS NOT DISTINCT FROM CAST(:incumbent AS bigint) AS same"
            "        FROM distillations WHERE classifier_id = :classifier AND state = 'due' FOR UPDATE) AS found"
            " WHERE id = due RETURNING id, attempts, up_to_answer, up_to_score"
        ),
        {
            "classifier": classifier.id,
            "token": token,
            "lease_s": lease_s,
            "version": classifier.version,
            "incumbent": classifier.incumbent.id if classifier.incumbent else None,
        },
    ).one_or_none()
    return None if row is None else Claim(*row)


def hand_back(tx: Connection, row: int, token: UUID) -> bool:
    """Make a run that is still ours due again, at once and as if this attempt had not been; False if it is not ours."""
    moved = tx.execute(
        text(
            "UPDATE distillations SET state = 'due', attempts = attempts - 1, announced_at = '-infinity',"
            " lease_token = NULL, lease_until = NULL WHERE id = :row AND lease_token = :token AND state = 'running'"
        ),
        {"row": row, "token": token},
    )
    return moved.rowcount == 1


def heartbeat(tx: Connection, row: int, token: UUID, *, lease_s: float, stage: str, progress: float) -> bool:
    """Renew the lease and show progress (0 to 1); False when the lease is lost and the work must stop.

    A run whose labels are no longer in force ends here: its bundle could not serve.
    """
    values = {"row": row, "token": token}
    ours = "WHERE id = :row AND lease_token = :token AND state = 'running'"
    moved = tx.execute(
        text(
            "UPDATE distillations d SET lease_until = now() + make_interval(secs => :lease_s), stage = :stage,"  # noqa: S608
            f" progress = :progress {ours} AND EXISTS (SELECT FROM classifiers c"
            "   JOIN specs now ON now.classifier_id = c.id AND now.version = c.spec_version"
            "   JOIN specs was ON was.classifier_id = c.id AND was.version = d.spec_version"
            "  WHERE c.id = d.classifier_id AND now.labels_hash = was.labels_hash)"
        ),
        {**values, "lease_s": lease_s, "stage": stage, "progress": progress},
    )
    if moved.rowcount == 1:
        return True
    tx.execute(
        text(
            "UPDATE distillations SET state = 'failed', lease_token = NULL, lease_until = NULL, finished_at = now(),"  # noqa: S608
            f" error = 'the labels changed while it ran' {ours}"
        ),
        values,
    )
    return False


def finish(
    tx: Connection,
    row: int,
    token: UUID,
    *,
    state: str,
    up_to_answer: int | None = None,
    counts: Mapping[Role, int] | None = None,
    bundle_id: int | None = None,
    verdict: Mapping[str, Any] | None = None,
    error: str | None = None,
) -> bool:
    """Close a run that is still ours; False when the lease was lost."""
    counts = counts or {}
    moved = tx.execute(
        text(
            "UPDATE distillations SET state = :state, lease_token = NULL, lease_until = NULL,"
            " finished_at = now(), progress = 1, up_to_answer = :up_to, n_train = :train, n_fit = :fit,"
            " n_judge = :judge, bundle_id = :bundle, verdict = CAST(:verdict AS jsonb), error = :error"
            " WHERE id = :row AND lease_token = :token AND state = 'running'"
        ),
        {
            "row": row,
            "token": token,
            "state": state,
            "up_to": up_to_answer,
            "train": counts.get(Role.TRAIN),
            "fit": counts.get(Role.FIT),
            "judge": counts.get(Role.JUDGE),
            "bundle": bundle_id,
            "verdict": None if verdict is None else json.dumps(dict(verdict)),
            "error": error,
        },
    )
    return moved.rowcount == 1


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer with what is readable of its text. `probabilities` are in label order; None elements were not offered.

    `propensity`: with which a held-out one was drawn.
    """

    id: int
    item_id: int
    text: str
    label: str
    probabilities: tuple[float | None, ...] | None
    role: Role
    fingerprint: str
    propensity: float | None = None


# Of an item that is run again, its first ask tells whether it was held out then, and nothing was kept before.
_ANSWERS = """
    SELECT a.id, a.item_id, left(texts.text, :characters) AS text, coalesce(said.label, a.label) AS label,
           CASE WHEN said.label IS NULL THEN a.probabilities END AS probabilities, a.role, a.fingerprint, a.propensity
      FROM answers a JOIN texts ON texts.item_id = a.item_id
      LEFT JOIN items said ON said.id = a.item_id AND said.source = 'human' AND a.role = 'train'
            AND said.label = ANY(:names)
     WHERE a.classifier_id = :classifier AND a.labels_hash = :labels{of_role}
       AND a.id <= coalesce(CAST(:up_to AS bigint), a.id)
       AND (NOT a.had_prior AND a.reused_from IS NULL AND NOT a.fallback OR said.label IS NOT NULL)
       AND (a.role = 'train' OR (a.requested_model = :model AND a.prompt_hash = :prompt AND coalesce((
            SELECT first.role = a.role AND (
                       SELECT id FROM scores s WHERE s.item_id = a.item_id AND s.id < first.score_id LIMIT 1) IS NULL
              FROM asks first WHERE first.item_id = a.item_id AND first.state <> 'withdrawn'
             ORDER BY first.id LIMIT 1), true)))
     ORDER BY a.id DESC LIMIT :most
"""
_OF_ALL_ROLES, _OF_ONE_ROLE = (text(_ANSWERS.format(of_role=one)) for one in ("", " AND a.role = :role"))


def answers(
    tx: Connection, classifier: Registered, *, up_to: int | None = None, role: Role | None = None
) -> list[StoredAnswer]:
    """The newest answers under the current labels with ids up to this one, of this role, oldest first; None: all.

    Held-out answers must be of the LLM and the prompt that are in force. Those given under a soft prior are
    left out: they would teach the small model its own opinion. So are reused ones: they say nothing new, and
    may repeat an answer that is held out; and those of a fallback: the small model stands in for the first. A label
    that a person gave stands in for a training answer of any kind, whole and without doubt; held-out answers stay the
    LLM's, since it is what is measured.

    An item that is run again is held out only if it was from the first time on: else a bundle may have learned from it
    then. Its newest answer counts, once.
    """
    rows = tx.execute(
        _OF_ALL_ROLES if role is None else _OF_ONE_ROLE,
        {
            "classifier": classifier.id,
            "labels": classifier.spec.labels_hash,
            "names": list(classifier.spec.label_names),
            "model": classifier.spec.llm.model,
            "prompt": classifier.prompt_hash,
            "up_to": up_to,
            **({} if role is None else {"role": role}),
            "most": MAX_ANSWERS,
            "characters": readable(classifier.spec.small_model.max_tokens),
        },
    ).all()
    newest = {row.item_id: row.id for row in reversed(rows)}
    return [
        StoredAnswer(
            id=row.id,
            item_id=row.item_id,
            text=row.text,
            label=row.label,
            probabilities=None if row.probabilities is None else tuple(row.probabilities),
            role=Role(row.role),
            fingerprint=row.fingerprint,
            propensity=row.propensity,
        )
        for row in reversed(rows)
        if row.role == Role.TRAIN or row.id == newest[row.item_id]
    ]


def learned_up_to(tx: Connection, classifier: Registered) -> int:
    """Id of the newest answer that the incumbent could learn from; 0 if nobody knows."""
    if classifier.incumbent is None:
        return 0
    newest: int | None = tx.execute(
        text("SELECT max(up_to_answer) FROM distillations WHERE bundle_id = :bundle"),
        {"bundle": classifier.incumbent.id},
    ).scalar_one()
    return newest or 0


def confident_texts(tx: Connection, classifier: Registered, most: int, *, up_to: int) -> list[str]:
    """Texts that the incumbent kept and nobody holds out: what it must not forget; newest first.

    Of the scores up to `up_to`, those since the incumbent was made are looked through, and at most so many as
    `MOST_LOOKED_THROUGH`, whatever bundles they are of.
    """
    if classifier.incumbent is None:
        return []
    rows = tx.execute(
        text(
            "SELECT left(texts.text, :characters) FROM scores JOIN texts USING (item_id)"
            " WHERE scores.bundle_id = :bundle AND scores.kept AND scores.id <= :up_to AND scores.id > greatest("
            "   CAST(:up_to AS bigint) - CAST(:through AS bigint),"
            "   (SELECT max(up_to_score) FROM distillations WHERE bundle_id = :bundle))"
            " AND NOT EXISTS ("
            "   SELECT FROM asks WHERE asks.item_id = scores.item_id AND asks.role <> 'train')"
            " ORDER BY scores.id DESC LIMIT :most"
        ),
        {
            "bundle": classifier.incumbent.id,
            "up_to": up_to,
            "through": MOST_LOOKED_THROUGH,
            "most": most,
            "characters": readable(classifier.spec.small_model.max_tokens),
        },
    )
    return list(rows.scalars())


@dataclass(frozen=True, slots=True)
class Run:
    """A distillation, for people and reports."""

    id: int
    state: str
    stage: str | None
    progress: float | None
    n_train: int | None
    n_fit: int | None
    n_judge: int | None
    bundle_id: int | None
    verdict: dict[str, Any] | None
    error: str | None
    created_at: Any
    started_at: Any
    finished_at: Any


def listed(tx: Connection, classifier_id: int) -> list[Run]:
    """All distillations of a classifier, oldest first."""
    columns = ", ".join(Run.__slots__)
    rows = tx.execute(
        text(f"SELECT {columns} FROM distillations WHERE classifier_id = :id ORDER BY id"),  # noqa: S608 - our names
        {"id": classifier_id},
    )
    return [Run(*row) for row in rows]
