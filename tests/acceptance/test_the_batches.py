"""The batch lane: what can wait is asked once, at half the price, though a worker dies between upload and harvest."""

from __future__ import annotations

from decimal import Decimal

import openai
import pytest
from sqlalchemy import text

from tests.acceptance.conftest import System, plain_items, until

ITEMS = 40
TWO_DAYS_S = 172_800


@pytest.fixture
def faults() -> str:
    """The endpoint begins the batch, and never says so."""
    return "faults: [{fault: timeout, at: [batches], calls: [1, 1], billed: true}]"


def test_a_worker_killed_between_upload_and_harvest_creates_and_pays_nothing_twice(system: System) -> None:
    system.apply(llm={"model": "teacher", "input_price": "1", "output_price": "2"})
    system.start("beat")
    system.start("score")
    worker = system.start("llm")
    system.client.submit("tone", [{**item, "deadline": TWO_DAYS_S} for item in plain_items(ITEMS)])
    until(lambda: "timeout" in system.simulator.ledger["faults"], "a batch that the endpoint has begun")
    worker.kill()
    worker.wait()
    assert system.rows("SELECT state, remote_id FROM batches WHERE remote_id IS NOT NULL") == []
    with system.store.begin() as tx:  # the lease of a dead worker is long; its end is not what is tested
        tx.execute(text("UPDATE batches SET lease_until = now() WHERE lease_until IS NOT NULL"))
    system.start("llm")
    until(lambda: system.done() == ITEMS, "all items to be done")
    until(lambda: system.one("SELECT count(*) FROM batches WHERE state <> 'harvested'") == 0, "the end of the harvest")
    system.assert_sound(ITEMS)
    with openai.OpenAI(base_url=system.simulator.base_url, api_key="simulation") as endpoint:
        assert len(list(endpoint.batches.list())) == system.one("SELECT count(*) FROM batches WHERE remote_id <> ''")
        assert list(endpoint.files.list()) == []  # they held texts
    served = system.simulator.ledger
    assert served["items"] == {item["id"]: 1 for item in plain_items(ITEMS)}
    assert served["endpoints"].keys() == {"batch"}
    ((calls, prompt, completion, usd),) = system.rows(
        "SELECT count(*), sum(prompt_tokens), sum(completion_tokens), sum(cost_usd) FROM calls WHERE state = 'answered'"
    )
    assert (calls, prompt, completion) == (ITEMS, served["prompt_tokens"], served["completion_tokens"])
    assert usd == (Decimal(prompt) + 2 * completion) / 1_000_000 / 2
    assert system.one("SELECT count(*) FROM calls") == ITEMS
