"""A whole distillation over a tiny base: what is learned, kept, chosen, written and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy.special import log_softmax
from tiny import CHECKS, LABELS, WORDS, example, texts, tiny_base

from datashunt.classifier import digest
from datashunt.distil import Challenger, Example, Plan, distil, full
from datashunt.distil.run import choose
from datashunt.errors import BundleError, LessonError, ModelError
from datashunt.small import SequenceClassifier, SmallModel, read_info
from datashunt.small.hardware import Hardware

RATES = {"encoder_lr": 2e-3, "head_lr": 2e-2, "batch_items": 8, "epochs": 20}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("count", [1, 3, 9, 16, 17])
def test_what_fills_a_step_of_few_shapes_is_nobodys_answer(base: str, count: int) -> None:
    network = SequenceClassifier.of_base(base, LABELS).eval()
    rows = [[2, *range(4, 4 + i % 7), 3] for i in range(count)]
    chosen = np.arange(count)
    exact, few = (full.Trainer(network, "cpu", precision, 0) for precision in ("fp32", "bf16"))
    said = few.train_logits(rows, chosen)
    assert said.shape == (count, len(LABELS))
    torch.testing.assert_close(said.float(), exact.train_logits(rows, chosen), atol=0.05, rtol=0.05)
    seen = few.logits(rows, lambda *_: None, "")
    torch.testing.assert_close(seen, exact.logits(rows, lambda *_: None, ""), atol=0.05, rtol=0.05)
    words, mask = few.embedded(rows, chosen)
    moved = few.logits_at(words, mask)[:count]
    torch.testing.assert_close(moved, said, atol=0.02, rtol=0.02)


class Bench:
    """Runs distillations over the tiny base."""

    def __init__(self, base: str, folder: Path) -> None:
        self._base = base
        self._folder = folder
        self.train = [example(*pair) for pair in zip(*texts(120, 1), strict=True)]
        self.fit = list(zip(*texts(60, 2), strict=True))
        self.stages: list[tuple[str, float]] = []

    def plan(self, **changes: Any) -> Plan:
        known: dict[str, Any] = {
            "labels": LABELS,
            "labels_hash": digest(list(LABELS)),
            "base": self._base,
            "max_tokens": 16,
            "threshold": 0.8,
            "device": "cpu",
            **RATES,
        }
        return Plan(**{**known, **changes})

    def distil(
        self,
        name: str = "out",
        *,
        train: list[Example] | None = None,
        fit: list[tuple[str, int]] | None = None,
        replay: list[str] | None = None,
        incumbent: SmallModel | None = None,
        **changes: Any,
    ) -> Challenger:
        return distil(
            self.plan(**changes),
            self.train if train is None else train,
            self.fit if fit is None else fit,
            replay or [],
            incumbent,
            self._folder / name,
            lambda stage, share: self.stages.append((stage, share)),
        )


@pytest.fixture
def bench(base: str, tmp_path: Path) -> Bench:
    return Bench(base, tmp_path)


def agreement(folder: Path, seed: int = 9) -> float:
    some, labels = texts(150, seed)
    model = SmallModel.load(folder, device="cpu", precision="fp32")
    return float((model.probabilities(some).argmax(axis=1) == labels).mean())


@pytest.mark.parametrize("recipe", ["head", "blend", "full"])
def test_each_recipe_learns_from_the_answers(bench: Bench, recipe: str) -> None:
    challenger = bench.distil(recipes=(recipe,))
    assert challenger.recipe == recipe
    assert agreement(challenger.folder) > 0.85


@pytest.mark.parametrize("recipe", ["head", "blend", "full"])
def test_the_words_of_the_labels_stand_in_for_answers_that_are_missing(bench: Bench, recipe: str) -> None:
    few: dict[str, Any] = {"train": bench.train[:6], "fit": [], "recipes": (recipe,), "epochs": 1}
    few |= {"encoder_lr": 2e-4, "head_lr": 2e-3}  # a single step that does not throw away where it began
    without = bench.distil("without", **few)
    read = bench.distil("read", **few, meanings=tuple(" ".join(words) for words in WORDS))
    assert agreement(read.folder) > agreement(without.folder) + 0.1


@pytest.mark.parametrize("native", [False, True])
def test_bf16_is_looked_at_where_the_cpu_multiplies_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    monkeypatch.setattr("datashunt.distil.run.probe", lambda: Hardware(cuda=False, cuda_bf16=False, cpu_bf16=native))
    info = read_info(bench.distil(recipes=("head",), precision="fp32").folder)
    assert bool(info.rounding) == native


def test_all_recipes_are_compared_on_the_fit_answers(bench: Bench) -> None:
    challenger = bench.distil()
    recipes = challenger.evaluation["recipes"]
    assert set(recipes) == {"head", "blend", "full"}
    assert all(figures["nll"] > 0 for figures in recipes.values())
    assert challenger.evaluation["nll"] == pytest.approx(recipes[challenger.recipe]["nll"])


def sure(right: float, count: int) -> NDArray[np.float32]:
    """Probabilities of fit answers that all are label 0."""
    return np.tile(np.array([[right, 1 - right]], dtype=np.float32), (count, 1))


RECIPES = ("head", "blend", "full")
ZEROS = np.zeros(40, dtype=np.intp)


@pytest.mark.parametrize(("per_label", "usual"), [(5, "head"), (50, "blend"), (500, "full")])
def test_without_a_clear_winner_the_recipe_is_the_usual_one_for_so_many_answers(per_label: int, usual: str) -> None:
    even = [sure(0.7, 40)] * 3
    assert RECIPES[choose(RECIPES, even, ZEROS, per_label)] == usual
    assert RECIPES[choose(RECIPES, [p[:0] for p in even], ZEROS[:0], per_label)] == usual


def test_a_recipe_that_is_clearly_likelier_wins_and_one_that_may_be_lucky_does_not() -> None:
    assert RECIPES[choose(RECIPES, [sure(0.9, 40), sure(0.7, 40), sure(0.7, 40)], ZEROS, 500)] == "head"
    lucky = np.vstack([sure(0.99, 21), sure(0.45, 19)])
    assert RECIPES[choose(RECIPES, [lucky, sure(0.7, 40), sure(0.7, 40)], ZEROS, 500)] == "full"
    assert ["head", "blend"][choose(("head", "blend"), [sure(0.7, 40)] * 2, ZEROS, 500)] == "blend"


def test_a_useless_fine_tuning_loses_to_the_head(bench: Bench) -> None:
    challenger = bench.distil(encoder_lr=0.5, epochs=1)
    assert challenger.recipe == "head"
    assert agreement(challenger.folder) > 0.85


def test_the_bundle_says_what_it_is_and_how_good(bench: Bench) -> None:
    challenger = bench.distil(recipes=("head",), parent="abc")
    info = read_info(challenger.folder)
    assert info.labels == LABELS
    assert (info.recipe, info.parent, info.max_tokens) == ("head", "abc", 16)
    assert info.trained_on == {"train": 120, "fit": 60, "replay": 0}
    assert info.temperature == challenger.temperature
    assert info.evaluation["n"] == 60
    assert info.evaluation["ece"] < 0.2


def test_the_saved_bundle_scores_as_it_was_evaluated(bench: Bench) -> None:
    challenger = bench.distil()
    model = SmallModel.load(challenger.folder, device="cpu", precision="fp32")
    p = model.probabilities([text for text, _ in bench.fit])
    y = [label for _, label in bench.fit]
    assert float((p.argmax(axis=1) == y).mean()) == pytest.approx(challenger.evaluation["agreement"])
    assert float((p.max(axis=1) >= 0.8).mean()) == pytest.approx(challenger.evaluation["coverage"], abs=0.02)


@pytest.mark.parametrize("recipe", ["head", "full"])
def test_the_same_seed_gives_the_same_weights(bench: Bench, recipe: str) -> None:
    torch.manual_seed(1)
    one = load_file(bench.distil("one", recipes=(recipe,)).folder / "model.safetensors")
    torch.manual_seed(2)
    two = load_file(bench.distil("two", recipes=(recipe,)).folder / "model.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_moved_texts_get_a_step_of_their_own(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    steps: list[int] = []
    logits_at, step = SequenceClassifier.logits_at, torch.optim.AdamW.step

    def watched(network: SequenceClassifier, words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        seen.append(words.detach().clone())
        return logits_at(network, words, mask)

    def counted(optimiser: torch.optim.AdamW, *args: Any) -> Any:
        steps.append(len(seen))
        return step(optimiser, *args)

    monkeypatch.setattr(SequenceClassifier, "logits_at", watched)
    monkeypatch.setattr(torch.optim.AdamW, "step", counted)
    bench.distil(recipes=("full",), epochs=1, adversarial=0.1, precision="fp32")
    assert len(seen) == 2 * 15  # 120 answers, eight at a time, twice
    assert steps == list(range(1, len(seen) + 1))
    for still, moved in zip(seen[2::2], seen[3::2], strict=True):  # the first head is zero, and has no slope
        shift = (moved - still).flatten(1).norm(dim=1)
        assert bool((shift > 0).all())
        assert bool((shift <= 0.1001 * still.flatten(1).norm(dim=1)).all())


def test_a_distillation_leaves_the_random_numbers_of_the_process_alone(bench: Bench) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    bench.distil(epochs=1)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("recipe", ["head", "full"])
def test_labels_that_were_not_offered_are_not_unlearned(bench: Bench, recipe: str) -> None:
    """Half of the answers offered two labels only; a text of the third still gets the third."""
    pruned = [
        Example(e.text, e.target, e.weight, np.array([True, True, False])) for e in bench.train if e.target[2] == 0
    ]
    whole = [e for e in bench.train if e.target[2] == 1]
    challenger = bench.distil(train=pruned + whole, recipes=(recipe,), epochs=8)
    model = SmallModel.load(challenger.folder, device="cpu", precision="fp32")
    thirds = [f"the phone is {word}" for word in WORDS[2]]
    assert (model.probabilities(thirds).argmax(axis=1) == 2).all()


def test_answers_of_no_confidence_count_for_nothing(bench: Bench) -> None:
    wrong = [example(e.text, (int(e.target.argmax()) + 1) % 3, weight=0.0) for e in bench.train]
    challenger = bench.distil(train=bench.train + wrong, recipes=("head",))
    assert agreement(challenger.folder) > 0.85


@pytest.mark.parametrize("recipe", ["head", "full"])
def test_what_the_incumbent_was_sure_of_is_retained(bench: Bench, recipe: str) -> None:
    """The new answers never name one label; only a replay of the incumbent's texts keeps it."""
    incumbent = SmallModel.load(bench.distil("first", recipes=("head",)).folder, device="cpu", precision="fp32")
    some, labels = texts(300, 7)
    replay = [text for text, label in zip(some, labels, strict=True) if label == 2]
    answers = [example(*pair) for pair in zip(*texts(450, 5), strict=True)]
    without_third = [e for e in answers if e.target[2] == 0]
    kept = {}
    for name, texts_ in (("with", replay), ("without", [])):
        folder = bench.distil(
            name,
            train=without_third,
            replay=texts_,
            incumbent=incumbent,
            recipes=(recipe,),
        ).folder
        model = SmallModel.load(folder, device="cpu", precision="fp32")
        # Before the temperature, which hides that a model has given up on a label.
        kept[name] = float(log_softmax(model.logits(model.encode(replay)), axis=1)[:, 2].mean())
    assert kept["with"] > kept["without"] + 0.5


def test_a_fine_tuned_incumbent_is_trained_further_and_stays_as_it_was(bench: Bench) -> None:
    first = bench.distil("first", recipes=("full",))
    incumbent = SmallModel.load(first.folder, device="cpu", precision="fp32")
    before = {name: value.clone() for name, value in incumbent.network.state_dict().items()}
    second = bench.distil("second", incumbent=incumbent, replay=texts(40, 3)[0], warm=True)
    assert list(second.evaluation["recipes"]) == ["full"]
    assert agreement(second.folder) > 0.85
    assert all(torch.equal(value, before[name]) for name, value in incumbent.network.state_dict().items())
    assert read_info(second.folder).trained_on["replay"] == 30


def test_what_goes_on_from_an_incumbent_learns_more_slowly(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    incumbent = SmallModel.load(bench.distil("first", recipes=("full",)).folder, device="cpu", precision="fp32")
    rates: list[tuple[float, float]] = []

    def no_training(_trainer: full.Trainer, *given: Any, **__: Any) -> None:
        (plan,) = [one for one in given if isinstance(one, Plan)]
        rates.append((plan.encoder_lr, plan.head_lr))

    monkeypatch.setattr("datashunt.distil.run.fine_tune", no_training)
    for warm in (True, False):
        bench.distil(f"warm {warm}", incumbent=incumbent, recipes=("full",), warm=warm)
    usual = bench.plan()
    slow = usual.encoder_lr * usual.warm_rate, usual.head_lr * usual.warm_rate
    assert rates == [slow, (usual.encoder_lr, usual.head_lr)]
    assert slow < rates[1]


def test_without_a_warm_pass_a_fine_tuned_incumbent_only_retains(bench: Bench) -> None:
    incumbent = SmallModel.load(bench.distil("first", recipes=("full",)).folder, device="cpu", precision="fp32")
    bench.stages.clear()
    bench.distil("second", incumbent=incumbent, replay=texts(40, 3)[0], warm=True, warm_epochs=0)
    stages = {stage for stage, _ in bench.stages}
    assert "retain" in stages
    assert not stages & {"absorb", "head"}


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_training_goes_on_from_the_weights_that_were_published_not_from_those_that_serve(
    bench: Bench, precision: str
) -> None:
    first = bench.distil("first", recipes=("full",), epochs=1).folder
    incumbent = SmallModel.load(first, device="cpu", precision=precision)
    second = bench.distil("second", incumbent=incumbent, warm=True, warm_epochs=0).folder
    before, after = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_training_does_not_go_on_from_weights_that_are_gone(bench: Bench) -> None:
    first = bench.distil("first", recipes=("full",), epochs=1).folder
    incumbent = SmallModel.load(first, device="cpu", precision="bf16")
    (first / "model.safetensors").unlink()
    with pytest.raises(BundleError, match="cannot be read again"):
        bench.distil("second", incumbent=incumbent, warm=True)


@pytest.mark.parametrize("recipe", ["head", "blend", "full"])
def test_each_recipe_is_taught_by_the_reverse_cross_entropy_if_told(bench: Bench, recipe: str) -> None:
    plain = bench.distil("plain", recipes=(recipe,), smoothing=0.0)
    symmetric = bench.distil("symmetric", recipes=(recipe,), smoothing=0.0, reverse=1.0)
    one, other = (
        SmallModel.load(made.folder, device="cpu", precision="fp32").network.head.weight for made in (plain, symmetric)
    )
    assert not torch.equal(one, other)
    assert agreement(symmetric.folder) > 0.85


def test_without_fit_answers_the_usual_recipe_is_taken_uncalibrated(bench: Bench) -> None:
    challenger = bench.distil(fit=[])
    assert challenger.recipe == "blend"
    assert challenger.temperature == pytest.approx(1.0, abs=1e-3)
    assert challenger.evaluation["agreement"] is None
    assert agreement(challenger.folder) > 0.8


def test_answers_that_all_say_the_same_make_a_bundle(bench: Bench) -> None:
    same = [example(e.text, 1) for e in bench.train]
    challenger = bench.distil(train=same, fit=[(text, 1) for text, _ in bench.fit], epochs=1)
    model = SmallModel.load(challenger.folder, device="cpu", precision="fp32")
    assert (model.probabilities(texts(20, 4)[0]).argmax(axis=1) == 1).all()


def test_progress_runs_from_stage_to_stage_and_stays_within_its_bounds(bench: Bench) -> None:
    incumbent = SmallModel.load(bench.distil("first", recipes=("head",)).folder, device="cpu", precision="fp32")
    bench.stages.clear()
    bench.distil("second", incumbent=incumbent, replay=texts(60, 3)[0])
    seen = list(dict.fromkeys(stage for stage, _ in bench.stages))
    assert seen == ["load", "read", "replay", "embed", "head", "absorb", "retain", "fit", *CHECKS]
    assert all(0 <= share <= 1 for _, share in bench.stages)


def test_what_progress_raises_ends_the_distillation_and_writes_nothing(bench: Bench, tmp_path: Path) -> None:
    class Lost(Exception):
        pass

    def lose(stage: str, share: float) -> None:
        if stage == "absorb":
            raise Lost

    with pytest.raises(Lost):
        distil(bench.plan(), bench.train, bench.fit, [], None, tmp_path / "never", lose)
    assert not (tmp_path / "never").exists()


def test_an_incumbent_of_other_labels_is_refused(bench: Bench) -> None:
    incumbent = SmallModel.load(bench.distil("first", recipes=("head",)).folder, device="cpu", precision="fp32")
    with pytest.raises(ModelError, match="incumbent has other labels"):
        bench.distil("second", incumbent=incumbent, labels=("a", "b", "c"), labels_hash="of others")


def test_a_learning_rate_that_diverges_says_so(bench: Bench) -> None:
    with pytest.raises(ModelError, match="diverged"):
        bench.distil(recipes=("full",), encoder_lr=1e30, head_lr=1e30)


def test_a_training_that_diverges_leaves_the_head_of_the_base(bench: Bench) -> None:
    challenger = bench.distil(encoder_lr=1e30, head_lr=1e30)
    assert list(challenger.evaluation["recipes"]) == ["head"]
    assert agreement(challenger.folder) > 0.85


@pytest.mark.parametrize("part", ["head", "encoder"])
def test_a_recipe_whose_last_step_diverges_takes_no_other_with_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def diverge(trainer: full.Trainer, *_: Any, **__: Any) -> None:
        with torch.no_grad():
            for weight in getattr(trainer.network, part).parameters():
                weight.fill_(torch.nan)

    monkeypatch.setattr("datashunt.distil.run.fine_tune", diverge)
    challenger = bench.distil()
    assert list(challenger.evaluation["recipes"]) == ["head"]
    assert agreement(challenger.folder) > 0.85
    with pytest.raises(LessonError, match="diverged"):
        bench.distil("alone", recipes=("full",))


def test_few_fit_answers_neither_stop_a_training_nor_choose_its_pass(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[int] = []
    monkeypatch.setattr(full, "held_out_nll", lambda *given: scored.append(1) or float(len(scored)))
    bench.distil(recipes=("full",), epochs=3)
    assert scored == []
    monkeypatch.setattr(full, "FEWEST_TO_STOP_BY", len(bench.fit))
    bench.distil("again", recipes=("full",), epochs=3)
    assert len(scored) == 2  # the second pass was no better, so there was no third


def test_a_pass_costs_no_more_however_many_fit_answers_there_are(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibration and the choice between recipes still use them all."""
    monkeypatch.setattr(full, "MOST_SCORED", 10)
    monkeypatch.setattr(full, "FEWEST_TO_STOP_BY", 10)
    scored: list[int] = []
    nll = full.held_out_nll
    monkeypatch.setattr(full, "held_out_nll", lambda *given: scored.append(len(given[1].rows)) or nll(*given))
    challenger = bench.distil()
    assert set(scored) == {10}
    assert challenger.evaluation["n"] == 60
    assert agreement(challenger.folder) > 0.85
