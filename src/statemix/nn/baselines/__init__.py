"""The layers that the paper's comparison needs, one file each, behind the interface of statemix's own."""

from .attention import CausalAttention
from .base import Baseline
from .recurrent import Recurrent

__all__ = ["Baseline", "CausalAttention", "Recurrent"]
