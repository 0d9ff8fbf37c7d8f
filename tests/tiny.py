"""A base model small enough to train in a blink: a random two-layer BERT over a handful of words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from datashunt.distil import Example
from datashunt.small import probe
from tests.words import LABELS, WORDS

CHECKS = ("check fp32", "check bf16") if probe().cpu_bf16 else ()
"""The last stages of every distillation on this machine."""
FILLER = ("the", "a", "camera", "phone", "is", "was", "really", "it", "this", "and")


def tiny_base(folder: Path) -> str:
    """Write the base to a folder and return it as `small_model.base`."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *FILLER, *(word for words in WORDS for word in words)]
    ids = {word: i for i, word in enumerate(vocabulary)}
    core = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return str(folder)


def texts(n: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """n texts with one telling word each, and their labels."""
    rng = np.random.default_rng(seed)
    labels = [int(i) for i in rng.integers(0, len(LABELS), n)]
    return [_text(rng, label) for label in labels], labels


def example(text: str, label: int, weight: float = 1.0) -> Example:
    """A one-hot answer over all labels."""
    target = np.eye(len(LABELS), dtype=np.float32)[label]
    return Example(text, target, weight, np.ones(len(LABELS), dtype=np.bool_))


def _text(rng: np.random.Generator, label: int) -> str:
    words = [str(word) for word in rng.choice(FILLER, rng.integers(2, 9))]
    words.insert(int(rng.integers(0, len(words) + 1)), str(rng.choice(WORDS[label])))
    return " ".join(words)
