"""Bundles, promotions and what verdicts spent: who serves, since when, and why."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from datashunt.errors import BundleError
from datashunt.items import FEWEST_JUDGES
from datashunt.store.classifiers import Bundle, Registered, bundle_of, lock

REMOVED = "files_removed_at"
"""Key of a bundle's evaluation, where its files are gone."""


def add(
    tx: Connection,
    classifier: Registered,
    *,
    uri: str,
    content_hash: str,
    recipe: str,
    prune_cut: float | None,
    evaluation: Mapping[str, Any],
) -> Bundle:
    """Write down a challenger; its version is the next of its classifier."""
    row = tx.execute(
        text(
            "INSERT INTO bundles (classifier_id, version, spec_version, labels_hash, labels, state, uri,"
            " content_hash, recipe, prune_cut, evaluation, parent_id)"
            " SELECT :classifier, coalesce(max(version), 0) + 1, :spec_version, :labels_hash, :labels,"
            " 'challenger', :uri, :hash, :recipe, :cut, CAST(:evaluation AS jsonb), :parent"
            " FROM bundles WHERE classifier_id = :classifier RETURNING *"
        ),
        {
            "classifier": classifier.id,
            "spec_version": classifier.version,
            "labels_hash": classifier.spec.labels_hash,
            "labels": list(classifier.spec.label_names),
            "uri": uri,
            "hash": content_hash,
            "recipe": recipe,
            "cut": prune_cut,
            "evaluation": json.dumps(dict(evaluation)),
            "parent": classifier.incumbent.id if classifier.incumbent else None,
        },
    ).one()
    return bundle_of(row)


def set_cut(tx: Connection, bundle_id: int, cut: float | None, calibrated: Mapping[str, Any]) -> None:
    """Give a bundle another cut of its label sets, with what it was calibrated for."""
    tx.execute(
        text(
            "UPDATE bundles SET prune_cut = :cut,"
            " evaluation = evaluation || jsonb_build_object('pruning', CAST(:calibrated AS jsonb)) WHERE id = :id"
        ),
        {"id": bundle_id, "cut": cut, "calibrated": json.dumps(dict(calibrated))},
    )


def listed(tx: Connection, classifier_id: int) -> list[Bundle]:
    """All bundles of a classifier, oldest first."""
    rows = tx.execute(text("SELECT * FROM bundles WHERE classifier_id = :id ORDER BY version"), {"id": classifier_id})
    return [bundle_of(row) for row in rows]


def ever_made(tx: Connection, classifier: Registered) -> bool:
    """Whether a bundle of its current labels was ever made and judged by enough answers, whatever became of it."""
    found: bool = tx.execute(
        text(
            "SELECT EXISTS (SELECT FROM bundles b JOIN distillations d ON d.bundle_id = b.id"
            " WHERE b.classifier_id = :id AND b.labels_hash = :labels AND CAST(d.verdict ->> 'n' AS int) >= :judges)"
        ),
        {"id": classifier.id, "labels": classifier.spec.labels_hash, "judges": FEWEST_JUDGES},
    ).scalar_one()
    return found


def promote(tx: Connection, classifier_id: int, bundle_id: int, *, judged_against: int | None, cause: str) -> bool:
    """Compare and set: serve this bundle iff the incumbent is still the one it was judged against."""
    moved = tx.execute(
        text(
            "WITH moved AS (UPDATE classifiers c SET incumbent_id = :bundle FROM bundles b, specs s"
            " WHERE c.id = :classifier AND c.incumbent_id IS NOT DISTINCT FROM CAST(:against AS bigint)"
            " AND b.id = :bundle AND b.classifier_id = c.id"
            " AND s.classifier_id = c.id AND s.version = c.spec_version AND s.labels_hash = b.labels_hash"
            " RETURNING c.id),"
            " marked AS (UPDATE bundles SET state = 'promoted' FROM moved WHERE bundles.id = :bundle)"
            " INSERT INTO promotions (classifier_id, bundle_id, previous_id, cause)"
            " SELECT id, :bundle, CAST(:against AS bigint), :cause FROM moved"
        ),
        {"classifier": classifier_id, "bundle": bundle_id, "against": judged_against, "cause": cause},
    )
    if moved.rowcount != 1:
        return False
    tx.execute(
        text(
            "UPDATE certificates SET revoked_at = now(), revoked_why = 'another bundle serves'"
            " WHERE classifier_id = :classifier AND bundle_id <> :bundle AND revoked_at IS NULL"
        ),
        {"classifier": classifier_id, "bundle": bundle_id},
    )
    tx.execute(
        text(
            "UPDATE trials SET ended_at = now(), ended_why = 'another bundle serves'"
            " WHERE classifier_id = :classifier AND bundle_id <> :bundle AND ended_at IS NULL"
        ),
        {"classifier": classifier_id, "bundle": bundle_id},
    )
    tx.execute(text("UPDATE classifiers SET audit_rate = NULL WHERE id = :classifier"), {"classifier": classifier_id})
    return True


def reject(tx: Connection, bundle_id: int) -> None:
    """The challenger did not win; it stays on file and can be promoted by a person."""
    tx.execute(text("UPDATE bundles SET state = 'rejected' WHERE id = :id"), {"id": bundle_id})


def reject_waiting(tx: Connection, classifier_id: int, *, but: int) -> None:
    """Challengers that wait for a certificate, all but one, wait no more: a newer one has learned more."""
    values = {"id": classifier_id, "but": but}
    tx.execute(
        text(
            "UPDATE trials SET ended_at = now(), ended_why = 'a newer challenger won' FROM bundles"
            " WHERE bundles.id = bundle_id AND bundles.state = 'challenger' AND trials.classifier_id = :id"
            " AND bundle_id <> :but AND ended_at IS NULL"
        ),
        values,
    )
    tx.execute(
        text(
            "UPDATE bundles SET state = 'rejected' FROM distillations d WHERE d.bundle_id = bundles.id"
            " AND d.state = 'uncertified' AND bundles.state = 'challenger' AND bundles.classifier_id = :id"
            " AND bundles.id <> :but"
        ),
        values,
    )


def unneeded(tx: Connection, classifier: Registered, keep: int) -> list[Bundle]:
    """Bundles whose files nobody needs, oldest first; who serves does not change before the transaction ends.

    Needed are the one that serves, those on trial or waiting for one, the `keep` that served last, and all that are
    younger than a day.
    """
    lock(tx, classifier.id)
    rows = tx.execute(
        text(
            "SELECT b.* FROM bundles b JOIN classifiers c ON c.id = b.classifier_id"
            " WHERE c.id = :classifier AND b.id IS DISTINCT FROM c.incumbent_id"
            " AND b.created_at < now() - interval '1 day'"
            " AND NOT EXISTS (SELECT FROM trials WHERE trials.bundle_id = b.id AND ended_at IS NULL)"
            " AND NOT (b.state = 'challenger' AND EXISTS ("
            "   SELECT FROM distillations d WHERE d.bundle_id = b.id AND d.state = 'uncertified'))"
            " AND b.id NOT IN (SELECT bundle_id FROM promotions WHERE classifier_id = :classifier"
            "   AND bundle_id IS NOT NULL GROUP BY bundle_id ORDER BY max(id) DESC LIMIT :keep)"
            " ORDER BY b.version"
        ),
        {"classifier": classifier.id, "keep": keep},
    )
    return [bundle_of(row) for row in rows]


def note_removal(tx: Connection, removed: Sequence[Bundle]) -> None:
    """Write down that the files of these bundles go: none of them can serve any more."""
    tx.execute(
        text(
            "UPDATE bundles SET evaluation = evaluation || jsonb_build_object(:removed, to_jsonb(now()))"
            " WHERE id = ANY(:ids) AND NOT jsonb_exists(evaluation, :removed)"
        ),
        {"ids": [one.id for one in removed], "removed": REMOVED},
    )


def promote_by_hand(tx: Connection, classifier: Registered, version: int, *, cause: str = "person") -> Bundle:
    """Serve this version from now on.

    Raises:
        BundleError: there is no such version, it was trained for other labels, or its files were removed.
    """
    lock(tx, classifier.id)
    found = [bundle for bundle in listed(tx, classifier.id) if bundle.version == version]
    if not found:
        raise BundleError(f"{classifier.name} has no bundle {version}: `datashunt models list {classifier.name}`")
    bundle = found[0]
    if bundle.labels_hash != classifier.spec.labels_hash:
        raise BundleError(f"bundle {version} of {classifier.name} was trained for other labels: it cannot serve")
    if REMOVED in bundle.evaluation:
        raise BundleError(f"the files of bundle {version} of {classifier.name} were removed: it cannot serve")
    against = classifier.incumbent.id if classifier.incumbent else None
    if bundle.id != against and not promote(tx, classifier.id, bundle.id, judged_against=against, cause=cause):
        raise BundleError(f"the serving bundle of {classifier.name} changed meanwhile: look again and repeat")
    return bundle


def rollback(tx: Connection, classifier: Registered) -> Bundle:
    """Serve again what served before the present bundle.

    Raises:
        BundleError: nothing served before it.
    """
    if classifier.incumbent is None:
        raise BundleError(f"no bundle of {classifier.name} serves: nothing to roll back")
    previous = tx.execute(
        text(
            "SELECT b.version FROM promotions p JOIN bundles b ON b.id = p.previous_id"
            " WHERE p.classifier_id = :classifier AND p.bundle_id = :incumbent AND p.cause <> 'rollback'"
            " ORDER BY p.id DESC LIMIT 1"
        ),
        {"classifier": classifier.id, "incumbent": classifier.incumbent.id},
    ).scalar_one_or_none()
    if previous is None:
        raise BundleError(
            f"nothing served before bundle {classifier.incumbent.version} of {classifier.name}: nothing to roll back to"
        )
    return promote_by_hand(tx, classifier, previous, cause="rollback")


@dataclass(frozen=True, slots=True)
class Served:
    """One change of who serves. `version` None: nobody."""

    version: int | None
    cause: str
    at: datetime


def history(tx: Connection, classifier_id: int) -> list[Served]:
    """Every change of who serves, oldest first."""
    rows = tx.execute(
        text(
            "SELECT b.version, p.cause, p.created_at FROM promotions p LEFT JOIN bundles b ON b.id = p.bundle_id"
            " WHERE p.classifier_id = :id ORDER BY p.id"
        ),
        {"id": classifier_id},
    )
    return [Served(row.version, row.cause, row.created_at) for row in rows]


def spend(tx: Connection, classifier_id: int, kind: str, delta: float, bundle_id: int | None) -> None:
    """Enter a verdict or certificate into the ledger of error probability, which people read and no decision does."""
    tx.execute(
        text(
            "INSERT INTO delta_ledger (classifier_id, kind, delta, bundle_id)"
            " VALUES (:classifier, :kind, :delta, :bundle)"
        ),
        {"classifier": classifier_id, "kind": kind, "delta": delta, "bundle": bundle_id},
    )
