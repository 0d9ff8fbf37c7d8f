"""How long to wait after an error, and for whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datashunt.errors import LLMError, LLMRejected, LLMThrottled, LLMUnauthorized, LLMUnavailable, LLMUnusable
from datashunt.pipeline.ask import ALARM_PAUSE_S, backoff, pause_of


@pytest.mark.parametrize(
    ("error", "wait_s"),
    [
        (LLMThrottled("wait", retry_after_s=7.5), 7.5),
        (LLMThrottled("now", retry_after_s=0.0), 0.05),
        (LLMUnauthorized("no", kind="unauthorized"), ALARM_PAUSE_S),
        (LLMUnavailable("down", kind="server_error"), 0.0),
        (LLMRejected("never", kind="rejected"), 0.0),
        (LLMUnusable("what", kind="empty"), 0.0),
    ],
)
def test_only_what_concerns_everybody_makes_everybody_wait(error: LLMError, wait_s: float) -> None:
    assert pause_of(error) == wait_s


@given(st.integers(0, 40))
def test_back_off_grows_to_a_minute_and_no_more(attempts: int) -> None:
    assert 0.0 <= backoff(attempts) <= min(60.0, 2.0**attempts)


def test_back_off_is_spread_over_the_whole_wait() -> None:
    waits = [backoff(3) for _ in range(400)]
    assert min(waits) < 2.0
    assert max(waits) > 6.0
