"""A bundle's folder: what is written, what is refused, and that transformers itself can serve it."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from room import no_room
from safetensors.torch import load_file, save_file
from tiny import LABELS, texts, tiny_base
from transformers import AutoModelForSequenceClassification, AutoTokenizer, T5Config, T5Model

from datashunt import small
from datashunt.confidence import softmax
from datashunt.errors import BundleError, ModelError
from datashunt.items import readable
from datashunt.small.network import PACKAGED, encode, load_tokenizer

INFO = small.BundleInfo(
    labels=LABELS,
    temperature=2.0,
    recipe="head",
    threshold=0.9,
    base="a/base",
    max_tokens=12,
    created_at="2026-01-01T00:00:00+00:00",
    trained_on={"train": 10, "fit": 2, "replay": 0},
    evaluation={
        "n": 2,
        "agreement": 0.5,
        "ece": None,
        "labels": {"bad": {"n": 2, "recall": 0.5, "precision": None, "ece": None}},
    },
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def written(base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = small.SequenceClassifier.of_base(base, LABELS)
    torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(1))
    folder = tmp_path_factory.mktemp("bundle")
    small.save(folder, network, load_tokenizer(base, INFO.max_tokens), INFO)
    return folder


@pytest.fixture
def bundle(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(written, tmp_path / "bundle"))


def change(folder: Path, **fields: object) -> None:
    path = folder / "bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_what_was_saved_is_what_is_loaded(bundle: Path) -> None:
    model = small.SmallModel.load(bundle, device="cpu", precision="fp32")
    assert model.info == INFO
    assert model.labels == LABELS
    assert model.temperature == 2.0
    assert (model.device, model.precision) == ("cpu", "fp32")


def test_weights_are_safetensors_and_nothing_can_run_code(bundle: Path) -> None:
    names = {path.name for path in bundle.iterdir()}
    assert "model.safetensors" in names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl", ".py"))]


def test_a_bundle_names_no_path_of_the_machine_that_trained_it(bundle: Path, base: str) -> None:
    for path in bundle.glob("*.json"):
        assert base not in path.read_text()


def test_plain_transformers_gives_the_same_logits(bundle: Path) -> None:
    network = AutoModelForSequenceClassification.from_pretrained(bundle).eval()
    tokenizer = AutoTokenizer.from_pretrained(bundle)
    some = texts(5)[0]
    with torch.inference_mode():
        theirs = network(**tokenizer(some, padding=True, truncation=True, return_tensors="pt")).logits
    model = small.SmallModel.load(bundle, device="cpu", precision="fp32")
    assert np.allclose(model.logits(model.encode(some)), theirs, atol=1e-5)
    assert [network.config.id2label[i] for i in range(3)] == list(LABELS)


def test_probabilities_are_calibrated_and_in_the_order_of_the_texts(bundle: Path) -> None:
    model = small.SmallModel.load(bundle, device="cpu", precision="fp32")
    some = texts(40)[0]
    together = model.probabilities(some)
    assert together.shape == (40, 3)
    assert together.dtype == np.float32
    assert np.allclose(together, np.concatenate([model.probabilities([text]) for text in some]), atol=1e-5)
    assert np.allclose(together, softmax(model.logits(model.encode(some)), 2.0))


@pytest.mark.parametrize("budget", [1, 30, 100_000])
def test_the_batch_budget_changes_no_probability(bundle: Path, budget: int) -> None:
    model = small.SmallModel.load(bundle, device="cpu", precision="fp32")
    some = texts(40)[0]
    assert np.allclose(model.probabilities(some), model.probabilities(some, batch_tokens=budget), atol=1e-5)


def test_no_texts_empty_texts_and_unknown_words_can_be_scored(bundle: Path) -> None:
    model = small.SmallModel.load(bundle, device="cpu", precision="fp32")
    assert model.probabilities([]).shape == (0, 3)
    odd = model.probabilities(["", " \n", "Ωμέγα 🎉", "good " * 1_000])
    assert np.isfinite(odd).all()
    assert np.allclose(odd.sum(axis=1), 1, atol=1e-5)


def test_a_text_is_cut_at_max_tokens(bundle: Path) -> None:
    model = small.SmallModel.load(bundle, device="cpu", precision="fp32")
    assert [len(row) for row in model.encode(["great " * 50, "great"])] == [12, 3]


def test_a_tokenizer_sees_no_more_than_what_is_readable_of_a_text(bundle: Path) -> None:
    model = small.SmallModel.load(bundle, device="cpu", precision="fp32")
    blanks = readable(INFO.max_tokens) - 4
    beyond, within = (" " * n + "good bad" + " good" * 1_000_000 for n in (blanks + 4, blanks))
    tokens, only_good = model.encode([beyond, within])
    assert tokens == model.encode([" "])[0]
    assert only_good == model.encode(["good"])[0]


def test_texts_come_back_in_their_order_whatever_their_number(bundle: Path) -> None:
    model = small.SmallModel.load(bundle, device="cpu", precision="fp32")
    some, shares = [f"good {'bad ' * (n % 7)}" for n in range(600)], []
    rows = encode(model.tokenizer, some, shares.append)
    assert rows == [model.encode([text])[0] for text in some]
    assert shares == sorted(shares)
    assert (shares[0], len(shares)) == (0.0, 3)


def test_bf16_stays_near_fp32(bundle: Path) -> None:
    some = texts(40)[0]
    exact = small.SmallModel.load(bundle, device="cpu", precision="fp32").probabilities(some)
    rounded = small.SmallModel.load(bundle, device="cpu", precision="bf16").probabilities(some)
    assert np.abs(exact - rounded).max() < 0.03


def test_in_bf16_no_batch_needs_a_kernel_that_was_not_compiled_when_the_bundle_was_loaded(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: set[tuple[int, ...]] = set()
    monkeypatch.setattr("datashunt.small.model._compiled", compiled)
    model = small.SmallModel.load(bundle, device="cpu", precision="bf16")
    beforehand, needed = set(compiled), set()

    def record(part: torch.nn.Linear, inputs: tuple[torch.Tensor]) -> None:
        words = inputs[0].shape[:-1].numel()
        needed.add((words, part.in_features, part.out_features, part.bias is not None, part.weight.dtype))

    for part in model.network.encoder.modules():
        if isinstance(part, torch.nn.Linear):
            part.register_forward_pre_hook(record)
    for count in (1, 2, 5, 9, 40, 150, 300):
        model.probabilities(texts(count)[0])
    assert len(needed) > 3
    assert needed <= beforehand


def test_the_card_shows_labels_recipe_and_evaluation(bundle: Path) -> None:
    card = (bundle / "README.md").read_text()
    assert card.startswith("---\n")
    assert "| Labels | bad, good, so-so |" in card
    assert "| agreement | 0.5000 |" in card
    assert "| bad | 2 | 0.5000 | – |" in card


def test_the_card_parts_what_chose_from_what_only_judged(bundle: Path) -> None:
    info = small.read_info(bundle)
    assert "### Judge answers" not in (bundle / "README.md").read_text()
    judged = {**info.evaluation, "judge": {**info.evaluation, "ece": 0.125, "n": 77}}
    small.describe(bundle, replace(info, evaluation=judged))
    fit, judge = (bundle / "README.md").read_text().split("### Judge answers")
    assert ("| ece | 0.1250 |" in fit, "| ece | 0.1250 |" in judge) == (False, True)
    assert "| n | 77 |" in judge
    assert small.read_info(bundle).evaluation == judged


def test_weights_that_cannot_be_written_are_an_error_of_the_system(bundle: Path, tmp_path: Path) -> None:
    model = small.SmallModel.load(bundle)
    with no_room(5_000), pytest.raises(OSError, match="the bundle's weights cannot be written"):
        small.save(tmp_path, model.network, model.tokenizer, model.info)


def test_a_folder_without_a_description_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"bundle\.json is no bundle description"):
        small.SmallModel.load(tmp_path)


def test_a_description_cut_short_is_refused(bundle: Path) -> None:
    path = bundle / "bundle.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(BundleError, match="no bundle description"):
        small.SmallModel.load(bundle)


def test_a_newer_format_asks_for_an_upgrade(bundle: Path) -> None:
    change(bundle, format=99)
    with pytest.raises(BundleError, match=r"format 99, this release reads up to \d+: upgrade datashunt here"):
        small.read_info(bundle)
    with pytest.raises(BundleError, match="format 99"):
        small.SmallModel.load(bundle)


# as the first release wrote it; never changed: bundles of it are in people's folders
FIRST_FORMAT = """{
  "format": 1,
  "labels_hash": "32ff3a4e2d6fcf32",
  "labels": ["bad", "good", "so-so"],
  "temperature": 2.0,
  "recipe": "head",
  "threshold": 0.9,
  "base": "a/base",
  "max_tokens": 12,
  "created_at": "2026-01-01T00:00:00+00:00",
  "trained_on": {"train": 10, "fit": 2, "replay": 0},
  "evaluation": {"n": 2, "agreement": 0.5, "ece": null, "labels":
    {"bad": {"n": 2, "recall": 0.5, "precision": null, "ece": null}}},
  "parent": null
}
"""


def test_a_bundle_of_the_first_format_is_read(bundle: Path) -> None:
    (bundle / "bundle.json").write_text(FIRST_FORMAT)
    assert small.SmallModel.load(bundle, device="cpu").info == INFO


def test_a_field_that_older_bundles_have_not_means_its_default(bundle: Path) -> None:
    path = bundle / "bundle.json"
    document = json.loads(path.read_text())
    del document["parent"], document["evaluation"], document["trained_on"]
    path.write_text(json.dumps(document))
    info = small.read_info(bundle)
    assert (info.parent, dict(info.evaluation), dict(info.trained_on)) == (None, {}, {})
    del document["temperature"]
    path.write_text(json.dumps(document))
    with pytest.raises(BundleError, match="no bundle description"):
        small.read_info(bundle)


def test_a_field_of_a_later_release_in_the_same_format_is_passed_over(bundle: Path) -> None:
    change(bundle, mood="sunny")
    assert small.read_info(bundle) == INFO


@pytest.mark.parametrize("field", [{"labels": ["a", "b", "c"]}, {"temperature": -1.0}])
def test_a_description_that_contradicts_itself_is_refused(bundle: Path, field: dict[str, object]) -> None:
    change(bundle, **field)
    with pytest.raises(BundleError, match="contradicts itself"):
        small.read_info(bundle)


def test_weights_of_other_labels_are_refused(bundle: Path) -> None:
    path = bundle / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "id2label": {"0": "x", "1": "y", "2": "z"}}))
    with pytest.raises(BundleError, match=r"weights for \('x', 'y', 'z'\)"):
        small.SmallModel.load(bundle)


def test_weights_that_are_missing_or_cut_short_are_refused(bundle: Path) -> None:
    weights = bundle / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1_000])
    with pytest.raises(BundleError, match="cannot be loaded"):
        small.SmallModel.load(bundle)
    weights.unlink()
    with pytest.raises(BundleError, match="cannot be loaded"):
        small.SmallModel.load(bundle)


def test_weights_other_than_those_that_were_published_are_refused(bundle: Path) -> None:
    weights = bundle / "model.safetensors"
    published = {weights.name: hashlib.sha256(weights.read_bytes()).hexdigest()}
    assert small.SmallModel.load(bundle, device="cpu", digests=published).info == INFO
    content = bytearray(weights.read_bytes())
    content[-1] ^= 0xFF  # a number of a tensor: the file is whole, and safetensors takes it
    weights.write_bytes(content)
    assert small.SmallModel.load(bundle, device="cpu").info == INFO
    with pytest.raises(BundleError, match="not the file that was published"):
        small.SmallModel.load(bundle, device="cpu", digests=published)


def test_weights_that_lack_a_tensor_are_refused_and_not_filled_with_random_numbers(bundle: Path) -> None:
    path = bundle / "model.safetensors"
    tensors = load_file(path)
    del tensors["encoder.embeddings.word_embeddings.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(BundleError, match=r"weights lack encoder\.embeddings\.word_embeddings\.weight"):
        small.SmallModel.load(bundle)


def test_weights_in_parts_are_one_model(bundle: Path) -> None:
    whole = small.SmallModel.load(bundle, device="cpu", precision="fp32").probabilities(["great"])
    path = bundle / "model.safetensors"
    tensors = load_file(path)
    names = {name: f"model-0000{1 + (name == 'head.weight')}-of-00002.safetensors" for name in tensors}
    for file in set(names.values()):
        save_file({name: one for name, one in tensors.items() if names[name] == file}, bundle / file)
    path.unlink()
    index = bundle / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    parts = small.SmallModel.load(bundle, device="cpu", precision="fp32", shared=small.Shared())
    np.testing.assert_array_equal(parts.probabilities(["great"]), whole)
    index.write_text('{"weight_map": 7}')
    with pytest.raises(BundleError, match="does not list the parts"):
        small.SmallModel.load(bundle)


SCORES_A_CUT_BUNDLE = """
import os, sys
from pathlib import Path
from datashunt import small

folder, base = map(Path, sys.argv[1:])
shared = small.Shared()
models = [small.SmallModel.load(folder, device="cpu", precision="fp32", shared=shared) for _ in range(2)]
encoder = small.load_encoder(str(base))
for file in (*folder.glob("*.safetensors"), *base.glob("*.safetensors")):
    os.truncate(file, 10)
shapes = [model.probabilities(["great"]).shape for model in models]
print(shapes, sum(part.sum().item() for part in encoder.parameters()) != 0)
"""


def test_a_bundle_cut_short_while_it_serves_ends_no_process(bundle: Path, base: str, tmp_path: Path) -> None:
    """Were its weights mapped from the file, this process would get SIGBUS."""
    copied = shutil.copytree(base, tmp_path / "base")
    script = [sys.executable, "-c", SCORES_A_CUT_BUNDLE, str(bundle), str(copied)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "[(1, 3), (1, 3)] True\n"), done.stderr


def test_a_base_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere.*hub id or a folder"):
        small.load_encoder(str(tmp_path / "nowhere"))


def test_an_encoder_decoder_is_no_base(tmp_path: Path) -> None:
    config = T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    T5Model(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is an encoder-decoder: choose an encoder"):
        small.load_encoder(str(tmp_path))


def test_auto_is_the_packaged_encoder_and_other_bases_are_themselves() -> None:
    pytest.importorskip(PACKAGED)
    assert (Path(small.resolve_base("auto")) / "model.safetensors").is_file()
    assert small.resolve_base("org/model") == "org/model"


def test_a_missing_packaged_encoder_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datashunt.small.network.PACKAGED", "no_such_package")
    with pytest.raises(ModelError, match=r"install the extra demo: .*\.\[demo\]"):
        small.resolve_base("auto")


def test_an_altered_packaged_encoder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(PACKAGED)
    monkeypatch.setattr("datashunt.small.network.PACKAGED_SHA256", "0" * 64)
    with pytest.raises(ModelError, match="was altered"):
        small.resolve_base("auto")
