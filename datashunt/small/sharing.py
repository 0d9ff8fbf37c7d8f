"""Parts that bundles have in common, loaded once: encoders and tokenizers, known by what is in their files.

Bundles of the recipe `head` leave their base as it was, so those of fifty classifiers differ in a few thousand numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from datashunt.small import weights
from datashunt.small.network import ClassifierConfig, SequenceClassifier, load_tokenizer

_HEAD = ("head.weight", "head.bias")
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "spiece.model")


class Shared:
    """Encoders and tokenizers that are in use now; what no loaded bundle uses is gone."""

    def __init__(self) -> None:
        self._encoders: WeakValueDictionary[str, nn.Module] = WeakValueDictionary()
        self._tokenizers: WeakValueDictionary[str, Any] = WeakValueDictionary()

    def networks(
        self, folder: Path, kinds: Sequence[str], digests: Mapping[str, str] | None = None
    ) -> list[SequenceClassifier]:
        """The network of a bundle, once for each kind, over an encoder that another one brought, if they have the same.

        Args:
            folder: the bundle's.
            kinds: devices and precisions they are for, which an encoder has only one of.
            digests: SHA-256 of the folder's files by name, as they were published, if that is known.
        """
        contents = weights.read(folder, digests)
        config = ClassifierConfig.from_pretrained(folder)
        found = weights.tensors(contents)
        digest = encoder_digest(config, contents)
        del contents
        return [self._network(config, found, digest and f"{kind} {digest}") for kind in kinds]

    def _network(self, config: ClassifierConfig, found: Mapping[str, Tensor], name: str | None) -> SequenceClassifier:
        known = self._encoders.get(name) if name else None
        if known is not None:
            return _over(known, config, found)
        network = _filled(config, found)
        if name:
            self._encoders[name] = network.encoder
        return network

    def tokenizer(self, folder: Path, max_tokens: int) -> Any:
        """The tokenizer of a bundle, cutting texts after `max_tokens`."""
        sha = hashlib.sha256(str(max_tokens).encode())
        for name in _TOKENIZER:
            path = folder / name
            sha.update(f" {name} ".encode() + (path.read_bytes() if path.exists() else b"-"))
        known = self._tokenizers.get(sha.hexdigest())
        if known is None:
            known = load_tokenizer(str(folder), max_tokens)
            self._tokenizers[sha.hexdigest()] = known
        return known


def encoder_digest(config: ClassifierConfig, contents: Sequence[bytes]) -> str | None:
    """SHA-256 of the encoder's configuration and weights, whatever head is beside them; None if they are in parts."""
    if len(contents) != 1:
        return None
    (content,) = contents
    sha = hashlib.sha256(json.dumps(config.encoder, sort_keys=True).encode())
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    view = memoryview(content)
    for name, tensor in sorted(header.items()):
        if name in _HEAD or name == "__metadata__":
            continue
        first, last = tensor["data_offsets"]
        sha.update(f"{name} {tensor['dtype']} {tensor['shape']}".encode())
        sha.update(view[8 + size + first : 8 + size + last])
    return sha.hexdigest()


def _filled(config: ClassifierConfig, found: Mapping[str, Tensor]) -> SequenceClassifier:
    """A network of these weights alone."""
    network: SequenceClassifier
    network, told = SequenceClassifier.from_pretrained(
        None, config=config, state_dict=dict(found), dtype=torch.float32, output_loading_info=True
    )
    if told["missing_keys"]:  # transformers would go on with random numbers
        raise ValueError(f"its weights lack {', '.join(sorted(told['missing_keys']))}")
    return network


def _over(encoder: nn.Module, config: ClassifierConfig, found: Mapping[str, Tensor]) -> SequenceClassifier:
    """A bundle's network with its own head, over an encoder that is there; nothing else of it is used."""
    with torch.device("meta"):
        network = SequenceClassifier(config)
    network.encoder = encoder
    weight, bias = (found[name].float() for name in _HEAD)
    if (weight.shape, bias.shape) != (network.head.weight.shape, network.head.bias.shape):
        raise ValueError(f"its head is of the shape {tuple(weight.shape)}, its configuration says otherwise")
    network.head.weight, network.head.bias = nn.Parameter(weight), nn.Parameter(bias)
    return network


def size_of(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers."""
    return sum(part.numel() * part.element_size() for part in [*module.parameters(), *module.buffers()])
