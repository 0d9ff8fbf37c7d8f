"""What a worker remembers: classifiers for a moment, loaded bundles for as long as they are used."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from datashunt.errors import ModelError
from datashunt.pipeline.memory import give_back
from datashunt.registry import Registry
from datashunt.settings import Settings
from datashunt.store import Connection, Store, classifiers
from datashunt.store.classifiers import Bundle, Registered
from datashunt.telemetry import event

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from datashunt.small import Shared, SmallModel

    Part = tuple[SmallModel, Sequence[str], float | None]


HARMLESS = "a text"
"""What every model can score, or nothing."""


class Directory:
    """Classifiers by name, read again when older than `max_age_s`: so a promotion is seen in time."""

    def __init__(self, store: Store, max_age_s: float) -> None:
        self._store = store
        self._max_age_s = max_age_s
        self._known: dict[str, tuple[float, Registered]] = {}
        self._all: tuple[float, list[Registered]] = (-float("inf"), [])

    def get(self, name: str) -> Registered:
        """The classifier as it stood at most `max_age_s` seconds ago.

        Raises:
            UnknownClassifier: there is none of this name.
        """
        read_at, known = self._known.get(name, (-float("inf"), None))
        if known is None or time.monotonic() - read_at > self._max_age_s:
            with self._store.begin() as tx:
                known = classifiers.current(tx, name)
            self._known[name] = (time.monotonic(), known)
        return known

    def everyone(self) -> list[Registered]:
        """All classifiers that this release can serve, as they stood at most `max_age_s` seconds ago."""
        read_at, known = self._all
        if time.monotonic() - read_at > self._max_age_s:
            with self._store.begin() as tx:
                known = served(tx)
            self._all = (time.monotonic(), known)
            self._known.update({one.name: (self._all[0], one) for one in known})
        return known


def served(tx: Connection) -> list[Registered]:
    """All classifiers but those whose file only a newer release can read: they keep no other from being served."""
    known, errors = classifiers.readable(tx)
    for error in errors:
        event("classifier_not_read", level=logging.ERROR, error=str(error))
    return known


class Models:
    """Loaded bundles, the most recently used that fit in memory; an encoder that several have counts once."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._settings = settings
        self._loaded: OrderedDict[str, SmallModel] = OrderedDict()
        self._serving: dict[int, str] = {}
        self._shared: Shared | None = None
        self._lock = threading.Lock()

    def serving(self, known: Registered) -> SmallModel | None:
        """The bundle that serves a classifier, if there is one; the one that served it before is let go.

        Raises:
            BundleError: it is missing or altered.
            ModelError: it cannot be loaded on this device, or scores nothing there.
        """
        if known.incumbent is None:
            return None
        model = self.get(known.incumbent)
        with self._lock:
            before, self._serving[known.id] = self._serving.get(known.id), known.incumbent.content_hash
            if before is not None and before in self._loaded and before not in self._serving.values():
                del self._loaded[before]
                give_back()
        return model

    def get(self, bundle: Bundle) -> SmallModel:
        """The bundle, verified by its hash and ready to score.

        Raises:
            BundleError: it is missing or altered.
            ModelError: it cannot be loaded on this device, or scores nothing there.
        """
        with self._lock:
            model = self._loaded.get(bundle.content_hash)
            if model is None:
                model = self._loaded[bundle.content_hash] = self._load(bundle)
                while len(self._loaded) > 1 and self._bytes() > self._settings.models_memory_mb * 2**20:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(bundle.content_hash)
            return model

    def alike(self, bundle: Bundle) -> frozenset[str]:
        """Content hashes of loaded bundles whose texts can go through the encoder with those of this one."""
        with self._lock:
            own = self._loaded.get(bundle.content_hash)
            if own is None:
                return frozenset()
            return frozenset(name for name, one in self._loaded.items() if one is not own and one.shares == own.shares)

    def probabilities(self, parts: Sequence[Part], *, batch_tokens: int) -> list[NDArray[np.float32]]:
        """Probabilities (n, k) of each part's texts, one pass for all; the arguments are those of `small.together`."""
        from datashunt.small import together

        return together(parts, batch_tokens=batch_tokens)

    def _load(self, bundle: Bundle) -> SmallModel:
        from datashunt.small import Shared, SmallModel

        if self._shared is None:
            self._shared = Shared()
        folder = self._registry.fetch(bundle.uri, bundle.content_hash)
        model = SmallModel.load(
            folder,
            device=self._settings.device,
            precision=self._settings.precision,
            threads=self._settings.threads,
            shared=self._shared,
            digests=self._registry.digests(folder, bundle.content_hash),
        )
        try:
            model.probabilities([HARMLESS])
        except RuntimeError as error:
            reason = str(error).strip().split("\n")[0]
            raise ModelError(
                f"bundle {bundle.version} scores nothing on {model.device} ({reason}): look at it, or roll back"
            ) from error
        return model

    def _bytes(self) -> int:
        parts: dict[int, int] = {}
        for model in self._loaded.values():
            parts |= model.memory()
        return sum(parts.values())
