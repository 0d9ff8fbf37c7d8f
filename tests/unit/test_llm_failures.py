from __future__ import annotations

from datetime import UTC, datetime

import pytest

from datashunt.llm.failures import retry_after_s

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Sun, 01 Mar 2026 12:01:30 GMT"}, 90.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}, 360.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1h2m3.5s"}, 3723.5),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "250ms"}, 0.25),
    ],
)
def test_the_wait_is_what_the_endpoint_says(headers: dict[str, str], seconds: float) -> None:
    assert retry_after_s(headers, NOW) == pytest.approx(seconds)


def test_only_the_limit_that_is_used_up_counts() -> None:
    headers = {
        "x-ratelimit-remaining-requests": "12",
        "x-ratelimit-reset-requests": "9m",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "3s",
    }
    assert retry_after_s(headers, NOW) == 3.0


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"retry-after": "soon"},
        {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1.2.3s"},
        {"x-ratelimit-remaining-tokens": "0"},
    ],
)
def test_an_endpoint_that_says_nothing_of_use_is_given_five_seconds(headers: dict[str, str]) -> None:
    assert retry_after_s(headers, NOW) == 5.0


@pytest.mark.parametrize(
    ("said", "seconds"), [("0", 0.1), ("-3", 0.1), ("nan", 0.1), ("inf", 86_400.0), ("1e300", 86_400.0)]
)
def test_the_wait_is_never_none_and_never_endless(said: str, seconds: float) -> None:
    assert retry_after_s({"retry-after": said}, NOW) == seconds


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        ("Sun, 01 Mar 2026 14:00:00 GMT", 90.0),  # this host's clock is two hours slow
        ("Sun, 01 Mar 2026 14:00:00 -0000", 7_290.0),
        ("yesterday", 7_290.0),
    ],
)
def test_a_date_is_read_on_the_endpoint_s_clock_and_not_on_this_host_s(date: str, seconds: float) -> None:
    assert retry_after_s({"retry-after": "Sun, 01 Mar 2026 14:01:30 GMT", "date": date}, NOW) == seconds


def test_a_date_without_a_zone_or_in_the_past_is_no_wait_to_speak_of() -> None:
    assert retry_after_s({"retry-after": "Sun, 01 Mar 2026 11:00:00 GMT"}, NOW) == 0.1
    assert retry_after_s({"retry-after": "Sun, 01 Mar 2026 12:01:30 -0000"}, NOW) == 5.0
