"""Whole blocks that the readout does not see during a sequence, so that each has to be right by itself."""

from __future__ import annotations

import torch
from torch import Tensor


def drop_blocks(
    share: float, hidden: Tensor, initial: Tensor | None, final: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """What is read of states when each block of each sequence is left out with probability ``share``.

    The rest is divided by 1 - share, so that sums over blocks keep their mean. States themselves go on as
    they are: a block is left out of what is read of it, from a sequence's first step to its last.

    Args:
        share: from 0 on, below 1.
        hidden: (B, T, ..., N).
        initial, final: (S, M, N), the states around each sequence, which a window reads too.
        cu_seqlens: (S + 1,) where sequences are packed in a batch of 1.

    Examples:
        >>> hidden, final = torch.ones(2, 4, 3, 8), torch.ones(2, 3, 8)
        >>> read, _, _ = drop_blocks(0.5, hidden, None, final, None)
        >>> sorted(set(read.flatten().tolist()))
        [0.0, 2.0]
    """
    sequences, columns = final.shape[0], final.shape[-1]
    factors = (torch.rand(sequences, columns, device=final.device) >= share).to(final.dtype) / (1 - share)
    if cu_seqlens is None:
        of_steps = factors[:, None]
    else:
        steps = torch.arange(hidden.shape[1], device=hidden.device, dtype=cu_seqlens.dtype)
        of_steps = factors[torch.bucketize(steps, cu_seqlens[1:], right=True)][None]
    of_steps = of_steps.to(hidden.dtype).unflatten(1, (-1,) + (1,) * (hidden.dim() - 3))
    around = factors[:, None]
    return hidden * of_steps, None if initial is None else initial * around, final * around
