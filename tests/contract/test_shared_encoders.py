"""Bundles with the same encoder: loaded once, with each its own head, within a bound of memory."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import LABELS, texts, tiny_base

from datashunt import small
from datashunt.errors import BundleError, ModelError
from datashunt.pipeline.models import Models
from datashunt.registry import Registry
from datashunt.settings import Settings
from datashunt.small import weights
from datashunt.small.network import ClassifierConfig, load_tokenizer
from datashunt.small.sharing import encoder_digest, size_of
from datashunt.store.classifiers import Bundle, Registered

TEXTS = texts(20)[0]
INFO = small.BundleInfo(LABELS, 1.5, "head", 0.9, "a/base", 12, "2026-01-01T00:00:00+00:00")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_base(tmp_path_factory.mktemp("base"))


def written(folder: Path, base: str, seed: int, *, tuned: bool = False, **changes: Any) -> Path:
    """A bundle over the base with a head of this seed; tuned: its encoder is its own."""
    draw = torch.Generator().manual_seed(seed)
    info = replace(INFO, **changes)
    network = small.SequenceClassifier.of_base(base, info.labels)
    torch.nn.init.normal_(network.head.weight, generator=draw)
    if tuned:
        torch.nn.init.normal_(network.encoder.embeddings.word_embeddings.weight, generator=draw)
    small.save(folder, network, load_tokenizer(base, info.max_tokens), info)
    return folder


def loaded(folder: Path, shared: small.Shared | None = None) -> small.SmallModel:
    return small.SmallModel.load(folder, device="cpu", precision="fp32", shared=shared)


def test_bundles_over_one_base_share_its_encoder_and_say_what_they_say_alone(base: str, tmp_path: Path) -> None:
    folders = [written(tmp_path / str(seed), base, seed) for seed in range(3)]
    folders.append(written(tmp_path / "more", base, 7, labels=("yes", "no")))
    shared = small.Shared()
    together = [loaded(folder, shared) for folder in folders]
    assert len({id(model.network.encoder) for model in together}) == 1
    assert len({id(model.tokenizer) for model in together}) == 1
    for folder, model in zip(folders, together, strict=True):
        alone = loaded(folder)
        assert alone.network.encoder is not model.network.encoder
        np.testing.assert_array_equal(model.probabilities(TEXTS), alone.probabilities(TEXTS))
        assert not model.network.training


def test_a_tuned_encoder_is_its_bundles_own(base: str, tmp_path: Path) -> None:
    shared = small.Shared()
    plain, tuned = (loaded(written(tmp_path / str(tuned), base, 1, tuned=tuned), shared) for tuned in (False, True))
    assert plain.network.encoder is not tuned.network.encoder
    assert np.abs(plain.probabilities(TEXTS) - tuned.probabilities(TEXTS)).max() > 1e-3


def test_texts_are_cut_as_each_bundle_says(base: str, tmp_path: Path) -> None:
    shared = small.Shared()
    short, long = (loaded(written(tmp_path / str(n), base, 1, max_tokens=n), shared) for n in (4, 12))
    assert short.network.encoder is long.network.encoder
    assert [len(model.encode(["the camera is really great and lovely"])[0]) for model in (short, long)] == [4, 9]


def test_an_encoder_that_nobody_uses_is_gone(base: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "b", base, 1)
    shared = small.Shared()
    assert loaded(folder, shared).network is not None
    gc.collect()
    assert not list(shared._encoders.values())


def test_a_head_that_does_not_fit_is_refused_also_beside_a_known_encoder(base: str, tmp_path: Path) -> None:
    shared = small.Shared()
    good, bad = (written(tmp_path / name, base, 1) for name in ("good", "bad"))
    kept = loaded(good, shared)
    path = bad / "model.safetensors"
    tensors = load_file(path)
    tensors["head.weight"] = tensors["head.weight"][:2].clone()
    save_file(tensors, path, metadata={"format": "pt"})
    config = ClassifierConfig.from_pretrained(good)
    assert encoder_digest(config, weights.read(bad)) == encoder_digest(config, weights.read(good))
    with pytest.raises(BundleError, match="cannot be loaded"):
        loaded(bad, shared)
    assert kept.labels == LABELS


def test_weights_in_parts_are_not_shared() -> None:
    assert encoder_digest(ClassifierConfig(), [b"", b""]) is None


def bundle(registry: Registry, folder: Path, number: int) -> Bundle:
    """What the database says of a published bundle."""
    uri, content_hash = registry.publish(folder, f"test/{number}")
    known: Any = dict.fromkeys(Bundle.__slots__)
    return Bundle(**{**known, "uri": uri, "content_hash": content_hash})


def test_the_least_recently_used_go_when_memory_is_full_and_a_shared_encoder_counts_once(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(str(tmp_path / "models"), tmp_path / "cache")
    heads = [bundle(registry, written(tmp_path / f"h{n}", base, n), n) for n in range(4)]
    tuned = bundle(registry, written(tmp_path / "tuned", base, 9, tuned=True), 9)
    models = Models(registry, Settings(device="cpu", precision="fp32", threads=1, models_memory_mb=1))
    first = models.get(heads[0])
    of_encoder = size_of(first.network.encoder)
    # room for one encoder and many heads, not for two encoders
    monkeypatch.setattr(models, "_bytes", lambda: Models._bytes(models) * 2**20 / (1.5 * of_encoder))
    assert [models.get(one).network.encoder is first.network.encoder for one in heads] == [True] * 4
    assert models.get(heads[0]) is first
    models.get(tuned)
    assert len(models._loaded) == 1
    assert models.get(heads[0]) is not first


def test_the_bundle_that_served_before_is_let_go_unless_it_serves_another(base: str, tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "models"), tmp_path / "cache")
    old, new = (bundle(registry, written(tmp_path / f"h{n}", base, n, tuned=True), n) for n in range(2))
    models = Models(registry, Settings(device="cpu", precision="fp32", threads=1))
    of_old = models.serving(registered(1, old))
    assert models.serving(registered(2, old)) is of_old
    models.serving(registered(1, new))
    assert models.get(old) is of_old
    models.serving(registered(2, new))
    assert models.get(old) is not of_old
    assert models.serving(registered(3, None)) is None


def test_a_bundle_that_scores_nothing_here_does_not_serve(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available\nfor execution on the device")

    registry = Registry(str(tmp_path / "models"), tmp_path / "cache")
    models = Models(registry, Settings(device="cpu", precision="fp32", threads=1))
    one = bundle(registry, written(tmp_path / "h", base, 1), 1)
    monkeypatch.setattr(small.SmallModel, "pooled", fail)
    with pytest.raises(ModelError, match=r"scores nothing on cpu \(CUDA error: no kernel image is available\)"):
        models.get(one)
    monkeypatch.undo()
    assert models.get(one).labels


def registered(row: int, serving: Bundle | None) -> Registered:
    """A classifier and the bundle that serves it."""
    known: Any = dict.fromkeys(Registered.__slots__)
    return Registered(**{**known, "id": row, "incumbent": serving})
