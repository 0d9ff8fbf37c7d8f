"""A bundle's weights, read into memory of this process's own. Imports errors only.

They are never mapped from their file: if that is cut short, the system ends every process that has it mapped (SIGBUS),
in the middle of whatever it does. And what was verified is what is used, whatever becomes of the file meanwhile.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import load
from torch import Tensor, nn

from datashunt.errors import BundleError

WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"


def read(folder: Path, digests: Mapping[str, str] | None = None) -> list[bytes]:
    """Content of the folder's weights files: one, or the parts of a large model.

    Args:
        folder: a bundle's.
        digests: SHA-256 of its files by name, as they were published; None: nobody knows them.

    Raises:
        OSError: a file is missing.
        BundleError: one is not what was published, or the list of parts is none.
    """
    contents = []
    for name in _names(folder):
        content = (folder / name).read_bytes()
        if digests is not None and hashlib.sha256(content).hexdigest() != digests.get(name):
            raise BundleError(f"{folder / name} is not the file that was published: it will be fetched again")
        contents.append(content)
    return contents


def tensors(contents: Sequence[bytes]) -> dict[str, Tensor]:
    """All tensors by name, on the CPU. For a moment the memory holds both them and the files.

    Raises:
        SafetensorError: a file is cut short, or none of safetensors.
    """
    return {name: tensor for content in contents for name, tensor in load(content).items()}


def own(module: nn.Module) -> None:
    """Give a module that was loaded from mapped files memory of its own."""
    for part in (*module.parameters(), *module.buffers()):
        part.data = part.data.clone()


def _names(folder: Path) -> list[str]:
    if (folder / WEIGHTS).exists() or not (folder / _INDEX).exists():
        return [WEIGHTS]
    try:
        named = json.loads((folder / _INDEX).read_bytes())["weight_map"].values()
        return sorted({Path(str(name)).name for name in named})
    except (ValueError, KeyError, AttributeError, TypeError):
        raise BundleError(f"{folder / _INDEX} does not list the parts of the weights") from None
