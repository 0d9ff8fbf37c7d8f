"""What tick finds: due rows, expired leases, and rows that stand still though workers pass them by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, text

from datashunt.items import Wake
from datashunt.store import budgets
from datashunt.store.claims import for_a_batch, in_line

MOST_ROWS = 1024
"""Most rows of one classifier and lane that one tick publishes again."""
FRONT = 8 * MOST_ROWS
"""Rows of a classifier's backlog that one tick looks at, those that are next; what stands behind comes up to here."""
MOST_ASKS = 64
"""The same for asks: each message sets a thread to work on all that is due."""


def take_due(tx: Connection, name: str, *, every_s: float) -> bool:
    """Whether this caller shall do the periodic work of that name now; moves its due time forward.

    A name seen for the first time is due at once. So is one whose due time lies more than two intervals ahead: it was
    set when the work was rarer. One interval would not do: a transaction that began a moment before another one took
    the work sees a due time further ahead than that.
    """
    tx.execute(text("INSERT INTO due (name) VALUES (:name) ON CONFLICT DO NOTHING"), {"name": name})
    taken = tx.execute(
        text(
            "UPDATE due SET due_at = now() + make_interval(secs => :every_s)"
            " WHERE name = (SELECT name FROM due WHERE name = :name AND"
            "     (due_at <= now() OR due_at > now() + make_interval(secs => 2 * :every_s)) FOR UPDATE SKIP LOCKED)"
        ),
        {"name": name, "every_s": every_s},
    )
    return taken.rowcount == 1


_EXPIRED_ITEMS = text("""
    WITH expired AS (
        SELECT id, attempts >= :most AS hopeless FROM items
         WHERE state = 'scoring' AND lease_until < now() LIMIT 10000 FOR UPDATE SKIP LOCKED),
    freed AS (
        UPDATE items SET state = CASE WHEN hopeless THEN 'dead' ELSE 'queued' END,
                         lease_token = NULL, lease_until = NULL, announced_at = '-infinity'
          FROM expired WHERE items.id = expired.id
     RETURNING items.id, items.classifier_id, items.attempts, hopeless),
    buried AS (
        INSERT INTO dead_letters (classifier_id, item_id, reason, detail)
        SELECT classifier_id, id, 'never_scored',
               format('claimed %s times and never finished: it may bring its worker down', attempts)
          FROM freed WHERE hopeless)
    SELECT count(*) FROM freed
""")

_EXPIRED_ASKS = text(f"""
    WITH expired AS (
        SELECT id, attempts + lost.calls AS tries, attempts + lost.calls >= :most AS hopeless,
               budget_day_id, reserved
          FROM asks, LATERAL (
            SELECT CASE WHEN EXISTS (
                SELECT FROM calls WHERE ask_id = asks.id AND item_id = asks.item_id
                   AND attempt = asks.attempts + asks.misses + 1
                   AND calls.state IN ('sent', 'unknown')) THEN 1 ELSE 0 END AS calls) AS lost
         WHERE state = 'calling' AND lease_until < now() LIMIT 10000 FOR UPDATE OF asks SKIP LOCKED),
    freed AS (
        UPDATE asks SET state = CASE WHEN hopeless THEN 'dead' ELSE 'waiting' END, attempts = tries,
                        budget_day_id = CASE WHEN NOT hopeless THEN expired.budget_day_id END,
                        reserved = CASE WHEN NOT hopeless THEN expired.reserved END,
                        lease_token = NULL, lease_until = NULL, announced_at = '-infinity'
          FROM expired WHERE asks.id = expired.id
     RETURNING asks.id, asks.item_id, asks.classifier_id, reason, tries, hopeless,
               CASE WHEN hopeless THEN expired.budget_day_id END AS day, expired.reserved AS amount),
    {budgets.booked(closed="freed")},
    lost_items AS (
        UPDATE items SET state = 'dead' FROM freed
         WHERE items.id = freed.item_id AND hopeless AND reason = 'escalation' AND items.state = 'asked'),
    buried AS (
        INSERT INTO dead_letters (classifier_id, item_id, ask_id, reason, detail)
        SELECT classifier_id, item_id, id, 'never_answered',
               format('called %s times, and no worker came back with a reply', tries)
          FROM freed WHERE hopeless)
    SELECT count(*) FROM freed
""")  # noqa: S608 - the parts are constants of ours

_UNKNOWN_CALLS = text(f"""
    WITH settled AS (
        UPDATE calls SET state = 'unknown', cost_usd = reserved_usd, settled_at = now(), error_kind = 'no_reply',
                         error = 'the worker that sent it left no word'
         WHERE state = 'sent' AND batch_id IS NULL AND created_at < now() - make_interval(secs => :deadline_s)
     RETURNING calls.*, 'sent' AS was, 0.0 AS was_usd),
    {budgets.booked(calls=True)}
    SELECT count(*) FROM settled
""")  # noqa: S608 - the parts are constants of ours

_EXPIRED_RUNS = text("""
    UPDATE distillations SET state = CASE WHEN attempts >= 3 THEN 'failed' ELSE 'due' END,
                             finished_at = CASE WHEN attempts >= 3 THEN now() END,
                             error = 'its worker left no word', announced_at = '-infinity',
                             lease_token = NULL, lease_until = NULL
     WHERE state = 'running' AND lease_until < now()
""")


@dataclass(frozen=True, slots=True)
class Freed:
    """How many leases had run out, by kind, and how many calls are booked as unknown."""

    items: int
    asks: int
    calls: int
    distillations: int


def free_expired(tx: Connection, *, score_max_attempts: int, llm_max_attempts: int, call_deadline_s: float) -> Freed:
    """Take back what dead workers held; what was claimed too often goes to the dead letters.

    An ask uses up an attempt only if its call was sent: whoever died while it waited for the quota spent none.
    """
    items = tx.execute(_EXPIRED_ITEMS, {"most": score_max_attempts}).scalar_one()
    calls = tx.execute(_UNKNOWN_CALLS, {"deadline_s": call_deadline_s}).scalar_one()
    asks = tx.execute(_EXPIRED_ASKS, {"most": llm_max_attempts}).scalar_one()
    runs = tx.execute(_EXPIRED_RUNS).rowcount
    return Freed(items, asks, calls, runs)


_STANDING_ITEMS = text("""
    WITH at_work AS (
        SELECT max(announced_at) AS newest FROM items WHERE state = 'scoring' AND lease_until > now()),
    standing AS (
        SELECT row.id FROM classifiers, at_work, LATERAL (
            SELECT id FROM (
                SELECT id, priority, announced_at FROM items WHERE classifier_id = classifiers.id AND state = 'queued'
                 ORDER BY priority, id LIMIT :front) AS front
             WHERE announced_at < now() - make_interval(secs => :still_s)
               AND (newest IS NULL OR announced_at < newest - make_interval(secs => :still_s))
             ORDER BY priority, id LIMIT :most) AS row),
    free AS (
        SELECT id FROM items WHERE id IN (SELECT id FROM standing) AND state = 'queued' FOR UPDATE SKIP LOCKED),
    announced AS (
        UPDATE items SET announced_at = now() FROM free WHERE items.id = free.id
     RETURNING items.classifier_id, items.id)
    SELECT name, array_agg(announced.id ORDER BY announced.id) AS ids
      FROM announced JOIN classifiers ON classifiers.id = classifier_id GROUP BY name ORDER BY name
""")

_LIVE = f"{for_a_batch('known.beyond_s')} IS NOT TRUE"
_STANDS = f"""{_LIVE}
               AND (asks.announced_at < asks.not_before
                    OR asks.announced_at < now() - make_interval(secs => :still_s) AND NOT lately)"""
_STANDING_ASKS = text(f"""
    WITH at_work AS (
        SELECT EXISTS (
            SELECT FROM asks WHERE state = 'calling'
               AND lease_until > now() + make_interval(secs => :lease_s - :still_s)) AS lately),
    standing AS (
        SELECT row.id FROM unnest(CAST(:classifiers AS int[]), CAST(:beyond_s AS float[])) AS known (id, beyond_s),
               at_work, LATERAL ({in_line("known.id", _STANDS, ":most")}) AS row),
    announced AS (
        UPDATE asks SET announced_at = now() FROM standing WHERE asks.id = standing.id
     RETURNING asks.classifier_id, asks.id)
    SELECT name, array_agg(announced.id ORDER BY announced.id) AS ids
      FROM announced JOIN classifiers ON classifiers.id = classifier_id GROUP BY name ORDER BY name
""")  # noqa: S608 - our own words

_DUE_ASKS = text(f"""
    WITH due AS (
        SELECT row.id FROM unnest(CAST(:classifiers AS int[]), CAST(:beyond_s AS float[])) AS known (id, beyond_s),
               LATERAL ({in_line("known.id", _LIVE, ":most")}) AS row
         LIMIT :most),
    announced AS (
        UPDATE asks SET announced_at = now() FROM due WHERE asks.id = due.id RETURNING asks.classifier_id, asks.id)
    SELECT name, announced.id FROM announced JOIN classifiers ON classifiers.id = classifier_id ORDER BY announced.id
""")  # noqa: S608 - our own words


def due_asks(tx: Connection, beyond_s: Mapping[int, float | None]) -> list[Wake]:
    """A message for each ask that is due, as many as set all threads to work; they count as announced.

    Args:
        tx: a transaction.
        beyond_s: of each classifier the `llm.batch_beyond_s`: asks for a batch wait for that, and wake nobody.
    """
    values = {"classifiers": list(beyond_s), "beyond_s": list(beyond_s.values()), "most": MOST_ASKS}
    return [Wake("llm", row.name, (row.id,)) for row in tx.execute(_DUE_ASKS, values)]


_STANDING_RUNS = text("""
    WITH announced AS (
        UPDATE distillations SET announced_at = now()
         WHERE state = 'due' AND announced_at < now() - make_interval(secs => :still_s)
     RETURNING classifier_id, id)
    SELECT name, ARRAY[announced.id] AS ids
      FROM announced JOIN classifiers ON classifiers.id = classifier_id ORDER BY name
""")


def standing_still(
    tx: Connection, beyond_s: Mapping[int, float | None], *, still_s: float, ask_lease_s: float
) -> list[Wake]:
    """Rows whose message seems lost: nobody works in their lane, or younger rows are at work already.

    An honest backlog is neither: its rows wait behind older ones. Threads of the LLM lane take what is due whatever
    woke them, so asks stand still only if nobody took any for `still_s`; a lease says when by its end. Asks that
    waited for their time are due for a message of their own, and each brings a thread: as many as went away when they
    began to wait. What is returned counts as announced again.

    Args:
        tx: a transaction.
        beyond_s: of each classifier the `llm.batch_beyond_s`: asks for a batch are not announced one by one.
        still_s: seconds after which a row that nobody takes stands still.
        ask_lease_s: length of the lease of an ask.
    """
    found = []
    items = {"still_s": still_s, "most": MOST_ROWS, "front": FRONT}
    waiting = {
        "still_s": still_s,
        "most": MOST_ASKS,
        "lease_s": ask_lease_s,
        "classifiers": list(beyond_s),
        "beyond_s": list(beyond_s.values()),
    }
    for lane, statement, values in (("score", _STANDING_ITEMS, items), ("llm", _STANDING_ASKS, waiting)):
        for row in tx.execute(statement, values):
            together = [tuple(row.ids)] if lane == "score" else [(ask,) for ask in row.ids]
            found += [Wake(lane, row.name, ids) for ids in together]
    runs = tx.execute(_STANDING_RUNS, {"still_s": still_s})
    found += [Wake("distil", row.name, tuple(row.ids)) for row in runs]
    return found
