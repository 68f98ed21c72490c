"""The first step sizes of Mamba, which the layers after it took over."""

from __future__ import annotations

import math

import torch
from torch import Tensor


@torch.no_grad()
def draw_step_bias_(bias: Tensor) -> None:
    """Biases c of which the steps softplus(c) are log-uniform in [0.001, 0.1].

    Source: Gu and Dao 2023, arXiv 2312.00752, section 3.6.
    """
    bias.uniform_(math.log(1e-3), math.log(1e-1)).exp_()
    # The inverse of softplus.
    bias.add_(torch.log(-torch.expm1(-bias)))
