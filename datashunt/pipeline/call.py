"""One call about to be made: everything that is decided before money is spent. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from datashunt import llm, prompts
from datashunt.items import ClaimedAsk, Reason, Role, Usage
from datashunt.pipeline.line import Place
from datashunt.prompts import Prompt
from datashunt.store.classifiers import Registered


@dataclass(frozen=True, slots=True)
class Call:
    """One question to one model.

    Attributes:
        place: the classifier's, with the quota of this model.
        ask: whose question it is. token: of its lease.
        model_no: which of the classifier's models is asked, 0 the first.
        prompt: the question.
        reuse_key: names everything that the answer depends on.
        votes: samples that earlier calls brought.
        share: what part of a live call's price it costs.
    """

    place: Place
    ask: ClaimedAsk
    token: UUID
    model_no: int
    prompt: Prompt
    reuse_key: bytes
    votes: tuple[str, ...] = ()
    share: Decimal = Decimal(1)

    @property
    def known(self) -> Registered:
        """The classifier."""
        return self.place.known

    @property
    def model(self) -> str:
        """Its name."""
        return self.known.spec.llm.all_models[self.model_no]

    @property
    def samples(self) -> int:
        """How many are still missing; 0 where no samples are drawn."""
        wanted = self.known.spec.llm.samples
        return 0 if wanted < 2 else max(1, wanted - len(self.votes))

    @property
    def tokens(self) -> int:
        """Estimate of prompt and reply together."""
        return self.prompt.tokens() + max(1, self.samples) * self.prompt.max_tokens

    @property
    def reserved_usd(self) -> Decimal:
        """What it costs at most; 0 if nobody knows the price."""
        prices = self.known.spec.llm
        return (llm.reserve(self.model, self.prompt, prices, max(1, self.samples)) or Decimal(0)) * self.share

    def cost(self, usage: Usage) -> Decimal | None:
        """USD for what it used; None if nobody knows the price."""
        full = llm.cost(self.model, usage, self.known.spec.llm)
        return None if full is None else full * self.share

    @property
    def may_reuse(self) -> bool:
        """Whether an answer to an equal ask will do: what the method measures with is always asked afresh."""
        return self.ask.reason is Reason.ESCALATION and self.ask.role is Role.TRAIN

    @property
    def others(self) -> range:
        """The models that may be asked in this one's stead: none for what judges or calibrates."""
        last = len(self.known.spec.llm.all_models) if self.ask.role.may_fall_back else 0
        return range(self.model_no + 1, last)

    @property
    def models(self) -> tuple[str, ...]:
        """The names of this one and of those."""
        every = self.known.spec.llm.all_models
        return (self.model, *(every[other] for other in self.others))


def put_to(place: Place, ask: ClaimedAsk, token: UUID, model_no: int) -> Call:
    """The question of an ask, put to one of the classifier's models."""
    spec = place.known.spec
    prompt = prompts.render(spec, ask.text, candidates=ask.candidates, prior=ask.prior, keep_chars=ask.keep_chars)
    key = prompts.reuse_key(spec, ask.text, prompt, model=spec.llm.all_models[model_no], keep_chars=ask.keep_chars)
    return Call(place, ask, token, model_no, prompt, key)
