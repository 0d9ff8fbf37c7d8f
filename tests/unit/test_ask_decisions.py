"""How long to wait after an error, and for whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datashunt.errors import LLMError, LLMRejected, LLMThrottled, LLMUnavailable, LLMUnusable
from datashunt.pipeline.trouble import backoff, pause_of


@pytest.mark.parametrize(
    ("error", "wait_s"),
    [
        (LLMThrottled("wait", retry_after_s=7.5), 7.5),
        (LLMThrottled("now", retry_after_s=0.0), 0.05),
        (LLMUnavailable("down", kind="server_error"), 0.0),
        (LLMRejected("never", kind="rejected"), 0.0),
        (LLMUnusable("what", kind="empty"), 0.0),
    ],
)
def test_only_what_concerns_everybody_makes_everybody_wait(error: LLMError, wait_s: float) -> None:
    assert pause_of(error) == wait_s


@given(st.integers(0, 40), st.floats(0, 1))
def test_back_off_is_full_jitter_up_to_a_minute(attempts: int, jitter: float) -> None:
    assert backoff(attempts, jitter) == jitter * min(60.0, 2.0**attempts)
