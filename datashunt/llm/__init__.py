"""The LLM: one request in, one answer or one error of ours out, and what it cost.

Imports prompts, items, classifier and errors.
"""

from __future__ import annotations

from datashunt.llm.batches import Batches
from datashunt.llm.client import LLM
from datashunt.llm.prices import cost, estimate, reserve
from datashunt.llm.samples import decided

__all__ = ["LLM", "Batches", "cost", "decided", "estimate", "reserve"]
