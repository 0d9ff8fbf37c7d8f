"""Certificates: what is promised of the incumbent, since when, and until when it was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from datashunt.store.classifiers import Bundle, Registered


@dataclass(frozen=True, slots=True)
class Granted:
    """A certificate on file.

    Attributes:
        bundle: version of the bundle it speaks of.
        findings: of each target in words: what is promised, n answers in its scope, k that miss.
        fingerprints: the LLM's models and fingerprints in the responses that prove it.
        valid_from: it speaks of items drawn like those audited since then.
    """

    id: int
    bundle: int
    threshold: float
    alpha: float
    delta: float
    n: int
    k: int
    method: str
    llm_model: str
    fingerprints: tuple[str, ...]
    prompt_hash: str
    labels_hash: str
    bundle_hash: str
    findings: tuple[dict[str, Any], ...]
    valid_from: datetime
    granted_at: datetime
    revoked_at: datetime | None
    revoked_why: str | None

    def to_json(self) -> dict[str, Any]:
        """The certificate as JSON values."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        times = {name: moment.isoformat() for name, moment in fields.items() if isinstance(moment, datetime)}
        return {**fields, **times, "fingerprints": list(self.fingerprints), "findings": list(self.findings)}


def grant(
    tx: Connection,
    classifier: Registered,
    bundle: Bundle,
    *,
    trial_id: int | None,
    threshold: float,
    alpha: float,
    delta: float,
    n: int,
    k: int,
    method: str,
    fingerprints: Sequence[str],
    findings: Sequence[dict[str, Any]] = (),
) -> None:
    """Write a certificate; one of the same trial that is in force gives way to it.

    Args:
        tx: a transaction.
        classifier: its model, prompt and labels are those it speaks of.
        bundle: which it is of.
        trial_id: what proved it; None: it only says how the bundle stood when it was promoted.
        threshold: the least confidence that is kept.
        alpha: of the promise.
        delta: of the promise.
        n: answers in scope.
        k: those of them that miss.
        method: how it was proven.
        fingerprints: of the LLM's responses.
        findings: of each target.
    """
    if trial_id is not None:
        revoke(tx, classifier.id, "more of it is proven", bundle_id=bundle.id)
    tx.execute(
        text(
            "INSERT INTO certificates (classifier_id, bundle_id, threshold, alpha, delta, n, k, method, llm_model,"
            " fingerprints, prompt_hash, labels_hash, bundle_hash, trial_id, findings, valid_from)"
            " VALUES (:classifier, :bundle, :threshold, :alpha, :delta, :n, :k, :method, :model, :fingerprints,"
            " :prompt_hash, :labels_hash, :hash, :trial, CAST(:findings AS jsonb),"
            " coalesce((SELECT created_at FROM trials WHERE id = CAST(:trial AS bigint)), now()))"
        ),
        {
            "classifier": classifier.id,
            "bundle": bundle.id,
            "threshold": threshold,
            "alpha": alpha,
            "delta": delta,
            "n": n,
            "k": k,
            "method": method,
            "model": classifier.spec.llm.model,
            "fingerprints": sorted(set(fingerprints)),
            "prompt_hash": classifier.prompt_hash,
            "labels_hash": classifier.spec.labels_hash,
            "hash": bundle.content_hash,
            "trial": trial_id,
            "findings": json.dumps(list(findings)),
        },
    )


def revoke(tx: Connection, classifier_id: int, why: str, *, bundle_id: int | None = None) -> int:
    """Withdraw what is proven by trials, of one bundle or of all; returns how many certificates that were."""
    return tx.execute(
        text(
            "UPDATE certificates SET revoked_at = now(), revoked_why = :why WHERE classifier_id = :id"
            " AND trial_id IS NOT NULL AND revoked_at IS NULL"
            " AND bundle_id = coalesce(CAST(:bundle AS bigint), bundle_id)"
        ),
        {"id": classifier_id, "why": why, "bundle": bundle_id},
    ).rowcount


def standing(tx: Connection, bundle_id: int) -> Granted | None:
    """What is proven of a bundle and not withdrawn."""
    row = tx.execute(
        text(
            "SELECT c.*, b.version AS bundle FROM certificates c JOIN bundles b ON b.id = c.bundle_id"
            " WHERE c.bundle_id = :id AND c.trial_id IS NOT NULL AND c.revoked_at IS NULL ORDER BY c.id DESC LIMIT 1"
        ),
        {"id": bundle_id},
    ).one_or_none()
    if row is None:
        return None
    lists = ("fingerprints", "findings")
    return Granted(
        **{name: getattr(row, name) for name in Granted.__slots__ if name not in lists},
        fingerprints=tuple(row.fingerprints),
        findings=tuple(row.findings or ()),
    )


def set_audit_rate(tx: Connection, classifier_id: int, rate: float | None) -> bool:
    """Audit so much from now on; None: as while nothing is proven. Returns whether that is another rate."""
    changed = tx.execute(
        text(
            "UPDATE classifiers SET audit_rate = CAST(:rate AS real) WHERE id = :id"
            " AND audit_rate IS DISTINCT FROM CAST(:rate AS real)"
        ),
        {"id": classifier_id, "rate": rate},
    )
    return changed.rowcount == 1


def tell(tx: Connection, classifier_id: int, kind: str, detail: str) -> None:
    """Write down what happened to a promise."""
    tx.execute(
        text("INSERT INTO events (classifier_id, kind, detail) VALUES (:id, :kind, :detail)"),
        {"id": classifier_id, "kind": kind, "detail": detail},
    )


@dataclass(frozen=True, slots=True)
class Told:
    """Something that happened to a promise."""

    kind: str
    detail: str
    at: datetime


def events(tx: Connection, classifier_id: int, most: int = 20) -> list[Told]:
    """The newest events of a classifier, oldest first."""
    rows = tx.execute(
        text("SELECT kind, detail, created_at FROM events WHERE classifier_id = :id ORDER BY id DESC LIMIT :most"),
        {"id": classifier_id, "most": most},
    ).all()
    return [Told(*row) for row in reversed(rows)]
