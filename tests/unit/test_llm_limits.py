from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datashunt.items import RateLimits
from datashunt.llm.limits import stated_limits

REQUESTS, TOKENS = "x-ratelimit-limit-requests", "x-ratelimit-limit-tokens"


def test_both_limits_are_read() -> None:
    assert stated_limits({REQUESTS: "500", TOKENS: " 200000 "}) == RateLimits(500, 200_000)


@pytest.mark.parametrize("text", ["", "0", "-5", "many", "1.5", "9" * 30, "²"])
def test_what_is_no_limit_is_passed_over(text: str) -> None:
    assert stated_limits({REQUESTS: text, TOKENS: "7"}) == RateLimits(None, 7)


@given(st.text())
def test_no_header_is_an_error(text: str) -> None:
    stated_limits({REQUESTS: text})
