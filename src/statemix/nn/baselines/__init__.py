"""The layers that the paper's comparison needs, one file each, behind the interface of statemix's own."""

from .attention import CausalAttention
from .base import Baseline
from .deltanet import DeltaNet
from .deltaproduct import GatedDeltaProduct
from .gated_deltanet import GatedDeltaNet
from .recurrent import Recurrent

__all__ = [
    "Baseline",
    "CausalAttention",
    "DeltaNet",
    "GatedDeltaNet",
    "GatedDeltaProduct",
    "Recurrent",
]
