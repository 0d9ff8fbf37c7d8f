"""Classifiers, their spec versions, and which bundle serves."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, Row, text

from datashunt import classifier
from datashunt.classifier import Spec
from datashunt.errors import SpecError, UnknownClassifier


@dataclass(frozen=True, slots=True)
class Bundle:
    """One version of a small model, as the registry and the lanes need it."""

    id: int
    version: int
    state: str
    uri: str
    content_hash: str
    labels: tuple[str, ...]
    labels_hash: str
    spec_version: int
    recipe: str
    prune_cut: float | None
    evaluation: dict[str, Any]
    parent_id: int | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Registered:
    """A classifier as it stands now.

    Attributes:
        incumbent: None until a first bundle is promoted.
        certified: the threshold that is proven for the incumbent, or None. audit_rate: what is audited under it.
    """

    id: int
    name: str
    version: int
    spec: Spec
    prompt_hash: str
    draw_key: bytes
    incumbent: Bundle | None
    certified: float | None = None
    audit_rate: float | None = None


def age_s(tx: Connection, known: Registered) -> float:
    """Seconds since this version of the file was applied, by the database's clock."""
    applied = "SELECT extract(epoch FROM clock_timestamp() - created_at) FROM specs"
    which = {"id": known.id, "version": known.version}
    return float(tx.execute(text(f"{applied} WHERE classifier_id = :id AND version = :version"), which).scalar_one())


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply` did: nothing, a first version, or another one."""

    version: int
    created: bool
    changed: bool
    labels_changed: bool


def apply(tx: Connection, spec: Spec, prompt_hash: str) -> Applied:
    """Make `spec` the current version of its classifier. Changed labels retire every bundle of the old ones."""
    tx.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": spec.name})
    before = tx.execute(
        text(
            "SELECT c.id, c.spec_version, s.spec_hash, s.labels_hash, c.incumbent_id FROM classifiers c"
            " JOIN specs s ON s.classifier_id = c.id AND s.version = c.spec_version"
            " WHERE c.name = :name FOR UPDATE OF c"
        ),
        {"name": spec.name},
    ).one_or_none()
    if before is not None and before.spec_hash == spec.spec_hash:
        return Applied(before.spec_version, created=False, changed=False, labels_changed=False)
    if before is None:
        row_id, version = _create(tx, spec.name), 1
    else:
        row_id, version = before.id, before.spec_version + 1
    _add_version(tx, row_id, version, spec, prompt_hash)
    tx.execute(
        text("UPDATE classifiers SET spec_version = :version WHERE id = :id"),
        {"id": row_id, "version": version},
    )
    _revoke_certificates(tx, row_id, spec, prompt_hash)
    _end_trials(tx, row_id, spec, prompt_hash)
    relabelled = before is not None and before.labels_hash != spec.labels_hash
    if relabelled and before is not None:
        _retire_bundles(tx, row_id, before.incumbent_id)
    return Applied(version, created=before is None, changed=True, labels_changed=relabelled)


def _create(tx: Connection, name: str) -> int:
    row_id: int = tx.execute(
        text("INSERT INTO classifiers (name, spec_version, draw_key) VALUES (:name, 1, :key) RETURNING id"),
        {"name": name, "key": secrets.token_bytes(32)},
    ).scalar_one()
    return row_id


def _add_version(tx: Connection, row_id: int, version: int, spec: Spec, prompt_hash: str) -> None:
    tx.execute(
        text(
            "INSERT INTO specs (classifier_id, version, spec_hash, labels_hash, prompt_hash, labels, document)"
            " VALUES (:id, :version, :spec_hash, :labels_hash, :prompt_hash, :labels, CAST(:document AS jsonb))"
        ),
        {
            "id": row_id,
            "version": version,
            "spec_hash": spec.spec_hash,
            "labels_hash": spec.labels_hash,
            "prompt_hash": prompt_hash,
            "labels": list(spec.label_names),
            "document": json.dumps(spec.document()),
        },
    )


def _revoke_certificates(tx: Connection, row_id: int, spec: Spec, prompt_hash: str) -> None:
    """A certificate speaks of one LLM, one prompt and one threshold."""
    tx.execute(
        text(
            "UPDATE certificates SET revoked_at = now(),"
            " revoked_why = 'the LLM, the prompt or the threshold changed'"
            " WHERE classifier_id = :id AND revoked_at IS NULL AND labels_hash = :labels_hash"
            " AND (prompt_hash <> :prompt_hash OR trial_id IS NULL AND threshold <> CAST(:threshold AS float8))"
        ),
        {
            "id": row_id,
            "labels_hash": spec.labels_hash,
            "prompt_hash": prompt_hash,
            "threshold": spec.policy.threshold,
        },
    )


def _end_trials(tx: Connection, row_id: int, spec: Spec, prompt_hash: str) -> None:
    """A trial is of one LLM, one prompt and one promise."""
    promise = None if spec.promise is None else json.dumps(spec.promise)
    values = {"id": row_id, "prompt_hash": prompt_hash, "promise": promise}
    other = "(prompt_hash <> :prompt_hash OR promise IS DISTINCT FROM CAST(:promise AS jsonb))"
    why = "the LLM, the prompt or the promise changed"
    tx.execute(
        text(
            "UPDATE certificates SET revoked_at = now(), revoked_why = :why FROM trials"  # noqa: S608 - our own words
            f" WHERE trials.id = trial_id AND certificates.classifier_id = :id AND revoked_at IS NULL AND"
            f" {other.replace('prompt_hash <>', 'trials.prompt_hash <>')}"
        ),
        {**values, "why": why},
    )
    tx.execute(
        text(
            "UPDATE trials SET ended_at = now(), ended_why = :why"  # noqa: S608 - our own words
            f" WHERE classifier_id = :id AND ended_at IS NULL AND {other}"
        ),
        {**values, "why": why},
    )


def _retire_bundles(tx: Connection, row_id: int, incumbent: int | None) -> None:
    tx.execute(text("UPDATE bundles SET state = 'retired' WHERE classifier_id = :id"), {"id": row_id})
    tx.execute(text("UPDATE classifiers SET incumbent_id = NULL WHERE id = :id"), {"id": row_id})
    tx.execute(
        text(
            "UPDATE certificates SET revoked_at = now(), revoked_why = 'the labels changed'"
            " WHERE classifier_id = :id AND revoked_at IS NULL"
        ),
        {"id": row_id},
    )
    tx.execute(
        text(
            "UPDATE trials SET ended_at = now(), ended_why = 'the labels changed'"
            " WHERE classifier_id = :id AND ended_at IS NULL"
        ),
        {"id": row_id},
    )
    if incumbent is not None:
        tx.execute(
            text(
                "INSERT INTO promotions (classifier_id, bundle_id, previous_id, cause)"
                " VALUES (:id, NULL, :incumbent, 'labels')"
            ),
            {"id": row_id, "incumbent": incumbent},
        )


_CURRENT = """
    SELECT c.id, c.name, s.version AS spec_version, c.draw_key, s.document, s.prompt_hash, c.audit_rate,
           b.id AS b_id, b.version, b.state, b.uri, b.content_hash, b.labels, b.labels_hash,
           b.spec_version AS b_spec_version, b.recipe, b.prune_cut, b.evaluation, b.parent_id, b.created_at,
           (SELECT max(threshold) FROM certificates
             WHERE bundle_id = b.id AND trial_id IS NOT NULL AND revoked_at IS NULL) AS certified
      FROM classifiers c
      JOIN specs s ON s.classifier_id = c.id AND s.version = c.spec_version
      LEFT JOIN bundles b ON b.id = c.incumbent_id AND b.labels_hash = s.labels_hash
"""


def current(tx: Connection, name: str) -> Registered:
    """The classifier of this name.

    Raises:
        UnknownClassifier: there is none.
    """
    if not classifier.NAME.fullmatch(name):
        raise UnknownClassifier(name)
    row = tx.execute(text(_CURRENT + " WHERE c.name = :name"), {"name": name}).one_or_none()
    if row is None:
        raise UnknownClassifier(name)
    return _registered(row)


def lock(tx: Connection, row_id: int) -> None:
    """Nobody else changes who serves, tries a bundle or draws a sample before the transaction ends."""
    tx.execute(text("SELECT FROM classifiers WHERE id = :id FOR NO KEY UPDATE"), {"id": row_id})


def id_of(tx: Connection, name: str) -> int:
    """The row of the classifier of this name: all that a producer may know of it.

    Raises:
        UnknownClassifier: there is none.
    """
    if not classifier.NAME.fullmatch(name):
        raise UnknownClassifier(name)
    found: int | None = tx.execute(
        text("SELECT id FROM classifiers WHERE name = :name"), {"name": name}
    ).scalar_one_or_none()
    if found is None:
        raise UnknownClassifier(name)
    return found


def version(tx: Connection, row_id: int, number: int) -> Registered:
    """The classifier as an earlier or the present version declares it."""
    by_version = _CURRENT.replace("s.version = c.spec_version", "s.version = :version")
    return _registered(tx.execute(text(by_version + " WHERE c.id = :id"), {"id": row_id, "version": number}).one())


def everyone(tx: Connection) -> list[Registered]:
    """All classifiers, by name."""
    return [_registered(row) for row in tx.execute(text(_CURRENT + " ORDER BY c.name"))]


def readable(tx: Connection) -> tuple[list[Registered], list[SpecError]]:
    """All classifiers, by name, whose files this release can read, and why not of the others."""
    known, errors = [], []
    for row in tx.execute(text(_CURRENT + " ORDER BY c.name")).all():
        try:
            known.append(_registered(row))
        except SpecError as error:
            errors.append(error)
    return known, errors


def _registered(row: Row[Any]) -> Registered:
    renamed = {"id": "b_id", "spec_version": "b_spec_version"}
    bundle = None if row.b_id is None else bundle_of(row, renamed)
    return Registered(
        id=row.id,
        name=row.name,
        version=row.spec_version,
        spec=classifier.parse(stored_document(row.document), where=f"classifier {row.name} in the database"),
        prompt_hash=row.prompt_hash,
        draw_key=bytes(row.draw_key),
        incumbent=bundle,
        certified=row.certified,
        audit_rate=row.audit_rate,
    )


def bundle_of(row: Row[Any], renamed: Mapping[str, str] = MappingProxyType({})) -> Bundle:
    """The bundle of a row that has its columns, some under other names."""
    fields = {name: getattr(row, renamed.get(name, name)) for name in Bundle.__slots__}
    return Bundle(**{**fields, "labels": tuple(fields["labels"])})


def stored_document(document: dict[str, Any]) -> dict[str, Any]:
    """The spec's document as the file had it: JSON keeps no order of keys, so labels are stored as pairs."""
    return {**document, "labels": dict(document["labels"])}
