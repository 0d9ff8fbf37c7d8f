"""What the tests of batches share: the batch lane of a real database, against the simulation over real HTTP."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any
from uuid import uuid4

import openai
from lanes import NAME, World
from pydantic import SecretStr

from datashunt.items import Item
from datashunt.llm import LLM, Batches
from datashunt.pipeline.ask import Asker
from datashunt.pipeline.batch import Batcher
from datashunt.pipeline.models import Directory
from datashunt.pipeline.tick import Ticker
from datashunt.simulator import Simulator

TWO_DAYS_S = 172_800.0
OPEN = "SELECT count(*) FROM batches WHERE state <> 'harvested'"


class Killed(BaseException):
    """What ends a worker without a word, as kill -9 does."""


class Bench:
    """One classifier, its batch lane, and the endpoint that it talks to."""

    def __init__(self, world: World, simulator: Simulator) -> None:
        self.world = world
        self.simulator = simulator
        self.settings = world.settings.model_copy(update={"batch_gather_s": 0.001, "batch_poll_s": 0.05})
        self.llm = LLM(simulator.base_url, SecretStr("any"))
        self.client = openai.OpenAI(base_url=simulator.base_url, api_key="any", max_retries=0)
        self.api = Batches(self.llm, 20.0)

    def close(self) -> None:
        self.llm.close()
        self.client.close()

    @property
    def asker(self) -> Asker:
        return Asker(self.world.store, Directory(self.world.store, 0.0), self.llm, None, self.settings)

    def ask(self, *texts: str, deadline: Any = TWO_DAYS_S) -> list[int]:
        """Submit these texts and score them; returns the asks that were made."""
        items = [Item(str(uuid4()), text, deadline=deadline) for text in texts]
        _, wakes = self.world.submit(*items)
        return [row for wake in self.world.scorer().run(NAME, wakes[0].ids) for row in wake.ids]

    def live(self) -> int:
        """Let the LLM lane work on every ask; returns calls made."""
        return self.asker.run(NAME, [row.id for row in self.world.rows("SELECT id FROM asks ORDER BY id")]).calls

    def tick(self) -> list[str]:
        """One tick, and what it wakes of this lane; returns the lanes of all that it woke."""
        self.world.change("UPDATE due SET due_at = now()")
        wakes = Ticker(self.world.store, self.settings).run()
        for wake in wakes:
            if wake.lane == "batch":
                Batcher(self.world.store, self.api, self.settings).run(wake.ids)
        return [wake.lane for wake in wakes]

    def until(self, condition: Callable[[], bool]) -> None:
        """Tick until this is so."""
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, self.world.rows("SELECT state, ended_as, error FROM batches")
            self.tick()

    def harvest(self) -> None:
        """Tick until every batch is harvested."""
        self.tick()
        self.until(lambda: self.world.one(OPEN) == 0)

    def dies(self, name: str, *, after: bool, at: int = 1) -> None:
        """Tick until a worker dies just before, or just after, the n-th call of this method of the endpoint's client.

        Then its lease is over.
        """
        whole, calls = getattr(self.api, name), itertools.count(1)

        def dying(*given: Any) -> Any:
            if next(calls) < at:
                return whole(*given)
            if after:
                whole(*given)
            raise Killed

        setattr(self.api, name, dying)
        with suppress(Killed):
            self.until(lambda: False)
        setattr(self.api, name, whole)
        self.lease_over()

    def lease_over(self) -> None:
        """Let the time pass for which a dead worker holds its batch."""
        self.world.change("UPDATE batches SET lease_until = now() - interval '1 s' WHERE lease_until IS NOT NULL")
        self.world.change("UPDATE batches SET announced_at = '-infinity'")

    def remote(self) -> list[openai.types.Batch]:
        """The batches that the endpoint has been given."""
        return list(self.client.batches.list())

    def check_ledger(self) -> None:
        """What is booked is what the endpoint served, to the token, and each at its price."""
        served = self.simulator.ledger
        sums = self.world.rows(
            "SELECT count(*) FILTER (WHERE state = 'answered') AS answered, coalesce(sum(prompt_tokens), 0) AS prompt,"
            " coalesce(sum(completion_tokens), 0) AS completion, count(*) FILTER (WHERE state = 'sent') AS sent"
            " FROM calls"
        )[0]
        assert sums.sent == 0
        assert (sums.answered, sums.prompt, sums.completion) == (
            served["served"],
            served["prompt_tokens"],
            served["completion_tokens"],
        )
        for call in self.world.calls():
            full = Decimal(call.prompt_tokens or 0) / 10**6 + 2 * Decimal(call.completion_tokens or 0) / 10**6
            assert call.cost_usd == (full if call.batch_id is None else full / 2)
