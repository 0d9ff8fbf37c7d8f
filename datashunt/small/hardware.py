"""Which device and which number format. Decisions are pure; `probe` asks torch once. Imports errors only."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from datashunt.errors import ModelError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Hardware:
    """What this process can use. `cpu_bf16`: the CPU multiplies bf16 natively (AVX512-BF16 or AMX)."""

    cuda: bool
    cuda_bf16: bool
    cpu_bf16: bool


def probe() -> Hardware:
    """What torch finds here."""
    cuda = torch.cuda.is_available()
    return Hardware(cuda, cuda and torch.cuda.is_bf16_supported(including_emulation=False), _cpu_bf16())


def cuda_works(device: str) -> bool:
    """Whether CUDA still computes in this process; after some errors it never does again. True where it is not in use.

    Args:
        device: auto, cpu, cuda or cuda:N.
    """
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return True
    try:
        torch.cuda.synchronize(device if device.startswith("cuda") else None)
    except RuntimeError:
        return False
    return True


def lacks_memory(error: Exception) -> bool:
    """Whether a device had no memory left for what was asked of it."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def choose_device(requested: str, hardware: Hardware) -> str:
    """A torch device name for `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        ModelError: CUDA is asked for and not there, or the name is none of these.
    """
    if requested == "auto":
        return "cuda" if hardware.cuda else "cpu"
    name, _, index = requested.partition(":")
    if requested != "cpu" and (name != "cuda" or (":" in requested and not index.isdecimal())):
        raise ModelError(f"device {requested!r} is unknown: use auto, cpu, cuda or cuda:N")
    if name == "cuda" and not hardware.cuda:
        raise ModelError(f"device {requested!r}: torch sees no CUDA device here; use auto or cpu")
    return requested


def choose_precision(requested: str, device: str, hardware: Hardware, *, checked: bool) -> str:
    """`fp32`, `bf16` or `fp16` for scoring on a chosen device.

    `auto` takes bf16 where the hardware has it, on a CPU only if the bundle is known to decide alike; else fp16 on CUDA
    and fp32 on the CPU, where an emulated bf16 is slower than fp32.

    Args:
        requested: of the settings.
        device: as `choose_device` chose it.
        hardware: of `probe`.
        checked: whether the bundle's card says that bf16 changes no more than it may (`rounding.passes`).

    Raises:
        ModelError: fp16 on a CPU, or an unknown name.
    """
    on_cpu = device == "cpu"
    if requested == "auto":
        if (hardware.cpu_bf16 and checked) if on_cpu else hardware.cuda_bf16:
            return "bf16"
        return "fp32" if on_cpu else "fp16"
    if requested not in DTYPES:
        raise ModelError(f"precision {requested!r} is unknown: use auto, fp32, bf16 or fp16")
    if requested == "fp16" and on_cpu:
        raise ModelError("precision fp16 needs CUDA: use auto, fp32 or bf16 on the CPU")
    return requested


def training_precision(device: str, hardware: Hardware) -> str:
    """`bf16` (under autocast) where the hardware has it, else `fp32`: fp16 training would need loss scaling."""
    return "bf16" if (hardware.cpu_bf16 if device == "cpu" else hardware.cuda_bf16) else "fp32"


def _cpu_bf16() -> bool:
    ask = getattr(torch.cpu, "get_capabilities", None)  # newer than the oldest torch that is supported
    found = ask() if ask is not None else {}
    return any(bool(found.get(name)) for name in ("avx512_bf16", "amx_bf16"))
