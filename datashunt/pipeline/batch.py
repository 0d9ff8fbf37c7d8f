"""The batches of the LLM lane: asks that can wait, in files, at a lower price.

A batch is a row that goes from state to state, each step under a lease and begun by tick when it is due. Its calls
are committed before its file is sent; a step that is begun a second time first looks whether it was done.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from uuid import uuid4

from datashunt.errors import LLMError, LLMNotFound, LLMRejected, LLMStopped, LLMUnavailable
from datashunt.items import BatchState, Reply
from datashunt.llm import Batches
from datashunt.llm.batches import ENDED, TRANSFER_S, Line
from datashunt.pipeline import settle
from datashunt.pipeline.call import Call
from datashunt.pipeline.ending import EMPTY, LATE, LOST, REFUSED, how_it_ended, keeps_out, what_is_missing
from datashunt.pipeline.filling import Filler, call_of
from datashunt.pipeline.trouble import after, backoff, pause_of
from datashunt.quota import STOPPED_S
from datashunt.settings import Settings
from datashunt.store import Connection, Store, asks, batches, classifiers
from datashunt.store.batches import Booked, ClaimedBatch
from datashunt.store.classifiers import Registered
from datashunt.telemetry import event

SETTLED_AT_ONCE = 100
"""Lines of a result file that one transaction stores."""
SPARED = 0.04
"""What part of `llm.batch_window_s` is left for asking live what a batch did not bring: an hour of 25."""
NOTHING_WAIT_S = 900.0
"""How long asks wait that made no batch, since other calls are bringing their answers."""
UNHEARD_S = 300.0
"""How long a batch waits that may have been created unheard: an endpoint lists it only when it is done with that."""
PATIENCE = 60
"""Looks at a batch that may run, or at its results, that the endpoint may refuse in a row, `DATASHUNT_BATCH_POLL_S`
apart: a gateway or another key says for a while that there is no such batch, and what runs is paid for."""

_REFUSALS = (LLMRejected, LLMNotFound)
_ROW = re.compile(r"[0-9]{1,18}")


class Batcher:
    """Takes batches forward. One for each process, shared by its threads."""

    def __init__(self, store: Store, api: Batches, settings: Settings) -> None:
        self._store = store
        self._api = api
        self._settings = settings
        self._filler = Filler(store, api)
        self._steps = {
            BatchState.BUILDING: self._build,
            BatchState.UPLOADED: self._submit,
            BatchState.SUBMITTED: self._look,
            BatchState.COMPLETED: self._harvest,
            BatchState.EXPIRED: self._harvest,
            BatchState.FAILED: self._harvest,
        }

    def run(self, rows: Sequence[int], *, stop: Callable[[], bool] = lambda: False) -> int:
        """Take each of these batches forward as far as it goes now; returns steps done.

        Raises:
            StoreError: nothing is lost; tick comes again when the lease has run out.
        """
        steps = 0
        for row in rows:
            while not stop():
                with self._store.begin() as tx:
                    batch = batches.claim(tx, row, uuid4(), lease_s=self._lease_s)
                    if batch is None:
                        break
                    known = classifiers.version(tx, batch.classifier_id, batch.spec_version)
                self._step(batch, known)
                steps += 1
        return steps

    @property
    def _lease_s(self) -> float:
        return TRANSFER_S + self._settings.ask_lease_s

    def _step(self, batch: ClaimedBatch, known: Registered) -> None:
        try:
            self._steps[batch.state](batch, known)
        except LLMError as error:
            event("batch_trouble", batch=batch.row, classifier=known.name, state=batch.state, kind=error.kind)
            if not isinstance(error, _REFUSALS):
                # Of one that runs, tries are the refusals in a row.
                self._postpone(batch, error, self._wait_s(batch, error), done=_runs(batch))
            elif _may_run(batch) and batch.tries < PATIENCE:
                self._postpone(batch, error, self._settings.batch_poll_s, done=False)
            else:
                self._give_up(batch, known, error)

    def _wait_s(self, batch: ClaimedBatch, error: LLMError) -> float:
        """Seconds before a step that failed is begun again."""
        if isinstance(error, LLMStopped):
            return STOPPED_S
        if _runs(batch):
            return max(pause_of(error), self._settings.batch_poll_s)
        if batch.state is BatchState.UPLOADED and isinstance(error, LLMUnavailable) and error.may_be_billed:
            return UNHEARD_S
        return max(pause_of(error), backoff(batch.tries, random.random()))  # noqa: S311 - not a secret

    def _postpone(self, batch: ClaimedBatch, error: LLMError, wait_s: float, *, done: bool) -> None:
        with self._store.begin() as tx:
            batches.postpone(tx, batch, wait_s=wait_s, done=done, error=str(error)[:500])

    def _give_up(self, batch: ClaimedBatch, known: Registered, error: LLMError) -> None:
        if batch.state is BatchState.SUBMITTED:
            with suppress(LLMError):  # it is not there, as far as the endpoint says
                self._api.cancel(str(batch.remote_id), known.spec.llm.model)
        with self._store.begin() as tx:
            self._end(tx, batch, LOST if _may_run(batch) else REFUSED, str(error))

    # the steps

    def _build(self, batch: ClaimedBatch, known: Registered) -> None:
        """Book the calls, unless a first try has done so, and send the file."""
        if batch.tries == 0 and not self._outdated(known):
            self._filler.fill(batch, known, lease_s=self._lease_s)
        content = self._filler.file_of(batch, known)
        if not content or self._is_late(batch, known):
            with self._store.begin() as tx:
                self._end(tx, batch, LATE if content else EMPTY, None)
            return
        model, name = known.spec.llm.model, f"datashunt-{batch.key}.jsonl"
        with self._store.begin() as tx:
            if not batches.renew(tx, batch, lease_s=self._lease_s):
                return
        file_id = self._api.find_file(name, len(content), model) if batch.tries else None
        file_id = file_id or self._api.upload(name, content, model)
        self._go_on(batch, BatchState.UPLOADED, input_file_id=file_id)

    def _submit(self, batch: ClaimedBatch, known: Registered) -> None:
        """Create it at the endpoint, unless a first try has done so."""
        model = known.spec.llm.model
        remote = self._api.find(batch.key, batch.created_at, model) if batch.tries else None
        if remote is None and self._is_late(batch, known):
            with self._store.begin() as tx:
                self._end(tx, batch, LATE, None)
            return
        remote = remote or self._api.create(str(batch.input_file_id), batch.key, model)
        self._go_on(batch, BatchState.SUBMITTED, remote_id=remote)

    def _look(self, batch: ClaimedBatch, known: Registered) -> None:
        """See how far it is; end it when the time for it is nearly over, and give it up when it is."""
        model, window_s = known.spec.llm.model, known.spec.llm.batch_window_s
        remote = self._api.look_at(str(batch.remote_id), model)
        if remote.status not in ENDED and batch.running_s > window_s:
            with self._store.begin() as tx:
                self._end(tx, batch, LOST, f"it was still {remote.status} when all of its time was over")
            return
        if remote.status not in ENDED:
            if remote.status != "cancelling" and batch.running_s > window_s * (1 - SPARED):
                self._api.cancel(remote.id, model)
            with self._store.begin() as tx:
                batches.postpone(tx, batch, wait_s=self._settings.batch_poll_s, done=True)
            return
        files = {"output_file_id": remote.output, "error_file_id": remote.errors}
        error = remote.problem or None
        self._go_on(batch, how_it_ended(remote.status), ended_as=remote.status, error=error, **files)

    def _harvest(self, batch: ClaimedBatch, known: Registered) -> None:
        """Store what it brought, ask again for what it did not, and let the endpoint forget its files."""
        stale = self._outdated(known, labels=True)
        with self._store.begin() as tx:
            if keeps_out(batch):
                batches.not_again(tx, batch)
            left = batches.open_ones(tx, batch, known.spec.labels_hash, after=0, most=1)
        lost = False
        for file_id in batch.files if left else ():
            try:
                lines = self._api.results(file_id, known.spec.llm.model)
                while some := list(islice(lines, SETTLED_AT_ONCE)):
                    if not self._settle_lines(batch, known, some, stale=stale):
                        return
            except _REFUSALS as error:
                if batch.tries < PATIENCE:
                    raise
                lost = True
                event("batch_file_lost", batch=batch.row, file=file_id, error=str(error))
        if self._settle_rest(batch, known, lost=lost):
            self._finish(batch, known)

    def _settle_lines(self, batch: ClaimedBatch, known: Registered, lines: Sequence[Line], *, stale: bool) -> bool:
        """Store these lines; False when the lease is lost."""
        asked = {int(line.custom_id): line for line in lines if _ROW.fullmatch(line.custom_id)}
        with self._store.begin() as tx:
            if not batches.renew(tx, batch, lease_s=self._lease_s):
                return False
            found = batches.booked(tx, batch, known.spec.labels_hash, list(asked))
            asks.hold(tx, *(one.ask for one in found.values()))
            for ask, booked in found.items():
                if booked.open:
                    self._settle(tx, batch, known, booked, asked[ask], stale=stale)
        strange = len(lines) - len(found)
        if strange:
            event("batch_lines_unknown", batch=batch.row, lines=strange)
        return True

    def _settle(
        self, tx: Connection, batch: ClaimedBatch, known: Registered, booked: Booked, line: Line, *, stale: bool
    ) -> None:
        call = call_of(tx, known, batch, booked.ask)
        said: Reply | LLMError
        try:
            said = self._api.reply_of(line, call.prompt, call.model)
        except LLMError as error:
            event("call_failed", classifier=known.name, ask=booked.ask.row, kind=error.kind)
            said = error
        if isinstance(said, LLMError):
            self._settle_error(tx, call, booked.call, said)
        else:
            answer = None if stale else settle.answer_of(call, said)
            settle.write_reply(tx, call, booked.call, said, answer)

    def _settle_error(self, tx: Connection, call: Call, row: int, error: LLMError) -> None:
        step = after(
            error,
            call,
            endpoint_fails=False,
            max_attempts=self._settings.llm_max_attempts,
            jitter=random.random(),  # noqa: S311 - not a secret
        )
        settle.write_error(tx, call, row, error, step)

    def _settle_rest(self, batch: ClaimedBatch, known: Registered, *, lost: bool) -> bool:
        """Settle the requests that no line spoke of; False when the lease is lost."""
        error = what_is_missing(batch, lost=lost, only=known.spec.llm.batch == "only")
        while True:
            with self._store.begin() as tx:
                if not batches.renew(tx, batch, lease_s=self._lease_s):
                    return False
                rest = batches.open_ones(tx, batch, known.spec.labels_hash, after=0, most=SETTLED_AT_ONCE)
                asks.hold(tx, *(one.ask for one in rest.values()))
                for booked in rest.values():
                    self._settle_error(tx, call_of(tx, known, batch, booked.ask), booked.call, error)
            if not rest:
                return True

    def _finish(self, batch: ClaimedBatch, known: Registered) -> None:
        """Everything is settled: whoever dies from here on, the next one has only this left to do."""
        for file_id in filter(None, (batch.input_file_id, *batch.files)):
            try:
                self._api.forget(file_id, known.spec.llm.model)
            except LLMNotFound:
                pass  # a first try was here
            except LLMError as error:
                event("batch_file_kept", batch=batch.row, file=file_id, error=str(error))
        with self._store.begin() as tx:
            # Asks without a call of their own; if none had one, the answers that they wait for are elsewhere.
            batches.release(tx, batch, wait_s=NOTHING_WAIT_S if batch.ended_as == EMPTY else 0.0)
            done = batches.go_on(tx, batch, BatchState.HARVESTED)
        if done:
            event("batch_harvested", batch=batch.row, classifier=known.name, ended_as=batch.ended_as)

    # what they share

    def _go_on(self, batch: ClaimedBatch, state: BatchState, **columns: str | None) -> None:
        with self._store.begin() as tx:
            if batches.go_on(tx, batch, state, **columns):
                event("batch_went_on", batch=batch.row, state=state, tries=batch.tries + 1)

    @staticmethod
    def _end(tx: Connection, batch: ClaimedBatch, ended_as: str, error: str | None) -> None:
        batches.go_on(tx, batch, BatchState.FAILED, ended_as=ended_as, error=error and error[:500])

    def _outdated(self, known: Registered, *, labels: bool = False) -> bool:
        """Whether another version of the classifier, or one with other `labels`, has been applied meanwhile."""
        with self._store.begin() as tx:
            now = classifiers.current(tx, known.name)
        return now.spec.labels_hash != known.spec.labels_hash if labels else now.version != known.version

    @staticmethod
    def _is_late(batch: ClaimedBatch, known: Registered) -> bool:
        """Whether it is too old to be begun."""
        return batch.age_s > known.spec.llm.batch_window_s * SPARED


def _runs(batch: ClaimedBatch) -> bool:
    """Whether the endpoint has it."""
    return batch.state not in {BatchState.BUILDING, BatchState.UPLOADED}


def _may_run(batch: ClaimedBatch) -> bool:
    """The same, or it was asked to begin it, and nobody knows what it made of that."""
    return _runs(batch) or (batch.state is BatchState.UPLOADED and batch.tries > 0)
