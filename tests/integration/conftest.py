"""A classifier on a database of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing

import pytest
from lanes import World
from pydantic import SecretStr

from datashunt.bootstrap import Runtime

OF_WORKERS = {
    "test_ask_lane",
    "test_ask_line",
    "test_ask_trouble",
    "test_backtest_equals_live",
    "test_batches",
    "test_bound",
    "test_budget",
    "test_bundle_switches",
    "test_certify",
    "test_distil_lane",
    "test_drift_guard",
    "test_intake_task",
    "test_liveness",
    "test_llm_errors",
    "test_promise_of_all",
    "test_pruning",
    "test_reuse",
    "test_score_lane",
    "test_submissions",
    "test_ticks",
}
"""Modules about what workers do: they do it with the rights of `datashunt_worker`, so that each test also proves those
to be enough. What a person does in them goes by `World.admin`."""


@pytest.fixture
def world(request: pytest.FixtureRequest, runtime: Runtime) -> Iterator[World]:
    """The classifier `sentiment`, applied, with no bundle yet."""
    if request.module.__name__.rpartition(".")[2] not in OF_WORKERS:
        made = World(runtime)
        made.apply()
        yield made
        return
    assert runtime.settings.database_url is not None
    logins: Mapping[str, Callable[[str], str]] = request.getfixturevalue("logins")
    url = SecretStr(logins["worker"](runtime.settings.database_url.get_secret_value()))
    with closing(Runtime(runtime.settings.model_copy(update={"database_url": url}))) as limited:
        made = World(limited, runtime.store)
        made.apply()
        yield made
