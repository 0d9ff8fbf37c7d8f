"""A bundle's folder: a Hugging Face model folder plus `bundle.json` and a model card. Imports errors, classifier."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from datashunt.classifier import digest
from datashunt.errors import BundleError
from datashunt.small import rounding

INFO_FILE = "bundle.json"
FORMAT = 1
"""What `save` writes. Every lower one is read for ever: a field that is added later has a default, which is what
bundles without it mean, and one that is not known any more is passed over. What older readers would misunderstand gets
the next number."""


@dataclass(frozen=True, slots=True)
class BundleInfo:
    """What `bundle.json` says.

    Attributes:
        labels: class names; index i of every probability vector speaks of label i.
        temperature: logits are divided by it before the softmax.
        recipe: how it was trained: `head`, `blend` or `full`.
        threshold: the policy's threshold when it was trained; serving uses the current one.
        base: the encoder it started from, as the classifier file names it.
        max_tokens: longer texts are cut.
        trained_on: how many train, fit and replay texts.
        evaluation: of `evaluate.evaluation`, on the fit answers; as `judge` the same on the judge answers, once judged.
        rounding: of `rounding.measure`: what bf16 changes of its decisions; empty where nobody measured it.
        parent: content hash of the incumbent it learned from, or None.
        created_at: ISO 8601, UTC.
    """

    labels: tuple[str, ...]
    temperature: float
    recipe: str
    threshold: float
    base: str
    max_tokens: int
    created_at: str
    trained_on: Mapping[str, int] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    parent: str | None = None
    rounding: Mapping[str, float] = field(default_factory=dict)

    @property
    def labels_hash(self) -> str:
        """The same as of the classifier's spec when the labels are the same, in the same order."""
        return digest(list(self.labels))


def save(folder: Path, network: Any, tokenizer: Any, info: BundleInfo) -> None:
    """Write a bundle: weights as safetensors, config, tokenizer, card and `bundle.json` (last).

    Args:
        folder: created when missing.
        network: a `SequenceClassifier` whose `id2label` is `info.labels`.
        tokenizer: its tokenizer.
        info: everything else.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        network.save_pretrained(folder)
    except SafetensorError as error:  # a full disk is no OSError there
        raise OSError(f"the bundle's weights cannot be written to {folder}: {error}") from error
    tokenizer.save_pretrained(folder)
    describe(folder, info)


def describe(folder: Path, info: BundleInfo) -> None:
    """Write a bundle's card and `bundle.json`; those that were there are replaced.

    Raises:
        OSError: they cannot be written.
    """
    (folder / "README.md").write_text(model_card(info), encoding="utf-8")
    document = {"format": FORMAT, "labels_hash": info.labels_hash, **asdict(info)}
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / INFO_FILE).write_text(text + "\n", encoding="utf-8")


def read_info(folder: Path) -> BundleInfo:
    """Read and check `bundle.json`.

    Raises:
        BundleError: it is missing, cut short, of a newer format, or contradicts itself.
    """
    path = folder / INFO_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = int(document["format"])
        if found > FORMAT:
            raise BundleError(f"{path} has format {found}, this release reads up to {FORMAT}: upgrade datashunt here")
        known = {entry.name: document[entry.name] for entry in fields(BundleInfo) if entry.name in document}
        # older bundles say nothing of rounding
        known["rounding"] = {name: float(value) for name, value in document.get("rounding", {}).items()}
        info = BundleInfo(**{**known, "labels": tuple(known["labels"])})
        consistent = info.labels_hash == document["labels_hash"] and info.temperature > 0
    except (OSError, ArithmeticError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{path} is no bundle description ({type(error).__name__}): fetch the bundle again") from None
    if not consistent:
        raise BundleError(f"{path} contradicts itself: fetch the bundle again")
    return info


def model_card(info: BundleInfo) -> str:
    """The bundle's README: what it is, from what it learned, how good it is on answers it never saw."""
    evaluation = info.evaluation
    head = ["---", "library_name: transformers", "pipeline_tag: text-classification", "tags: [datashunt]", "---"]
    facts = {
        "Labels": ", ".join(info.labels),
        "Base": info.base,
        "Recipe": info.recipe,
        "Trained on": ", ".join(f"{n} {kind} texts" for kind, n in info.trained_on.items()) or "nothing",
        "Longest text": f"{info.max_tokens} tokens",
        "Temperature": f"{info.temperature:.4f}",
        "bf16": _rounding(info.rounding),
        "Parent": info.parent or "none",
        "Created": info.created_at,
    }
    lines = [*head, "", "# A small model of datashunt", "", "Load it with transformers after `import datashunt.small`."]
    lines += ["", "| | |", "|---|---|", *(f"| {name} | {_cell(text)} |" for name, text in facts.items()), ""]
    if evaluation:
        lines += ["## Evaluation on held-out LLM answers", "", "None was trained on.", ""]
        lines += ["### Fit answers, which also chose recipe and temperature", *_measures(evaluation)]
    if "judge" in evaluation:
        lines += ["### Judge answers, which chose nothing but whether it may serve", *_measures(evaluation["judge"])]
    return "\n".join(lines).rstrip() + "\n"


def _measures(evaluation: Mapping[str, Any]) -> list[str]:
    """Two tables: of all answers, and by label."""
    return [
        "",
        "| measure | value |",
        "|---|---|",
        *(f"| {name} | {_cell(value)} |" for name, value in evaluation.items() if _is_number(value)),
        "",
        "| label | n | recall | precision | ece |",
        "|---|---|---|---|---|",
        *(
            f"| {_cell(name)} | {row['n']} | {_cell(row['recall'])} | {_cell(row['precision'])} | {_cell(row['ece'])} |"
            for name, row in evaluation.get("labels", {}).items()
        ),
        "",
    ]


def _rounding(found: Mapping[str, float]) -> str:
    if not found:
        return "not measured: a CPU scores it in fp32"
    verdict = "may be used on a CPU" if rounding.passes(found) else "not used on a CPU"
    return (
        f"{verdict}: at worst it changes {found['changed']:.2%} of the decisions of {found['n']:.0f} texts,"
        f" {found['changed_beyond']:.2%} where those within {found['near']:.4f} of it are scored again in fp32"
        f" ({found['again']:.1%} of the texts at most)"
    )


def _is_number(value: object) -> bool:
    return value is None or isinstance(value, (int, float))


def _cell(value: object) -> str:
    text = "–" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
