"""What one model of one endpoint has shown that it can, and so how it is asked next. No I/O: replies teach it.

With `llm.api: auto` the Decisions API is tried first: it gives probabilities. A server that does not have it says so
at no cost, once; then it is asked for chat completions, and if it does not have these either, for systemone. Some
gateways say no more than 500 of a path that they do not have: after a few of these chat has its chance, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import openai

from datashunt.classifier import MAX_CHOICES, NONE_OF_THESE, Api
from datashunt.items import ProbabilitySource, Reply
from datashunt.llm.adapter import Adapter, Manner
from datashunt.llm.chat import CHAT
from datashunt.llm.decisions import DECISIONS
from datashunt.llm.failures import concerns_the_item, refused_parameter
from datashunt.llm.systemone import SYSTEMONE
from datashunt.prompts import Prompt

_ADAPTERS = {adapter.name: adapter for adapter in (CHAT, DECISIONS, SYSTEMONE)}
_NO_SUCH_API = {404, 405, 410, 501}
_NOT_FOR_THIS_KEY = {401, 403}  # or for no key at all: then chat says so, too
_NOT_THIS_QUESTION = {400, 422}
_NO_REASON = 500  # as an outage says 502 and 503, which teach nothing
MOST_FAILURES = 3
"""So many, before a first answer, are taken for an API that is not there, if another one answers. Fewer than give the
endpoint up for everybody (quota.FAILURES)."""


@dataclass(slots=True)
class Abilities:
    """One model's. The client's event loop uses it, and threads that read batches; what gets lost is learned again.

    Attributes:
        without: optional parts of a chat request that it refuses.
        logprobs: whether its chat replies have log probabilities; None: nobody knows yet.
        most_decided: the most options of a question that its Decisions API answered.
        fewest_refused: the fewest that it refused; 0: it takes none.
        failures: 500s of it before its first answer.
        chat_missing: whether it has no chat completions.
        answered: names of the APIs that have answered.
    """

    without: frozenset[str] = frozenset()
    logprobs: bool | None = None
    most_decided: int = 0
    fewest_refused: int = MAX_CHOICES + 1
    failures: int = 0
    chat_missing: bool = False
    answered: set[str] = field(default_factory=set)

    def adapter(self, api: Api, options: int) -> Adapter:
        """Which API is asked a question with so many options."""
        if api != "auto":
            return _ADAPTERS[api]
        if options < self.fewest_refused and self.failures < MOST_FAILURES:
            return DECISIONS
        return SYSTEMONE if self.chat_missing else CHAT

    def manner(self, samples: int) -> Manner:
        """How the next chat request asks, when so many samples are wanted.

        They are drawn only where there are no log probabilities. Until that is known one is drawn that asks for
        them: whatever comes is of use.
        """
        if samples == 0 or self.logprobs:
            return Manner(self.without)
        return Manner(self.without, samples if self.logprobs is False else 1)

    def learn_refusal(self, error: openai.APIStatusError, adapter: Adapter, api: Api, prompt: Prompt) -> bool:
        """Learn from a refusal, which costs nothing; True when the question is worth asking again, in another way."""
        if adapter is CHAT:
            refused = refused_parameter(error, prompt)
            if refused is not None and refused not in self.without:
                self.without |= {refused}
                return True
        if api != "auto" or concerns_the_item(error):
            return False
        if adapter is DECISIONS:
            return self._decisions_refused(error.status_code, len(prompt.answers))
        missing = error.status_code in _NO_SUCH_API and error.code != "model_not_found"
        if missing and adapter.name not in self.answered:
            # Of an endpoint that has neither of the two nothing is remembered: it may not be there yet.
            self.chat_missing = adapter is CHAT
        again = missing and adapter is CHAT and self.chat_missing
        if not again and adapter.name not in self.answered:
            self.failures = 0  # it is the whole endpoint that fails
        return again

    def learn_reply(self, body: object, adapter: Adapter, api: Api) -> bool:
        """Learn from a page that is no reply of this API; True when another one shall be asked."""
        if api == "auto" and adapter is DECISIONS and not self.answered and not adapter.recognises(body):
            self.fewest_refused = 0
            return True
        return False

    def learn_answer(self, reply: Reply, adapter: Adapter, prompt: Prompt) -> None:
        """Learn from an answer."""
        self.answered.add(adapter.name)
        if adapter is DECISIONS:
            self.most_decided = max(self.most_decided, len(prompt.answers))
        elif adapter is CHAT and reply.label != NONE_OF_THESE:  # which never has probabilities
            self.logprobs = self.logprobs or reply.source == ProbabilitySource.LOGPROBS

    def _decisions_refused(self, status: int, options: int) -> bool:
        """Whether the status says that this question had better go to another API."""
        if status == _NO_REASON and DECISIONS.name not in self.answered:
            self.failures += 1
            return self.failures >= MOST_FAILURES
        if status in _NO_SUCH_API | _NOT_FOR_THIS_KEY and DECISIONS.name not in self.answered:
            self.fewest_refused = 0
        elif status in _NOT_THIS_QUESTION and options > self.most_decided:
            self.fewest_refused = min(self.fewest_refused, options)
        return options >= self.fewest_refused
