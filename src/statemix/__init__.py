"""Linear recurrent layers whose states mix: BD-LRU and H-LRU for PyTorch.

    bdlru_scan, hlru_scan        the recurrences as operators
    BDLRU, HLRU                  the recurrences as layers
    LanguageModel, ModelConfig   the backbone around them, with MixerConfig for the layer in it
    Decoder                      a model that says one token after the other
    statemix.tasks               generated tasks
    statemix.training            the training loop (extra "train")

Source: arXiv 2602.12021.
"""

from . import tasks
from .models import Decoder, LanguageModel, MixerConfig, ModelConfig
from .nn import BDLRU, HLRU
from .ops import backend_for, bdlru_scan, hlru_scan, kernel_counts, reset_kernel_counts

__version__ = "0.1.0"

__all__ = [
    "BDLRU",
    "HLRU",
    "Decoder",
    "LanguageModel",
    "MixerConfig",
    "ModelConfig",
    "__version__",
    "backend_for",
    "bdlru_scan",
    "hlru_scan",
    "kernel_counts",
    "reset_kernel_counts",
    "tasks",
]
