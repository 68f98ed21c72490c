"""The layers that the paper's comparison needs, one file each, behind the interface of statemix's own."""

from ._fla import BACKENDS as FLA_BACKENDS
from .attention import CausalAttention
from .base import Baseline
from .deltanet import DeltaNet
from .deltaproduct import GatedDeltaProduct
from .gated_deltanet import GatedDeltaNet
from .lru import LRU, SelectiveLRU
from .mamba import Mamba
from .mamba2 import Mamba2
from .mingru import MinGRU
from .mlstm import MLSTM
from .pdssm import PDSSM
from .recurrent import BACKENDS as RECURRENT_BACKENDS
from .recurrent import Recurrent
from .rglru import RGLRU
from .rwkv7 import RWKV7

__all__ = [
    "FLA_BACKENDS",
    "LRU",
    "MLSTM",
    "PDSSM",
    "RECURRENT_BACKENDS",
    "RGLRU",
    "RWKV7",
    "Baseline",
    "CausalAttention",
    "DeltaNet",
    "GatedDeltaNet",
    "GatedDeltaProduct",
    "Mamba",
    "Mamba2",
    "MinGRU",
    "Recurrent",
    "SelectiveLRU",
]
