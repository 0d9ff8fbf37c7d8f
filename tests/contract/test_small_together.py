"""One pass for several bundles, and fp32 for what bf16 may decide otherwise, with real (tiny) weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import LABELS, texts, tiny_base

from datashunt import small
from datashunt.small.hardware import Hardware
from datashunt.small.network import encode, load_tokenizer

INFO = small.BundleInfo(
    labels=LABELS,
    temperature=0.5,
    recipe="head",
    threshold=0.8,
    base="tiny",
    max_tokens=16,
    created_at="2026-01-01T00:00:00+00:00",
)
SOME = texts(120)[0]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three bundles with heads of their own over one base, measured, and fit for bf16."""
    base = tiny_base(tmp_path_factory.mktemp("base"))
    tokenizer = load_tokenizer(base, INFO.max_tokens)
    made = []
    for seed in range(3):
        network = small.SequenceClassifier.of_base(base, LABELS)
        torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(seed))
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        info = small.checked(network, tokenizer, INFO, [encode(tokenizer, SOME)])
        assert all(tensor.equal(before[name]) for name, tensor in network.state_dict().items())
        made.append(tmp_path_factory.mktemp("bundle"))
        # random heads seldom pass with so few texts
        passing = {**info.rounding, "near": 0.02, "apart": 0.04, "changed_beyond": 0.0, "again": 0.1}
        small.save(made[-1], network, tokenizer, replace(info, rounding=passing))
    return made


@pytest.fixture
def native_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that multiplies bf16 natively, whatever this one does."""
    monkeypatch.setattr("datashunt.small.model.probe", lambda: Hardware(cuda=False, cuda_bf16=False, cpu_bf16=True))


def load(folders: list[Path], precision: str) -> list[small.SmallModel]:
    shared = small.Shared()
    return [small.SmallModel.load(one, device="cpu", precision=precision, shared=shared) for one in folders]


def test_one_pass_gives_each_bundle_what_it_says_alone(folders: list[Path]) -> None:
    models = load(folders, "fp32")
    assert len({model.shares for model in models}) == 1
    parts = [
        (models[0], SOME[:5], 0.8),
        (models[1], [], 0.8),
        (models[2], SOME[5:40], None),
        (models[1], SOME[:3], 0.0),
    ]
    found = small.together(parts)
    assert [part.shape for part in found] == [(5, 3), (0, 3), (35, 3), (3, 3)]
    for (model, some, _), together in zip(parts, found, strict=True):
        assert np.allclose(together, model.probabilities(some), atol=1e-5)


def test_a_bundle_over_another_encoder_shares_nothing(folders: list[Path], tmp_path: Path) -> None:
    other = small.SequenceClassifier.of_base(tiny_base(tmp_path / "base"), LABELS)
    torch.nn.init.normal_(other.encoder.embeddings.word_embeddings.weight)
    small.save(tmp_path / "bundle", other, load_tokenizer(str(tmp_path / "base"), INFO.max_tokens), INFO)
    first, second = load([folders[0], tmp_path / "bundle"], "fp32")
    assert first.shares != second.shares


@pytest.mark.usefixtures("native_bf16")
def test_a_measured_bundle_is_served_in_bf16_with_fp32_beside_it_once_for_all(folders: list[Path]) -> None:
    models = load(folders, "auto")
    assert {model.precision for model in models} == {"bf16"}
    exact = {id(model.exact) for model in models}
    assert len(exact) == 1
    assert models[0].exact is not None
    assert {part.dtype for part in models[0].exact.parameters()} == {torch.float32}
    parts = {part: size for model in models for part, size in model.memory().items()}
    assert len(parts) == 2 + len(models)


@pytest.mark.usefixtures("native_bf16")
@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.9])
def test_doubtful_texts_get_the_probabilities_of_fp32_and_decisions_stay(folders: list[Path], threshold: float) -> None:
    rounded, exact = load(folders, "auto")[0], load(folders, "fp32")[0]
    said, wanted = small.together([(rounded, SOME, threshold)])[0], exact.probabilities(SOME)
    plain = rounded.probabilities(SOME)
    again = small.rounding.doubtful(plain, threshold, rounded.info.rounding["near"], rounded.info.rounding["apart"])
    assert np.allclose(said[again], wanted[again], atol=1e-5)
    assert np.array_equal(said[~again] >= threshold, plain[~again] >= threshold)
    kept = wanted.max(axis=1) >= threshold
    assert np.array_equal(said.max(axis=1) >= threshold, kept)
    assert np.array_equal(said.argmax(axis=1)[kept], wanted.argmax(axis=1)[kept])


@pytest.mark.usefixtures("native_bf16")
def test_a_bundle_from_before_the_measure_is_served_in_fp32(folders: list[Path], tmp_path: Path) -> None:
    path = folders[0] / "bundle.json"
    before = path.read_text()
    document = json.loads(before)
    assert document["rounding"]["n"] == len(SOME)
    del document["rounding"]
    try:
        path.write_text(json.dumps(document))
        model = load(folders[:1], "auto")[0]
        assert (model.precision, model.exact, model.info.rounding) == ("fp32", None, {})
        assert model.info == replace(INFO, rounding={})
    finally:
        path.write_text(before)


@pytest.mark.usefixtures("native_bf16")
def test_bf16_by_request_is_bf16_alone(folders: list[Path]) -> None:
    model = load(folders[:1], "bf16")[0]
    assert (model.precision, model.exact) == ("bf16", None)


def test_without_texts_nothing_is_measured(folders: list[Path]) -> None:
    model = load(folders[:1], "fp32")[0]
    assert small.checked(model.network, model.tokenizer, INFO, [[], []]) == INFO
