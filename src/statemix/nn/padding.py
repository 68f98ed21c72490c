"""Padded batches: the real steps are taken out, run as packed sequences, and put back.

No gate expresses a padded step: an H-LRU window shifts at every step, and a tanh gate is never
exactly one. Taking the padded steps out is exact for every family and normalisation, and saves work.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from statemix.shapes import Boundaries, Mask


@dataclass(frozen=True)
class RealSteps:
    """The real steps of a padded batch, row after row.

    index: (R,) positions in the flattened (B, T) grid. cu_seqlens: (B + 1,), one sequence a row.
    """

    index: Tensor
    cu_seqlens: Boundaries
    shape: tuple[int, int]

    @classmethod
    def of(cls, mask: Mask) -> RealSteps:
        """Read a mask: True is real, in any pattern."""
        lengths = mask.sum(1, dtype=torch.int32)
        start = torch.zeros(1, dtype=torch.int32, device=mask.device)
        bounds = torch.cat([start, lengths.cumsum(0, dtype=torch.int32)])
        return cls(mask.flatten().nonzero()[:, 0], bounds, (mask.shape[0], mask.shape[1]))

    def take(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (1, R, D)."""
        return x.flatten(0, 1)[self.index][None]

    def put(self, packed: Tensor) -> Tensor:
        """(1, R, D) -> (B, T, D), exactly zero where the batch was padded."""
        batch, time = self.shape
        whole = packed.new_zeros(batch * time, packed.shape[-1])
        return whole.index_copy(0, self.index, packed[0]).unflatten(0, (batch, time))
