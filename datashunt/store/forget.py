"""Forgetting: what an item said and what was said of it goes; that it was there, and what it cost, stays."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from datashunt.errors import UsageError
from datashunt.store import asks, partitions

SHOWN = 5
"""Most unknown ids that an error names."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was forgotten.

    Attributes:
        items: how many items, those that were forgotten before among them.
        in_flight: how many of them a worker held at that moment; what it still brings is thrown away.
        bundles: versions of bundles that may have been trained or calibrated on them, or began as such a one.
        distilling: whether a distillation runs that may have read them; its bundle will be listed when it ends.
    """

    items: int
    in_flight: int
    bundles: tuple[int, ...]
    distilling: bool


_LOCK = (
    text("SELECT FROM asks WHERE item_id = ANY(:rows) ORDER BY id FOR UPDATE"),
    text("SELECT FROM items WHERE id = ANY(:rows) ORDER BY id FOR UPDATE"),
)
_IN_FLIGHT = text("""
    SELECT count(*) FROM items WHERE id = ANY(:rows) AND (state = 'scoring' OR EXISTS (
           SELECT FROM asks WHERE item_id = items.id AND asks.state = 'calling'))
""")
# One that runs ends after this transaction, and finds what was forgotten meanwhile.
_RUNS = text("""
    SELECT count(*) FROM (SELECT FROM distillations WHERE classifier_id = :classifier AND state IN ('due', 'running')
                             AND attempts > 0 FOR SHARE) AS runs
""")
# A distillation sees answers and scores up to those it names, of which it may leave some out.
_LISTED = """
    INSERT INTO forgotten (item_id, bundles)
    SELECT i.id, ARRAY(
        WITH RECURSIVE learnt AS (
            SELECT b.id, b.version FROM distillations d JOIN bundles b ON b.id = d.bundle_id
             WHERE d.classifier_id = i.classifier_id
               AND (d.up_to_answer >= (SELECT min(id) FROM answers WHERE item_id = i.id)
                    OR d.up_to_score >= (SELECT min(id) FROM scores WHERE item_id = i.id){or_later})
             UNION
            SELECT b.id, b.version FROM bundles b JOIN learnt ON b.parent_id = learnt.id)
        SELECT version FROM learnt ORDER BY version)
      FROM items i WHERE i.id = ANY(:rows)
    ON CONFLICT (item_id) DO NOTHING
"""
# Of a removed month nobody knows any more which these were.
_LATER = """
                    OR d.finished_at >= i.created_at AND EXISTS (
                        SELECT FROM removed_months r WHERE r.classifier_id = i.classifier_id
                           AND i.id >= r.first_item AND i.id < r.end_item)"""
_BUNDLES = {False: text(_LISTED.format(or_later="")), True: text(_LISTED.format(or_later=_LATER))}
# With those that began as one of the listed since.
_NOW_LISTED = text("""
    WITH RECURSIVE learnt AS (
        SELECT b.id, b.version FROM forgotten f JOIN items i ON i.id = f.item_id
          JOIN bundles b ON b.classifier_id = i.classifier_id AND b.version = ANY(f.bundles)
         WHERE f.item_id = ANY(:rows)
         UNION
        SELECT b.id, b.version FROM bundles b JOIN learnt ON b.parent_id = learnt.id)
    SELECT version FROM learnt ORDER BY version
""")
_REMOVE = (
    text("UPDATE asks SET state = 'forgotten', offered = NULL, prior = NULL WHERE item_id = ANY(:rows)"),
    # An answer that repeats one of these is still paid for, and must not be taken for an original.
    text(
        "UPDATE answers SET reused_from = id WHERE item_id <> ALL(:rows)"
        " AND reused_from IN (SELECT id FROM answers WHERE item_id = ANY(:rows))"
    ),
    text("DELETE FROM answers WHERE item_id = ANY(:rows)"),
    text("UPDATE calls SET error = NULL, reuse_key = NULL, votes = NULL WHERE item_id = ANY(:rows)"),
    text("DELETE FROM sampled_items WHERE item_id = ANY(:rows)"),
    text(
        "UPDATE items SET state = 'forgotten', label = NULL, outcome_id = NULL, lease_token = NULL,"
        " lease_until = NULL WHERE id = ANY(:rows)"
    ),
    text("DELETE FROM outcomes WHERE item_id = ANY(:rows)"),
    text("DELETE FROM scores WHERE item_id = ANY(:rows)"),
    text("DELETE FROM texts WHERE item_id = ANY(:rows)"),
    text(
        "UPDATE dead_letters SET detail = 'forgotten', replayed_at = coalesce(replayed_at, now())"
        " WHERE item_id = ANY(:rows)"
    ),
)
# What the text can be recognised by: nobody can try texts against a number drawn by lot.
_UNHASH = (
    text(
        "UPDATE submissions SET payload_hash = sha256(payload_hash || CAST(:salt AS bytea))"
        " WHERE id IN (SELECT submission_id FROM items WHERE id = ANY(:rows))"
    ),
    text("UPDATE items SET text_hash = sha256(text_hash || CAST(:salt AS bytea)) WHERE id = ANY(:rows)"),
)


def forget(tx: Connection, classifier_id: int, name: str, keys: Sequence[str]) -> Forgotten:
    """Remove the texts of these items and all that was said of them. To do it again changes nothing.

    Raises:
        UsageError: some of the ids are unknown; nothing was forgotten.
    """
    found = tx.execute(
        text("SELECT id, key, state FROM items WHERE classifier_id = :classifier AND key = ANY(:keys) ORDER BY id"),
        {"classifier": classifier_id, "keys": list(keys)},
    ).all()
    unknown = sorted(set(keys) - {row.key for row in found})
    if unknown:
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        raise UsageError(f"{name} has no item {', '.join(map(repr, unknown[:SHOWN]))}{more}: nothing was forgotten")
    every = {"rows": [row.id for row in found]}
    for statement in _LOCK:
        tx.execute(statement, every)
    in_flight = tx.execute(_IN_FLIGHT, every).scalar_one()
    runs = tx.execute(_RUNS, {"classifier": classifier_id}).scalar_one()
    tx.execute(_BUNDLES[partitions.there(tx)], every)
    new = {"rows": [row.id for row in found if row.state != "forgotten"]}
    asks.withdraw(tx, new["rows"])
    for statement in _REMOVE:
        tx.execute(statement, every)  # also what a call that was under way then has left since
    for statement in _UNHASH:
        tx.execute(statement, {**new, "salt": secrets.token_bytes(32)})
    bundles = tx.execute(_NOW_LISTED, every)
    return Forgotten(len(found), in_flight, tuple(bundles.scalars()), runs > 0)


_MEANWHILE = text("""
    SELECT f.item_id FROM forgotten f JOIN items i ON i.id = f.item_id
      JOIN distillations d ON d.classifier_id = i.classifier_id
     WHERE d.id = :run AND f.forgotten_at > d.created_at - interval '5 minutes' AND :version <> ALL(f.bundles)
""")
_LIST = text("UPDATE forgotten SET bundles = bundles || CAST(:version AS int) WHERE item_id = ANY(:rows)")


def list_bundle(tx: Connection, run: int, version: int) -> None:
    """List a distillation's bundle for all items that were forgotten since shortly before it: it may have read them.

    Call it after the run was ended in this transaction, for which a `forget` that goes on is waited.
    """
    rows = list(tx.execute(_MEANWHILE, {"run": run, "version": version}).scalars())
    if rows:
        tx.execute(_LIST, {"version": version, "rows": rows})
