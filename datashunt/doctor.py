"""What is wrong with this installation: settings, servers, migrations, models, the LLM endpoint; and with its data.

Costs nothing and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from datashunt.bootstrap import Runtime
from datashunt.classifier import Spec
from datashunt.errors import DatashuntError
from datashunt.settings import Settings
from datashunt.store import classifiers, cursors, invariants, migrate, partitions, schema


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `detail` says what was found, and what to do if it is bad."""

    what: str
    ok: bool
    detail: str


def examine(settings: Settings) -> list[Finding]:
    """Look at everything, in the order in which things depend on each other."""
    runtime = Runtime(settings, pool_size=2)
    try:
        checks: list[tuple[str, Callable[[Runtime], str]]] = [
            ("PostgreSQL", lambda made: f"version {made.store.ping()}"),
            ("migrations", _migrations),
            ("partitions", _partitions),
            ("broker", _broker),
            ("quota", _quota),
            ("bundles", _bundles),
            ("small models", _encoders),
            ("LLM endpoint", lambda made: made.llm.check()),
            ("LLM prices", _prices),
        ]
        return [_finding(what, check, runtime) for what, check in checks]
    finally:
        runtime.close()


def examine_data(settings: Settings) -> list[Finding]:
    """Prove of a database that nothing in it is lost, double or at odds; asks nobody but PostgreSQL."""
    runtime = Runtime(settings, pool_size=1)
    try:
        with runtime.store.begin() as tx:
            why = schema.unfit(schema.revision(tx))
        if why is not None:
            return [Finding("migrations", False, why)]
        with runtime.store.begin() as tx:
            found = invariants.check(tx)
    except DatashuntError as error:
        return [Finding("PostgreSQL", False, str(error))]
    finally:
        runtime.close()
    return [Finding(one.name, broken.count == 0, _told(one, broken)) for one, broken in found]


def _told(one: invariants.Invariant, broken: invariants.Broken) -> str:
    if broken.count == 0:
        return one.sentence
    more = ", …" if broken.count > len(broken.some) else ""
    return f"broken {broken.count:,} times: {one.sentence}. Not so: {', '.join(broken.some)}{more}"


def _finding(what: str, check: Callable[[Runtime], str], runtime: Runtime) -> Finding:
    try:
        return Finding(what, True, check(runtime))
    except DatashuntError as error:
        return Finding(what, False, str(error))


def _migrations(runtime: Runtime) -> str:
    newest = str(migrate.head())
    with runtime.store.begin() as tx:
        found = schema.revision(tx)
        restored = cursors.foreign(tx) is not None
    why = schema.unfit(found)
    if why is not None:
        raise DatashuntError(why)
    if restored:
        raise DatashuntError(
            "its outcomes were written on another server (a dump was restored), and whoever reads `results` would miss"
            " new ones: run `datashunt db upgrade` before workers go on"
        )
    if str(found) < newest:
        raise DatashuntError(
            f"the database is at {found}, this release brings {newest}: its workers run already, and some of what is"
            " new needs `datashunt db upgrade`"
        )
    if str(found) > newest:
        return f"at {found}, of a newer release than this, which knows {newest}: its workers may go on"
    return f"at {found}"


def _partitions(runtime: Runtime) -> str:
    with runtime.store.begin() as tx:
        strays = partitions.strays(tx)
        months = partitions.months(tx)
        newest = partitions.reached(tx)
    if strays:
        found = ", ".join(f"{count:,} rows of {table}" for table, count in strays.items())
        raise DatashuntError(
            f"{found} found no partition of their month: run a worker or beat, whose tick makes partitions and moves"
            " them; if one runs, see its log for partitions_not_made"
        )
    return f"{len(months)}, {sum(month.first > newest for month in months)} of them for months to come"


def _broker(runtime: Runtime) -> str:
    runtime.publisher.ping()
    return "answers"


def _quota(runtime: Runtime) -> str:
    limited = [one.name for one in _specs(runtime) if one.llm.rpm or one.llm.tpm or one.llm.concurrency]
    if runtime.quota is None:
        if limited:
            raise DatashuntError(
                f"{', '.join(limited)} set llm.rpm, llm.tpm or llm.concurrency, but the broker cannot hold the"
                " allowance: set DATASHUNT_QUOTA_URL to a Redis or Valkey"
            )
        return "no classifier sets a limit, and none is shared"
    runtime.quota.ping()
    return f"shared by all workers; limits set by: {', '.join(limited) or 'nobody'}"


def _bundles(runtime: Runtime) -> str:
    with runtime.store.begin() as tx:
        known = classifiers.everyone(tx)
    serving = [one for one in known if one.incumbent is not None]
    for one in serving:
        if one.incumbent is not None:
            runtime.registry.fetch(one.incumbent.uri, one.incumbent.content_hash)
    return f"{len(serving)} of {len(known)} classifiers have one, all verified"


def _encoders(runtime: Runtime) -> str:
    from datashunt import small

    bases = sorted({one.small_model.base for one in _specs(runtime)})
    for base in bases:
        small.resolve_base(base)
    return ", ".join(bases) or "no classifier yet"


def _prices(runtime: Runtime) -> str:
    from datashunt import llm
    from datashunt.items import Usage

    unknown = sorted(
        {
            model
            for spec in _specs(runtime)
            for model in spec.llm.all_models
            if llm.cost(model, Usage(1, 1), spec.llm) is None
        }
    )
    if unknown:
        raise DatashuntError(
            f"no price is known for {', '.join(unknown)}, so cost is booked as 0:"
            " set llm.input_price and llm.output_price"
        )
    return "known for every model in use"


def _specs(runtime: Runtime) -> list[Spec]:
    with runtime.store.begin() as tx:
        return [one.spec for one in classifiers.everyone(tx)]
