"""What became of every item, for reports."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, text

from datashunt.items import ItemState, Source
from datashunt.report import BundleRecord, DistillationRecord, ItemRecord
from datashunt.store import bundles, distillations
from datashunt.store.classifiers import Registered

_ITEMS = text("""
    SELECT i.key, i.state, i.label, i.source, b.version, s.label AS small_label,
           coalesce(a.reason = 'escalation', false) AS escalated, a.propensity IS NOT NULL AS audited,
           w.label AS llm_label
      FROM items i
      LEFT JOIN LATERAL (SELECT bundle_id, label FROM scores WHERE item_id = i.id ORDER BY id DESC LIMIT 1) s
             ON true
      LEFT JOIN bundles b ON b.id = s.bundle_id
      LEFT JOIN LATERAL (SELECT id, reason, propensity FROM asks WHERE item_id = i.id ORDER BY id DESC LIMIT 1) a
             ON true
      LEFT JOIN answers w ON w.ask_id = a.id AND w.item_id = i.id
     WHERE i.classifier_id = :classifier ORDER BY i.id
""")


def items(tx: Connection, classifier_id: int) -> list[ItemRecord]:
    """One record for each item, in the order in which they were stored; gold and teacher are left open."""
    return [
        ItemRecord(
            id=row.key,
            position=position,
            state=ItemState(row.state),
            label=row.label,
            source=None if row.source is None else Source(row.source),
            bundle=row.version,
            small_label=row.small_label,
            escalated=row.escalated,
            audited=row.audited,
            llm_label=row.llm_label,
        )
        for position, row in enumerate(tx.execute(_ITEMS, {"classifier": classifier_id}))
    ]


def served(tx: Connection, known: Registered) -> list[BundleRecord]:
    """Every bundle that ever served, oldest first."""
    versions = {change.version for change in bundles.history(tx, known.id)}
    return [
        BundleRecord(bundle.version, bundle.recipe, known.spec.policy.threshold)
        for bundle in bundles.listed(tx, known.id)
        if bundle.version in versions
    ]


def ended(tx: Connection, known: Registered) -> Sequence[DistillationRecord]:
    """Every distillation that ended, oldest first, with its place along the stream."""
    by_id = {bundle.id: bundle for bundle in bundles.listed(tx, known.id)}
    records = []
    for run in distillations.listed(tx, known.id):
        if run.finished_at is None:
            continue
        bundle = by_id.get(run.bundle_id) if run.bundle_id is not None else None
        verdict = run.verdict or {}
        records.append(
            DistillationRecord(
                at_item=_scored_before(tx, known.id, run),
                state=run.state,
                reason=verdict.get("reason") or run.error or "",
                bundle=bundle.version if bundle else None,
                recipe=bundle.recipe if bundle else None,
                answers=(run.n_train or 0) + (run.n_fit or 0),
                judged=run.n_judge or 0,
                agreement=verdict.get("agreement_challenger"),
                incumbent_agreement=verdict.get("agreement_incumbent"),
                seconds=(run.finished_at - run.started_at).total_seconds(),
            )
        )
    return records


def _scored_before(tx: Connection, classifier_id: int, run: distillations.Run) -> int:
    """Items whose fate was decided when the run ended: scored, or asked without a score."""
    count: int = tx.execute(
        text(
            "SELECT count(*) FROM items WHERE classifier_id = :classifier AND ("
            " EXISTS (SELECT FROM scores WHERE item_id = items.id AND created_at <= :ended)"
            " OR EXISTS (SELECT FROM asks WHERE item_id = items.id AND created_at <= :ended))"
        ),
        {"classifier": classifier_id, "ended": run.finished_at},
    ).scalar_one()
    return count
