"""Adaptive prediction sets, which hard pruning is compared with: by the mass of the labels that are more probable.

Sources: Romano, Sesia, Candès, *Classification with valid and adaptive coverage* (NeurIPS 2020), APS; Angelopoulos,
Bates, Malik, Jordan, *Uncertainty sets for image classifiers using conformal prediction* (ICLR 2021), RAPS, which is
APS for a penalty of 0. Both count a random part of the label's own mass; a question must not depend on chance, so none
of it is counted, which gives smaller sets on the recorded streams than half or all of it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datashunt import prune

Floats = NDArray[np.floating]


def scores(probabilities: Floats, penalty: float) -> NDArray[np.float64]:
    """(n, k): the mass of the labels that are more probable than each, and a penalty for each rank beyond the second.

    The two most probable labels are always offered, as in `prune.offered`: -inf.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    own = np.take_along_axis(probabilities, order, axis=1).astype(np.float64)
    mass = own.cumsum(axis=1) - own
    mass += penalty * np.arange(-1, mass.shape[1] - 1)
    mass[:, :2] = -np.inf
    made = np.empty_like(mass)
    np.put_along_axis(made, order, mass, axis=1)
    return made


def calibrate(of_labels: NDArray[np.float64], labels: NDArray[np.integer], coverage: float) -> float:
    """The largest score that is offered. `of_labels`: (n, k) scores; `labels`: (n,) what the LLM said; n is enough."""
    of_answers = np.sort(of_labels[np.arange(len(labels)), labels])
    return float(of_answers[-prune.missed(len(labels), coverage)])
