"""Which device and precision is chosen for which machine."""

from __future__ import annotations

import pytest
import torch

from datashunt.errors import ModelError
from datashunt.small.hardware import Hardware, choose_device, choose_precision, cuda_works, training_precision

PLAIN_CPU = Hardware(cuda=False, cuda_bf16=False, cpu_bf16=False)
FAST_CPU = Hardware(cuda=False, cuda_bf16=False, cpu_bf16=True)
OLD_GPU = Hardware(cuda=True, cuda_bf16=False, cpu_bf16=False)
NEW_GPU = Hardware(cuda=True, cuda_bf16=True, cpu_bf16=False)


@pytest.mark.parametrize(
    ("requested", "hardware", "chosen"),
    [
        ("auto", PLAIN_CPU, "cpu"),
        ("auto", NEW_GPU, "cuda"),
        ("cpu", NEW_GPU, "cpu"),
        ("cuda", OLD_GPU, "cuda"),
        ("cuda:1", NEW_GPU, "cuda:1"),
    ],
)
def test_device(requested: str, hardware: Hardware, chosen: str) -> None:
    assert choose_device(requested, hardware) == chosen


def test_cuda_without_cuda_says_what_to_use_instead() -> None:
    with pytest.raises(ModelError, match=r"'cuda:0'.*no CUDA device.*auto or cpu"):
        choose_device("cuda:0", PLAIN_CPU)


@pytest.mark.parametrize("requested", ["gpu", "cuda:x", "cuda:", "cpu:0", ""])
def test_an_unknown_device_is_named(requested: str) -> None:
    with pytest.raises(ModelError, match="is unknown"):
        choose_device(requested, NEW_GPU)


@pytest.mark.parametrize(
    ("requested", "device", "hardware", "chosen"),
    [
        ("auto", "cpu", PLAIN_CPU, "fp32"),
        ("auto", "cpu", FAST_CPU, "bf16"),
        ("auto", "cpu", NEW_GPU, "fp32"),
        ("auto", "cuda", NEW_GPU, "bf16"),
        ("auto", "cuda:1", OLD_GPU, "fp16"),
        ("fp32", "cuda", NEW_GPU, "fp32"),
        ("bf16", "cpu", PLAIN_CPU, "bf16"),
        ("fp16", "cuda", OLD_GPU, "fp16"),
    ],
)
def test_precision(requested: str, device: str, hardware: Hardware, chosen: str) -> None:
    assert choose_precision(requested, device, hardware, checked=True) == chosen


@pytest.mark.parametrize(("device", "hardware", "chosen"), [("cpu", FAST_CPU, "fp32"), ("cuda", NEW_GPU, "bf16")])
def test_a_bundle_that_nobody_compared_is_not_rounded_on_a_cpu(device: str, hardware: Hardware, chosen: str) -> None:
    assert choose_precision("auto", device, hardware, checked=False) == chosen
    assert choose_precision("bf16", device, hardware, checked=False) == "bf16"


def test_half_precision_on_a_cpu_is_refused() -> None:
    with pytest.raises(ModelError, match="fp16 needs CUDA"):
        choose_precision("fp16", "cpu", FAST_CPU, checked=True)


def test_an_unknown_precision_is_named() -> None:
    with pytest.raises(ModelError, match="'int4' is unknown"):
        choose_precision("int4", "cpu", PLAIN_CPU, checked=True)


@pytest.mark.parametrize(
    ("device", "hardware", "chosen"),
    [("cpu", PLAIN_CPU, "fp32"), ("cpu", FAST_CPU, "bf16"), ("cuda", OLD_GPU, "fp32"), ("cuda", NEW_GPU, "bf16")],
)
def test_training_never_runs_in_fp16(device: str, hardware: Hardware, chosen: str) -> None:
    assert training_precision(device, hardware) == chosen


def test_cuda_that_is_not_in_use_is_not_broken() -> None:
    assert not torch.cuda.is_initialized()
    assert cuda_works("auto")


@pytest.mark.parametrize(("device", "asked"), [("auto", None), ("cuda:1", "cuda:1")])
def test_cuda_that_fails_whatever_is_asked_of_it_is_broken(
    monkeypatch: pytest.MonkeyPatch, device: str, asked: str | None
) -> None:
    seen: list[str | None] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", seen.append)
    assert cuda_works(device)
    assert seen == [asked]

    def fail(_: str | None) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    assert not cuda_works(device)
