"""Memory that is free goes back to the operating system. Imports the standard library only."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Return what was freed, where the C library can (glibc); call it after something large is gone, and now and then.

    Weights and activations come in many sizes, so that a few small blocks keep whole regions of free memory: after a
    distillation hundreds of MiB, in a score worker some tens.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
