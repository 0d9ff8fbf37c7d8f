"""A loaded bundle that serves. Imports errors, confidence and its own package."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig

from datashunt.confidence import softmax
from datashunt.errors import BundleError, ModelError
from datashunt.small import rounding
from datashunt.small.batching import pad, token_batches, token_counts
from datashunt.small.bundle import BundleInfo, read_info
from datashunt.small.hardware import DTYPES, choose_device, choose_precision, probe
from datashunt.small.network import Encoded, SequenceClassifier, encode, mean_pooled
from datashunt.small.sharing import Shared, size_of

BATCH_TOKENS = 8_192
"""Padded tokens of one forward pass, unless the caller says otherwise."""

_CPU_TOKENS = 1_024
"""The most on a CPU, whose caches larger batches overflow (docs/benchmarks.md: 8,192 is a third slower)."""


class SmallModel:
    """Scores texts with one bundle. One thread at a time; `device` and `precision` say what was chosen.

    `exact` is the encoder in fp32 for texts that bf16 may decide otherwise; None where nothing is scored again.
    """

    def __init__(
        self,
        network: SequenceClassifier,
        tokenizer: Any,
        info: BundleInfo,
        *,
        device: str,
        precision: str,
        exact: nn.Module | None = None,
        source: Callable[[], SequenceClassifier] | None = None,
    ) -> None:
        network.encoder.to(DTYPES[precision])
        self.network = network.to(device).eval()
        self.exact = None if exact is None else exact.to(device).eval()
        self.tokenizer = tokenizer
        self.info = info
        self.device = device
        self.precision = precision
        self._source = source

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: str = "auto",
        precision: str = "auto",
        threads: int = 0,
        shared: Shared | None = None,
        digests: Mapping[str, str] | None = None,
    ) -> SmallModel:
        """Load a bundle's folder.

        Args:
            folder: as `save` wrote it.
            device: auto, cpu, cuda or cuda:N.
            precision: auto, fp32, bf16 or fp16. With `auto`, a CPU takes bf16 only for a bundle whose card allows it,
                and has fp32 beside it for doubtful texts.
            threads: torch threads of this process; 0 leaves them alone.
            shared: what loaded bundles have in common.
            digests: SHA-256 of the folder's files by name, as they were published, if that is known.

        Raises:
            BundleError: the folder is no bundle, its weights are not those that were published, or do not fit its
                labels.
            ModelError: this machine lacks the device or precision asked for.
        """
        if threads:
            torch.set_num_threads(threads)
        info = read_info(folder)
        hardware = probe()
        chosen = choose_device(device, hardware)
        dtype = choose_precision(precision, chosen, hardware, checked=rounding.passes(info.rounding))
        again = precision == "auto" and chosen == "cpu" and dtype == "bf16"
        try:
            _check_labels(AutoConfig.from_pretrained(folder), info, folder)
            parts = shared or Shared()
            kinds = [f"{chosen} {one}" for one in ([dtype, "fp32"] if again else [dtype])]
            network, *exact = parts.networks(folder, kinds, digests)
            tokenizer = parts.tokenizer(folder, info.max_tokens)
            exactly = exact[0].encoder if exact else None
            source = partial(_published, folder, digests)
            model = cls(network, tokenizer, info, device=chosen, precision=dtype, exact=exactly, source=source)
            if chosen == "cpu" and dtype != "fp32":
                _compile(model.network.encoder, token_counts(_CPU_TOKENS, info.max_tokens))
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            MemoryError,
            RuntimeError,
            SafetensorError,
            ModelError,
        ) as error:
            reason = str(error).strip().split("\n")[0]
            raise BundleError(f"the bundle in {folder} cannot be loaded ({reason}): fetch it again") from None
        return model

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return self.info.labels

    @property
    def temperature(self) -> float:
        """What the logits are divided by."""
        return self.info.temperature

    @property
    def shares(self) -> tuple[int, ...]:
        """What models have in common that can be `together` in a pass: tokenizer and encoders, by their identity."""
        return id(self.tokenizer), id(self.network.encoder), id(self.exact)

    def published(self) -> dict[str, torch.Tensor]:
        """The weights in fp32 as they were published, whatever precision this serves in: what training goes on from.

        Raises:
            BundleError: they have to be read again, and the folder is gone or was altered.
        """
        network = self.network if self._source is None or self.precision == "fp32" else self._source()
        weights: dict[str, torch.Tensor] = network.state_dict()
        return weights

    def memory(self) -> dict[int, int]:
        """Bytes of the encoders, by their identity, and of the head: two models may have the same encoder."""
        parts = (self.network.encoder, self.exact, self.network.head)
        return {id(part): size_of(part) for part in parts if part is not None}

    def probabilities(self, texts: Sequence[str], *, batch_tokens: int = BATCH_TOKENS) -> NDArray[np.float32]:
        """Calibrated class probabilities (n, k) of n texts, in their order.

        Args:
            texts: cut at the bundle's `max_tokens`.
            batch_tokens: padded tokens of one forward pass; bounds the memory.
        """
        return softmax(self.logits(self.encode(texts), batch_tokens=batch_tokens), self.temperature)

    def features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Pooled features (n, d) of n texts, in their order: what the head sees."""
        return self.pooled(self.encode(texts))

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Token ids of texts: the first half of scoring."""
        return encode(self.tokenizer, texts)

    def logits(self, encoded: Encoded, *, batch_tokens: int = BATCH_TOKENS) -> NDArray[np.float32]:
        """Uncalibrated logits (n, k) of encoded texts, in their order: the second half of scoring."""
        return self.head(self.pooled(encoded, batch_tokens=batch_tokens))

    @torch.inference_mode()
    def head(self, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Uncalibrated logits (n, k) of pooled features (n, d)."""
        logits: NDArray[np.float32] = self.network.head(torch.from_numpy(pooled).to(self.device)).float().cpu().numpy()
        return logits

    @torch.inference_mode()
    def pooled(self, encoded: Encoded, *, batch_tokens: int = BATCH_TOKENS, exact: bool = False) -> NDArray[np.float32]:
        """Pooled features (n, d) of encoded texts, in their order; `exact`: by the encoder in fp32."""
        encoder = self.exact if exact and self.exact is not None else self.network.encoder
        rounded = encoder is self.network.encoder and self.precision != "fp32"
        few = rounded and self.device == "cpu"
        budget = min(batch_tokens, _CPU_TOKENS) if self.device == "cpu" else batch_tokens
        out = np.empty((len(encoded), self.network.head.in_features), dtype=np.float32)
        for batch in token_batches([len(row) for row in encoded], budget, few=few):
            rows = [encoded[i] for i in batch]
            ids, mask = pad(rows, self.tokenizer.pad_token_id or 0, self.device, few=few)
            with _onednn(rounded):
                out[batch] = mean_pooled(encoder, mask, input_ids=ids)[: len(rows)].float().cpu().numpy()
        return out


def _published(folder: Path, digests: Mapping[str, str] | None) -> SequenceClassifier:
    try:
        (network,) = Shared().networks(folder, ["fp32"], digests)
    except (OSError, ValueError, LookupError, RuntimeError, SafetensorError) as error:
        raise BundleError(f"the weights in {folder} cannot be read again: {error}") from error
    return network


_compiled: set[tuple[int, int, int, bool, torch.dtype]] = set()


@torch.inference_mode()
def _compile(encoder: nn.Module, counts: Sequence[int]) -> None:
    """Have oneDNN compile now, once in this process, what linear layers will need for batches of so many tokens.

    It keeps a kernel for each number of tokens and each shape of weights, 0.6 MiB each: so no such batch waits for one,
    and memory does not grow with them.
    """
    for part in encoder.modules():
        if isinstance(part, nn.Linear):
            shape = part.in_features, part.out_features, part.bias is not None, part.weight.dtype
            for count in counts:
                if (count, *shape) not in _compiled:
                    with _onednn(True):
                        part(part.weight.new_zeros(count, part.in_features))
                    _compiled.add((count, *shape))


@contextmanager
def _onednn(enabled: bool) -> Iterator[None]:
    """Whether oneDNN serves what runs inside.

    It keeps what it compiles for each new shape, scattered among the activations on the heap, so that memory grows with
    every batch of another shape. In fp32 it is no faster than torch's own kernels; bf16 on a CPU needs it.
    """
    # not torch.backends.mkldnn.flags: that sets TF32 too, and warns where there is none
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = enabled  # type: ignore[assignment]  # a property of the module
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


def _check_labels(config: Any, info: BundleInfo, folder: Path) -> None:
    named = tuple(config.id2label[i] for i in range(config.num_labels))
    if named != info.labels:
        raise BundleError(f"the bundle in {folder} has weights for {named}, and says {info.labels}")
