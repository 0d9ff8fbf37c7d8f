"""A bundle's folder that somebody else has filled runs nothing of what lies in it."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from datashunt.errors import BundleError, ModelError
from datashunt.small import SmallModel
from datashunt.small.network import load_encoder
from tests.fuzz.bundles import written
from tests.tiny import tiny_base

MODULE = (
    "from pathlib import Path\nPath({marker!r}).touch()\nfrom transformers import BertConfig as Other\nOther2 = Other\n"
)


class Bomb:
    """What makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.mkdir, (str(self._marker), 0o700)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "ran"


def spoil(folder: Path, marker: Path) -> None:
    """Weights as pickles, in every way that libraries look for, and code that a configuration names."""
    for name in ("pytorch_model.bin", "model.bin", "training_args.bin", "model.pt", "tokenizer.pkl"):
        (folder / name).write_bytes(pickle.dumps({"encoder": Bomb(marker)}))
    (folder / "evil.py").write_text(MODULE.format(marker=str(marker)))
    for name in ("config.json", "tokenizer_config.json"):
        document = json.loads((folder / name).read_text())
        document["auto_map"] = {
            "AutoConfig": "evil.Other",
            "AutoModel": "evil.Other",
            "AutoModelForSequenceClassification": "evil.Other",
            "AutoTokenizer": ["evil.Other", "evil.Other"],
        }
        (folder / name).write_text(json.dumps(document))


def test_the_bomb_is_one(tmp_path: Path, marker: Path) -> None:
    (tmp_path / "b").write_bytes(pickle.dumps(Bomb(marker)))
    with (tmp_path / "b").open("rb") as file:
        pickle.load(file)
    assert marker.exists()


def test_what_lies_beside_the_weights_is_not_run(tmp_path: Path, marker: Path) -> None:
    folder = written(tmp_path)
    spoil(folder, marker)
    assert SmallModel.load(folder, device="cpu", precision="fp32").labels == ("bad", "good")
    assert not marker.exists()


@pytest.mark.parametrize("content", ["nothing", "a pickle"])
def test_pickles_do_not_stand_in_for_weights(tmp_path: Path, marker: Path, content: str) -> None:
    folder = written(tmp_path)
    spoil(folder, marker)
    (folder / "model.safetensors").unlink()
    if content == "a pickle":
        torch.save({"encoder": Bomb(marker)}, folder / "model.safetensors")
    with pytest.raises(BundleError, match="fetch it again"):
        SmallModel.load(folder, device="cpu", precision="fp32")
    assert not marker.exists()


def test_a_base_that_has_pickles_alone_is_refused(tmp_path: Path, marker: Path) -> None:
    base = Path(tiny_base(tmp_path / "base"))
    spoil(base, marker)
    (base / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors"):
        load_encoder(str(base))
    assert not marker.exists()
