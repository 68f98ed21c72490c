"""Where packed documents begin, as the collators of Transformers say it."""

from __future__ import annotations

import torch
from torch import Tensor

ARGUMENTS = ("position_ids", "cu_seq_lens_q")
"""What a model is told of documents that lie one behind the other in a row."""


def document_bounds(
    position_ids: Tensor | None, cu_seq_lens_q: Tensor | None, batch: int, time: int
) -> Tensor | None:
    """Bounds of documents over all rows, one behind the other, (S + 1,) int32; None where each row is one.

    Args:
        position_ids: (B, T) or (1, T): a document begins where they are 0.
        cu_seq_lens_q: (S + 1,), the bounds themselves, in a batch of 1.

    Raises:
        ValueError: shapes that do not fit.

    Examples:
        >>> document_bounds(torch.tensor([[0, 1, 2, 0, 1]]), None, 1, 5)
        tensor([0, 3, 5], dtype=torch.int32)
        >>> document_bounds(torch.tensor([[0, 1, 2, 3, 4]]), None, 1, 5) is None
        True
    """
    if cu_seq_lens_q is not None:
        if batch != 1:
            raise ValueError(
                f"Statemix: cu_seq_lens_q bounds documents in a batch of 1; got a batch of {batch}"
            )
        return cu_seq_lens_q.to(torch.int32)
    if position_ids is None:
        return None
    if tuple(position_ids.shape) not in ((batch, time), (1, time)):
        raise ValueError(
            f"Statemix: position_ids must be (B, T) = ({batch}, {time}); got {tuple(position_ids.shape)}"
        )
    begins = position_ids == 0
    if not bool(begins[:, 1:].any()):
        return None
    begins[:, 0] = True
    starts = begins.expand(batch, time).flatten().nonzero()[:, 0]
    return torch.cat([starts, starts.new_tensor([batch * time])]).to(torch.int32)
