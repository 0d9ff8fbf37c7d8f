"""The small model: a sequence classifier over any encoder, its bundle folder, and scoring. Needs torch.

Importing this package registers the model type with the transformers Auto classes and takes seconds: a
process that never scores or trains imports it not at all.
"""

from datashunt.small.bundle import BundleInfo, describe, read_info, save
from datashunt.small.checked import checked
from datashunt.small.hardware import (
    choose_device,
    choose_precision,
    cuda_works,
    lacks_memory,
    probe,
    training_precision,
)
from datashunt.small.model import SmallModel
from datashunt.small.network import Encoded, SequenceClassifier, load_encoder, resolve_base
from datashunt.small.sharing import Shared
from datashunt.small.together import together

__all__ = [
    "BundleInfo",
    "Encoded",
    "SequenceClassifier",
    "Shared",
    "SmallModel",
    "checked",
    "choose_device",
    "choose_precision",
    "cuda_works",
    "describe",
    "lacks_memory",
    "load_encoder",
    "probe",
    "read_info",
    "resolve_base",
    "save",
    "together",
    "training_precision",
]
