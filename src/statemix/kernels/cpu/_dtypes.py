"""How each torch dtype is named to the kernels."""

from __future__ import annotations

import numpy as np
import torch

TAGS = {
    torch.float32: np.float32(0),
    torch.float64: np.float64(0),
    torch.bfloat16: np.uint16(0),  # numba has neither half precision: a tag of the same size stands for it
    torch.float16: np.int16(0),
}
