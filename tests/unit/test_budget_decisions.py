"""What becomes of one item of a classifier with a budget, with no database."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datashunt import classifier, prompts
from datashunt.classifier import Spec
from datashunt.errors import SpecError
from datashunt.items import Reason, Role
from datashunt.pipeline import budget
from datashunt.policy import BudgetPolicy
from datashunt.store.scores import Scored

DRAFT = Scored(
    row=1,
    keep=False,
    label="good",
    confidence=0.7,
    probabilities=[0.3, 0.7],
    role=Role.TRAIN,
    propensity=None,
    offered=("good",),
    prior={"good": 0.7},
)
AUDITED = replace(DRAFT, role=Role.JUDGE, propensity=0.05, offered=None, prior=None)
COLD = replace(DRAFT, label=None, confidence=None, probabilities=None, offered=None, prior=None)
BROKEN = replace(DRAFT, confidence=float("nan"), offered=None, prior=None)
ONE = Decimal(1)
caps = st.sampled_from(["keep", "hold", "wait"])


def policy(at_cap: str = "keep") -> BudgetPolicy:
    return BudgetPolicy(mode="budget", calls_per_day=10, at_cap=at_cap)  # type: ignore[arg-type]


def spec(**changes: object) -> Spec:
    return classifier.parse({"name": "mood", "labels": ["bad", "good"], "instruction": "Say.", **changes})


@given(st.sampled_from([DRAFT, AUDITED, COLD, BROKEN]), caps, st.booleans(), st.sampled_from([None, ONE]))
def test_whatever_happens_an_item_is_kept_or_asked_or_held_and_money_goes_to_asks(
    draft: Scored, at_cap: str, escalate: bool, amount: Decimal | None
) -> None:
    one = budget.shared_out(draft, policy(at_cap), escalate=escalate, amount=amount)
    assert one.keep + one.held + (one.reason is Reason.ESCALATION) == 1
    assert (one.reserved is not None) <= (one.reason is not None)
    if one.reason is not None:
        assert one.waits == (one.reserved is None)  # what nobody pays for waits
    if draft.propensity is not None:
        assert one.reason is not None  # an audit is never dropped
    if escalate:
        assert not one.keep or (amount is None and at_cap == "keep" and draft in (DRAFT, AUDITED))


def test_who_is_paid_for_is_asked_as_drafted() -> None:
    assert budget.shared_out(DRAFT, policy(), escalate=True, amount=ONE) == replace(DRAFT, reserved=ONE)


def test_who_is_sure_enough_is_kept_with_no_prompt() -> None:
    kept = budget.shared_out(DRAFT, policy(), escalate=False, amount=None)
    assert kept == replace(DRAFT, keep=True, offered=None, prior=None)


def test_a_paid_audit_of_a_sure_item_keeps_it() -> None:
    one = budget.shared_out(AUDITED, policy(), escalate=False, amount=ONE)
    assert (one.keep, one.reason, one.reserved, one.waits) == (True, Reason.AUDIT, ONE, False)


def test_an_audit_of_a_held_item_waits() -> None:
    one = budget.shared_out(AUDITED, policy("hold"), escalate=True, amount=None)
    assert (one.keep, one.held, one.reason, one.waits) == (False, True, Reason.AUDIT, True)


@pytest.mark.parametrize("draft", [COLD, BROKEN])
def test_without_a_usable_label_nothing_can_be_kept(draft: Scored) -> None:
    one = budget.shared_out(draft, policy("keep"), escalate=True, amount=None)
    assert (one.keep, one.held, one.reason, one.waits) == (False, False, Reason.ESCALATION, True)


def test_a_call_counts_as_one_or_at_most_as_what_it_may_cost() -> None:
    calls = spec(policy={"mode": "budget", "calls_per_day": 5})
    assert isinstance(calls.policy, BudgetPolicy)
    prompt = prompts.render(calls, "text")
    assert budget.price(calls, calls.policy, prompt, 3, calls.llm.all_models) == 1
    money = spec(policy={"mode": "budget", "usd_per_day": 5}, llm={"input_price": 1, "output_price": 3})
    assert isinstance(money.policy, BudgetPolicy)
    expected = Decimal(prompt.tokens() + 3 * prompt.max_tokens) / 1_000_000
    assert budget.price(money, money.policy, prompt, 1, money.llm.all_models) == expected
    assert budget.price(money, money.policy, prompt, 3, money.llm.all_models) > expected


def test_what_may_be_put_to_several_models_is_reserved_for_at_the_dearest() -> None:
    models = ["ours", "gpt-4.1", "gpt-4.1-nano"]
    several = spec(
        policy={"mode": "budget", "usd_per_day": 5}, llm={"models": models, "input_price": 1, "output_price": 1}
    )
    assert isinstance(several.policy, BudgetPolicy)
    prompt = prompts.render(several, "text")
    each = {model: budget.price(several, several.policy, prompt, 1, [model]) for model in models}
    assert each["gpt-4.1-nano"] < each["ours"] < each["gpt-4.1"]
    assert budget.price(several, several.policy, prompt, 1, models) == each["gpt-4.1"]


def test_a_budget_in_usd_needs_a_price() -> None:
    unknown = spec(policy={"mode": "budget", "usd_per_day": 5}, llm={"model": "nobody-knows-it"})
    said = (
        "mood: policy.usd_per_day needs the price of nobody-knows-it, and nobody knows it:"
        " set llm.input_price and llm.output_price, or give policy.calls_per_day instead"
    )
    with pytest.raises(SpecError) as refused:
        budget.check_price(unknown)
    assert str(refused.value) == said
    budget.check_price(spec(llm={"model": "nobody-knows-it"}))  # without a budget it is booked as 0
    budget.check_price(spec(policy={"mode": "budget", "usd_per_day": 5}))
