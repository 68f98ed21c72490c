"""Padded batches: the real steps are taken out, run as packed sequences, and put back.

No gate expresses a padded step: an H-LRU window shifts at every step, and a tanh gate is never
exactly one. Taking the padded steps out is exact for every family and normalisation, and saves work.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from statemix.shapes import Boundaries, Mask, State

from .transforms import is_rewritten


@dataclass(frozen=True)
class RealSteps:
    """The real steps of a padded batch, row after row.

    A compiler or a transform cannot follow sizes that depend on what a mask holds. There all steps stay, the
    padded ones behind the real ones as a sequence of their own, of which nothing is used.

    index: (R,) positions in the flattened (B, T) grid. cu_seqlens: (B + 1,), one sequence a row, or (B + 2,)
    with that of the padded steps.
    """

    mask: Mask
    index: Tensor
    cu_seqlens: Boundaries
    keeps_all: bool

    @classmethod
    def of(cls, mask: Mask) -> RealSteps:
        """Read a mask: True is real, in any pattern."""
        keeps_all = is_rewritten() or mask.is_meta
        lengths = mask.sum(1, dtype=torch.int32)
        if keeps_all:
            index = (~mask).flatten().to(torch.uint8).argsort(stable=True)
            lengths = torch.cat([lengths, (~mask).sum(dtype=torch.int32)[None]])
        else:
            index = mask.flatten().nonzero()[:, 0]
        return cls(mask, index, F.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0)), keeps_all)

    def take(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (1, R, D)."""
        if self.keeps_all:  # gradients of weights multiply what is padded by zero, and it may be no number
            x = torch.where(self.mask[..., None], x, 0.0)
        return x.flatten(0, 1)[self.index][None]

    def states(self, state: State | None) -> State | None:
        """(B, M, N), with one more for the padded steps where they stay."""
        return state if state is None or not self.keeps_all else F.pad(state, (0, 0, 0, 0, 0, 1))

    def put(self, packed: Tensor) -> Tensor:
        """(1, R, D) -> (B, T, D), exactly zero where the batch was padded."""
        whole = packed.new_zeros(self.mask.numel(), packed.shape[-1])
        whole = whole.index_copy(0, self.index, packed[0]).unflatten(0, self.mask.shape)
        return torch.where(self.mask[..., None], whole, 0.0) if self.keeps_all else whole
