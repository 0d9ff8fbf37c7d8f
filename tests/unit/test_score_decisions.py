"""What the score lane decides about one batch, with no database and no model."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from datashunt import classifier, prompts, shunt
from datashunt.items import ClaimedItem, Reason, Role
from datashunt.pipeline.pruning import Calibration
from datashunt.pipeline.ruling import cold_start, decide
from datashunt.store.classifiers import Bundle, Registered

LABELS = ("bad", "middling", "good")
KEY = b"k" * 32


def registered(*, cut: float | None = None, **changes: Any) -> Registered:
    """A classifier with a bundle, calibrated for what it declares."""
    document = {"name": "mood", "labels": list(LABELS), "instruction": "Say.", **changes}
    spec = classifier.parse(document)
    prompt_hash = prompts.prompt_hash(spec)
    made = Calibration(cut, 100, 0, 0, spec.policy.threshold, spec.prompt.coverage, prompt_hash)
    bundle = Bundle(
        **{"id": 1, "version": 1, "state": "promoted", "uri": "x", "content_hash": "x", "labels": LABELS},
        **{"labels_hash": spec.labels_hash, "spec_version": 1, "recipe": "head", "prune_cut": cut},
        **{
            "evaluation": {"pruning": made.to_json()},
            "parent_id": None,
            "created_at": datetime(2025, 1, 1, tzinfo=UTC),
        },
    )
    return Registered(1, "mood", 1, spec, prompt_hash, KEY, bundle)


def items(count: int) -> list[ClaimedItem]:
    return [ClaimedItem(n + 1, f"i{n}", "text") for n in range(count)]


def rows(*vectors: tuple[float, ...]) -> NDArray[np.float32]:
    return np.array(vectors, dtype=np.float32)


def test_confidence_decides_and_everything_is_carried_along() -> None:
    known = registered(policy={"threshold": 0.75, "audit_rate": 0})
    kept, asked = decide(known, items(2), rows((0.1, 0.1, 0.8), (0.5, 0.3, 0.2)))
    assert (kept.row, kept.keep, kept.label, kept.reason) == (1, True, "good", None)
    assert kept.confidence == pytest.approx(0.8)
    assert kept.probabilities == pytest.approx([0.1, 0.1, 0.8])
    assert (asked.row, asked.keep, asked.label, asked.reason) == (2, False, "bad", Reason.ESCALATION)
    assert {kept.role, asked.role} == {Role.TRAIN}


def test_a_draft_is_every_item_as_it_is_if_it_escalates() -> None:
    known = registered(cut=0.3, policy={"threshold": 0.75, "audit_rate": 0}, prompt={"pruning": "both"})
    sure, doubtful = decide(known, items(2), rows((0.1, 0.1, 0.8), (0.5, 0.4, 0.1)), draft=True)
    assert (sure.keep, sure.reason, sure.label) == (False, Reason.ESCALATION, "good")
    assert sure.prior is not None
    assert doubtful == decide(known, items(2), rows((0.1, 0.1, 0.8), (0.5, 0.4, 0.1)))[1]


def test_an_empty_batch_decides_nothing() -> None:
    assert decide(registered(), [], np.zeros((0, 3), dtype=np.float32)) == []


def test_an_audit_is_asked_without_pruning_whatever_the_confidence() -> None:
    known = registered(cut=0.3, policy={"audit_rate": 1}, prompt={"pruning": "both"})
    kept, asked = decide(known, items(2), rows((0.0, 0.0, 1.0), (0.4, 0.4, 0.2)))
    assert (kept.keep, kept.reason) == (True, Reason.AUDIT)
    assert (asked.keep, asked.reason) == (False, Reason.ESCALATION)
    for one in (kept, asked):
        assert one.propensity == 1.0
        assert one.role in {Role.FIT, Role.JUDGE}
        assert one.offered is one.prior is None


def test_a_kept_item_that_is_not_audited_is_not_asked_at_all() -> None:
    known = registered(cut=0.3, policy={"audit_rate": 0}, prompt={"pruning": "both"})
    (kept,) = decide(known, items(1), rows((0.0, 0.0, 1.0)))
    assert kept.reason is kept.offered is kept.prior is kept.propensity is None


@pytest.mark.parametrize(
    ("pruning", "cut", "offered", "has_prior"),
    [
        ("off", 0.3, None, False),
        ("soft", 0.3, None, True),
        ("hard", 0.3, ("bad", "good"), False),
        ("both", 0.3, ("bad", "good"), True),
        ("hard", None, None, False),
        ("hard", 0.01, None, False),
        ("hard", 0.99, ("bad", "good"), False),
    ],
)
def test_pruning_follows_the_classifier_and_its_bundles_cut(
    pruning: str, cut: float | None, offered: tuple[str, ...] | None, has_prior: bool
) -> None:
    known = registered(cut=cut, policy={"audit_rate": 0}, prompt={"pruning": pruning})
    (asked,) = decide(known, items(1), rows((0.5, 0.1, 0.4)))
    assert asked.offered == offered
    assert (asked.prior == {"bad": 0.5, "middling": 0.1, "good": 0.4}) is has_prior


def test_a_cut_of_another_threshold_leaves_no_label_out() -> None:
    known = registered(cut=0.3, policy={"threshold": 0.9, "audit_rate": 0}, prompt={"pruning": "hard"})
    policy = known.spec.policy.model_copy(update={"threshold": 0.8})
    moved = replace(known, spec=known.spec.model_copy(update={"policy": policy}))
    vectors = rows((0.5, 0.1, 0.4))
    assert decide(known, items(1), vectors)[0].offered == ("bad", "good")
    assert decide(moved, items(1), vectors)[0].offered is None


def test_one_label_alone_is_never_offered_however_sure_it_is() -> None:
    """Nobody but the LLM answers an item that escalates."""
    known = registered(cut=0.9, policy={"threshold": 1.0, "audit_rate": 0}, prompt={"pruning": "hard"})
    (asked,) = decide(known, items(1), rows((0.98, 0.015, 0.005)))
    assert (asked.keep, asked.reason, asked.offered) == (False, Reason.ESCALATION, ("bad", "middling"))


def test_a_score_that_is_no_number_prunes_nothing_and_spoils_no_other() -> None:
    known = registered(cut=0.3, policy={"audit_rate": 0}, prompt={"pruning": "both"})
    broken, whole = decide(known, items(2), rows((float("nan"),) * 3, (0.5, 0.1, 0.4)))
    assert (broken.keep, broken.offered, broken.prior) == (False, None, None)
    assert whole.offered == ("bad", "good")


@pytest.mark.parametrize(("given_rate", "used"), [(0.05, 0.2), (0.5, 0.5), (0.0, 0.2), (1.0, 1.0)])
def test_without_a_bundle_at_least_a_fifth_is_held_out(given_rate: float, used: float) -> None:
    known = replace(registered(policy={"audit_rate": given_rate}), incumbent=None)
    asked = [cold_start(known, item) for item in items(2000)]
    held_out = [one for one in asked if one.propensity is not None]
    assert len(held_out) / 2000 == pytest.approx(used, abs=0.06)
    assert {one.propensity for one in held_out} == {used}
    assert all(one.reason is Reason.ESCALATION and one.probabilities is None for one in asked)
    assert all((one.role is Role.TRAIN) is (one.propensity is None) for one in asked)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=20, unique=True), st.floats(0, 1))
def test_role_and_draw_depend_on_the_item_alone(ids: list[str], threshold: float) -> None:
    """Neither the batch nor the score may decide who is held out."""
    known = registered(policy={"threshold": threshold, "audit_rate": 0.5})
    batch = [ClaimedItem(n, key, "text") for n, key in enumerate(ids)]
    vectors = np.random.default_rng(0).dirichlet([1, 1, 1], size=len(ids)).astype(np.float32)
    for one, item in zip(decide(known, batch, vectors), batch, strict=True):
        audited = shunt.audit(KEY, item.id, 0.5)
        assert one.role is shunt.role(KEY, item.id, audited)
        assert one.propensity == (0.5 if audited else None)
