"""The letters of every shape in statemix, and the array types that public signatures use.

    B  batch                     T  time steps
    M  block size (BD-LRU) or order (H-LRU)
    N  blocks (BD-LRU) or channels (H-LRU)
    D  model width               S  states: the batch, or the number of packed sequences
    V  vocabulary

A broadcast dimension is written ``#B`` or ``#T``: its size is that letter or 1.
"""

from __future__ import annotations

from jaxtyping import Bool, Complex, Float, Int, Int32
from torch import Tensor

GateLogitsBD = Float[Tensor, "#B #T M M+1 N"]
GateLogitsH = Float[Tensor, "#B #T M+1 N"]
ValuesBD = Float[Tensor, "B T M N"]
ValuesH = Float[Tensor, "B T N"]
State = Float[Tensor, "S M N"]
Boundaries = Int32[Tensor, "S+1"]

Sequence = Float[Tensor, "B T D"]
Token = Float[Tensor, "B D"]
Mask = Bool[Tensor, "B T"]
Tokens = Int[Tensor, "B T"]
Spectrum = Complex[Tensor, "#B #T N M"]
