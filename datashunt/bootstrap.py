"""Wiring, once for each process: settings in, lanes out.

Parts are made, and what they need is imported, when they are first asked for: a producer loads no model, and a
score worker no LLM client.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from datashunt.broker import Publisher
from datashunt.errors import SettingsError
from datashunt.pipeline.bound import Bound
from datashunt.pipeline.submit import Intake
from datashunt.settings import Settings
from datashunt.store import Store

if TYPE_CHECKING:
    from datashunt.llm import LLM
    from datashunt.pipeline.ask import Asker
    from datashunt.pipeline.batch import Batcher
    from datashunt.pipeline.certify import Certifier
    from datashunt.pipeline.distil import Distiller
    from datashunt.pipeline.models import Directory, Models
    from datashunt.pipeline.retention import Retention
    from datashunt.pipeline.score import Scorer
    from datashunt.pipeline.tick import Ticker
    from datashunt.quota import Quota
    from datashunt.registry import Registry

REDIS = ("redis://", "rediss://", "valkey://", "valkeys://", "unix://")


class Runtime:
    """Everything one process needs, built from its settings."""

    def __init__(self, settings: Settings, *, pool_size: int = 8) -> None:
        self.settings = settings
        self._pool_size = pool_size

    @cached_property
    def store(self) -> Store:
        """The connection pool."""
        if self.settings.database_url is None:
            raise SettingsError(
                "DATASHUNT_DATABASE_URL is not set: give postgresql://user:password@host:port/database, or start"
                ' the embedded servers (datashunt up --detach) and load their URLs (eval "$(datashunt env)")'
            )
        return Store(
            self.settings.database_url,
            pool_size=self._pool_size,
            idle_in_transaction_s=self.settings.score_lease_s,
        )

    @cached_property
    def publisher(self) -> Publisher:
        """The way to the broker."""
        if self.settings.broker_url is None:
            raise SettingsError(
                "DATASHUNT_BROKER_URL is not set: give redis://host:port/0 or amqp://host:port//, or start the"
                ' embedded servers (datashunt up --detach) and load their URLs (eval "$(datashunt env)")'
            )
        return Publisher(self.settings.broker_url, self.settings.message_key, quorum=self.settings.quorum_queues)

    @cached_property
    def registry(self) -> Registry:
        """Where bundles live."""
        from datashunt.registry import Registry

        models_url = self.settings.models_url or str((self.settings.data_dir / "models").absolute())
        return Registry(models_url, self.settings.data_dir / "cache")

    @cached_property
    def quota(self) -> Quota | None:
        """The shared allowance, or None where no store for it is given."""
        from datashunt.quota import Quota

        url = self.settings.quota_url or self.settings.broker_url
        if url is None or not url.get_secret_value().startswith(REDIS):
            return None
        return Quota(url.get_secret_value())

    @cached_property
    def llm(self) -> LLM:
        """The LLM endpoint."""
        from datashunt.llm import LLM

        return LLM(self.settings.llm_base_url, self.settings.llm_api_key)

    @cached_property
    def directory(self) -> Directory:
        """Classifiers, remembered for a moment."""
        from datashunt.pipeline.models import Directory

        return Directory(self.store, self.settings.reload_every_s)

    @cached_property
    def models(self) -> Models:
        """Loaded bundles."""
        from datashunt.pipeline.models import Models

        return Models(self.registry, self.settings)

    @cached_property
    def intake(self) -> Intake:
        """Takes submissions."""
        return Intake(self.store, self.settings.max_text_bytes, Bound(self.settings.max_queued))

    @cached_property
    def scorer(self) -> Scorer:
        """The score lane."""
        from datashunt.pipeline.score import Scorer

        return Scorer(self.store, self.directory, self.models, self.settings)

    @cached_property
    def asker(self) -> Asker:
        """The LLM lane."""
        from datashunt.pipeline.ask import Asker

        return Asker(self.store, self.directory, self.llm, self.quota, self.settings)

    @cached_property
    def batcher(self) -> Batcher:
        """The batches of the LLM lane."""
        from datashunt.llm import Batches
        from datashunt.pipeline.batch import Batcher

        return Batcher(self.store, Batches(self.llm, self.settings.llm_deadline_s), self.settings)

    @cached_property
    def distiller(self) -> Distiller:
        """The distil lane."""
        from datashunt.pipeline.distil import Distiller

        return Distiller(self.store, self.models, self.registry, self.settings)

    @cached_property
    def certifier(self) -> Certifier:
        """The proofs of promises; in the distil lane, which can load bundles."""
        from datashunt.pipeline.certify import Certifier

        return Certifier(self.store, self.models, self.settings)

    @cached_property
    def retention(self) -> Retention:
        """What goes by age."""
        from datashunt.pipeline.retention import Retention

        return Retention(self.store, self.settings)

    @cached_property
    def ticker(self) -> Ticker:
        """Periodic work."""
        from datashunt.pipeline.tick import Ticker

        return Ticker(self.store, self.settings)

    def close(self) -> None:
        """Give connections back; only what was made is closed."""
        for name in ("llm", "quota", "publisher", "store"):
            part = self.__dict__.pop(name, None)
            if part is not None:
                part.close()
