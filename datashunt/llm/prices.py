"""What calls cost, in USD. Prices of the classifier file win; else those that genai-prices ships, offline."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from datashunt.classifier import LLMSpec, Spec
from datashunt.items import Usage
from datashunt.prompts import Prompt, render

_MILLION = Decimal(1_000_000)
_USUAL_REPLY = 5
"""Tokens of a usual reply."""


def cost(model: str, usage: Usage, prices: LLMSpec) -> Decimal | None:
    """USD for the tokens of one call; None when nobody knows the model's price.

    None is not zero: give `llm.input_price` and `llm.output_price` in the classifier file, 0 for a model that
    costs nothing. Cached tokens cost `llm.cached_price`, or the input price where the file has none;
    genai-prices has its own price for them. The file's prices are those of the first of `llm.models`; another one
    costs what genai-prices says, or as much as the first.

    Args:
        model: the model asked for, or the one that the response names.
        usage: as the endpoint counted it.
        prices: the `llm` part of the spec.
    """
    if model in prices.all_models[1:]:
        known = _listed(model, usage)
        return cost(prices.model, usage, prices) if known is None else known
    if prices.input_price is not None and prices.output_price is not None:
        cached = min(usage.cached, usage.prompt)
        cached_price = prices.input_price if prices.cached_price is None else prices.cached_price
        read = (usage.prompt - cached) * prices.input_price + cached * cached_price
        return (read + usage.completion * prices.output_price) / _MILLION
    return _listed(model, usage)


def _listed(model: str, usage: Usage) -> Decimal | None:
    # Its table takes longer to load than a light process may take to start.
    from genai_prices import Usage as Counts
    from genai_prices import calc_price

    counts = Counts(
        input_tokens=usage.prompt,
        cache_read_tokens=min(usage.cached, usage.prompt),
        output_tokens=usage.completion,
    )
    try:
        return calc_price(counts, model).total_price
    except LookupError:
        return None


def reserve(model: str, prompt: Prompt, prices: LLMSpec, samples: int = 1) -> Decimal | None:
    """USD that one call costs at most, by the estimate of its tokens; None when the price is unknown."""
    return cost(model, Usage(prompt=prompt.tokens(), completion=samples * prompt.max_tokens), prices)


def estimate(spec: Spec, text: str, candidates: Sequence[str] | None = None) -> Decimal:
    """USD that one call about this text usually costs; 0 when the price is unknown.

    Args:
        spec: the classifier.
        text: the item's.
        candidates: the labels offered, or None for all of them.
    """
    usage = Usage(prompt=render(spec, text, candidates=candidates).tokens(), completion=_USUAL_REPLY)
    return cost(spec.llm.model, usage, spec.llm) or Decimal(0)
