"""A loaded bundle that serves. Imports errors, confidence and its own package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from transformers import AutoConfig

from datashunt.confidence import softmax
from datashunt.errors import BundleError, ModelError
from datashunt.small.batching import pad, token_batches
from datashunt.small.bundle import BundleInfo, read_info
from datashunt.small.hardware import DTYPES, choose_device, choose_precision, probe
from datashunt.small.network import Encoded, SequenceClassifier, encode
from datashunt.small.sharing import Shared, size_of

BATCH_TOKENS = 8_192
"""Padded tokens of one forward pass, unless the caller says otherwise."""

_CPU_TOKENS = 1_024
"""The most on a CPU, whose caches larger batches overflow (docs/benchmarks.md: 8,192 is a third slower)."""

_GRID = (16, 8)
"""Rows and tokens that a batch is rounded up to where oneDNN compiles a kernel for each shape (bf16 on a CPU): faster,
and memory stays where it is (docs/benchmarks.md)."""


class SmallModel:
    """Scores texts with one bundle. One thread at a time; `device` and `precision` say what was chosen."""

    def __init__(
        self, network: SequenceClassifier, tokenizer: Any, info: BundleInfo, *, device: str, precision: str
    ) -> None:
        network.encoder.to(DTYPES[precision])
        self.network = network.to(device).eval()
        self.tokenizer = tokenizer
        self.info = info
        self.device = device
        self.precision = precision

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
            precision: auto, fp32, bf16 or fp16.
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
        dtype = choose_precision(precision, chosen, hardware)
        try:
            _check_labels(AutoConfig.from_pretrained(folder), info, folder)
            parts = shared or Shared()
            network = parts.network(folder, f"{chosen} {dtype}", digests)
            tokenizer = parts.tokenizer(folder, info.max_tokens)
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
        return cls(network, tokenizer, info, device=chosen, precision=dtype)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return self.info.labels

    @property
    def temperature(self) -> float:
        """What the logits are divided by."""
        return self.info.temperature

    def memory(self) -> dict[int, int]:
        """Bytes of the encoder, by its identity, and of the head: two models may have the same encoder."""
        return {id(part): size_of(part) for part in (self.network.encoder, self.network.head)}

    def probabilities(self, texts: Sequence[str], *, batch_tokens: int = BATCH_TOKENS) -> NDArray[np.float32]:
        """Calibrated class probabilities (n, k) of n texts, in their order.

        Args:
            texts: cut at the bundle's `max_tokens`.
            batch_tokens: padded tokens of one forward pass; bounds the memory.
        """
        return softmax(self.logits(self.encode(texts), batch_tokens=batch_tokens), self.temperature)

    @torch.inference_mode()
    def features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Pooled features (n, d) of n texts, in their order: what the head sees."""
        encoded = self.encode(texts)
        out = np.empty((len(encoded), self.network.head.in_features), dtype=np.float32)
        for batch in token_batches([len(row) for row in encoded], _CPU_TOKENS):
            ids, mask = self._padded([encoded[i] for i in batch])
            with _onednn(self.precision != "fp32"):
                out[batch] = self.network.pooled(ids, mask)[: len(batch)].float().cpu().numpy()
        return out

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Token ids of texts: the first half of scoring."""
        return encode(self.tokenizer, texts)

    def logits(self, encoded: Encoded, *, batch_tokens: int = BATCH_TOKENS) -> NDArray[np.float32]:
        """Uncalibrated logits (n, k) of encoded texts, in their order: the second half of scoring."""
        out = np.empty((len(encoded), len(self.labels)), dtype=np.float32)
        budget = min(batch_tokens, _CPU_TOKENS) if self.device == "cpu" else batch_tokens
        for batch in token_batches([len(row) for row in encoded], budget):
            out[batch] = self.forward([encoded[i] for i in batch]).numpy()
        return out

    @torch.inference_mode()
    def forward(self, rows: Encoded) -> torch.Tensor:
        """Logits (n, k), on the CPU, of one padded batch."""
        ids, mask = self._padded(rows)
        with _onednn(self.precision != "fp32"):
            logits: torch.Tensor = self.network(input_ids=ids, attention_mask=mask).logits
        return logits[: len(rows)].float().cpu()

    def _padded(self, rows: Encoded) -> tuple[torch.Tensor, torch.Tensor]:
        compiled = self.device == "cpu" and self.precision != "fp32"
        grid = _GRID if compiled else (1, 1)
        return pad(rows, self.tokenizer.pad_token_id or 0, self.device, grid=grid)


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
