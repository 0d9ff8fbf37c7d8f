from __future__ import annotations

from decimal import Decimal

import pytest

from datashunt.classifier import LLMSpec
from datashunt.classifier import parse as parse_spec
from datashunt.items import Usage
from datashunt.llm import cost, reserve
from datashunt.prompts import render

USAGE = Usage(prompt=1_000_000, completion=100_000, cached=400_000)


def test_prices_of_the_classifier_file_win() -> None:
    prices = LLMSpec(model="gpt-4.1-mini", input_price=Decimal("0.5"), output_price=Decimal(2))
    assert cost("gpt-4.1-mini", USAGE, prices) == Decimal("0.7")


def test_cached_tokens_cost_what_the_classifier_file_says() -> None:
    prices = LLMSpec(input_price=Decimal("0.5"), cached_price=Decimal("0.1"), output_price=Decimal(2))
    assert cost("gpt-4.1-mini", USAGE, prices) == Decimal("0.3") + Decimal("0.04") + Decimal("0.2")
    assert cost("m", Usage(prompt=10, completion=0, cached=20), prices) == Decimal("0.000001")


def test_a_price_of_zero_is_a_price() -> None:
    free = LLMSpec(model="ours", input_price=Decimal(0), output_price=Decimal(0))
    assert cost("ours", USAGE, free) == 0


def test_known_models_are_priced_by_either_of_their_names() -> None:
    dated = cost("gpt-4.1-mini-2025-04-14", USAGE, LLMSpec())
    assert dated is not None
    assert dated > 0
    assert cost("gpt-4.1-mini", USAGE, LLMSpec()) == dated


def test_cached_tokens_have_their_own_price() -> None:
    whole = Usage(prompt=USAGE.prompt, completion=USAGE.completion)
    with_cache, without = cost("gpt-4.1-mini", USAGE, LLMSpec()), cost("gpt-4.1-mini", whole, LLMSpec())
    assert with_cache is not None
    assert without is not None
    assert with_cache < without


def test_more_cached_tokens_than_prompt_tokens_are_no_crash() -> None:
    odd = Usage(prompt=10, completion=0, cached=20)
    assert cost("gpt-4.1-mini", odd, LLMSpec()) == cost("gpt-4.1-mini", Usage(10, 0, 10), LLMSpec())


@pytest.mark.parametrize("model", ["simulation/gpt-4.1-mini", "our-own-finetune", ""])
def test_the_price_of_an_unknown_model_is_unknown_not_zero(model: str) -> None:
    assert cost(model, USAGE, LLMSpec()) is None


def test_a_reserve_covers_the_longest_reply_to_the_prompt() -> None:
    spec = parse_spec({"name": "n", "labels": ["a", "b"], "instruction": "i"})
    prices = LLMSpec(input_price=Decimal(1), output_price=Decimal(10))
    prompt = render(spec, "x" * 400)
    expected = (Decimal(prompt.tokens()) + 10 * prompt.max_tokens) / 1_000_000
    assert reserve("m", prompt, prices) == expected
    several = (Decimal(prompt.tokens()) + 10 * 3 * prompt.max_tokens) / 1_000_000
    assert reserve("m", prompt, prices, samples=3) == several


def test_prices_of_the_classifier_file_are_those_of_the_first_model() -> None:
    prices = LLMSpec(models=("ours", "gpt-4.1-mini", "theirs"), input_price=Decimal(1), output_price=Decimal(1))
    assert cost("ours", USAGE, prices) == cost("theirs", USAGE, prices) == Decimal("1.1")
    assert cost("gpt-4.1-mini", USAGE, prices) == cost("gpt-4.1-mini", USAGE, LLMSpec())


def test_a_fallback_that_nobody_knows_costs_as_much_as_the_first() -> None:
    known = LLMSpec(model="gpt-4.1-mini", models=("gpt-4.1-mini", "theirs"))
    assert cost("theirs", USAGE, known) == cost("gpt-4.1-mini", USAGE, LLMSpec())
    unknown = LLMSpec(model="ours", models=("ours", "theirs", "gpt-4.1-mini"))
    assert cost("theirs", USAGE, unknown) is None
    assert cost("gpt-4.1-mini", USAGE, unknown) == cost("gpt-4.1-mini", USAGE, LLMSpec())
