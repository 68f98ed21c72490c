"""Gate logits that are computed again for the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from .transforms import is_rewritten


def recomputed(logits: Tensor, compute: Callable[[], Tensor]) -> AbstractContextManager[Any]:
    """While this is entered, autograd keeps ``compute`` in place of ``logits``, and calls it when needed.

    ``compute`` must give the same bits as long as the tensors that it closes over have not changed.
    A compiler decides by itself what it recomputes and sees nothing of this; under a transform of torch.func
    tensors have no address to be known by, and the logits are kept.
    """
    if is_rewritten() or not torch.is_grad_enabled():
        return nullcontext()
    address, shape, dtype, device_type = logits.data_ptr(), logits.shape, logits.dtype, logits.device.type

    def without_graph() -> Tensor:
        with torch.no_grad(), torch.autocast(device_type, enabled=False):
            return compute()

    def pack(saved: Tensor) -> Tensor | Callable[[], Tensor]:
        if saved.shape == shape and saved.dtype == dtype and saved.data_ptr() == address:
            return without_graph
        return saved

    def unpack(kept: Tensor | Callable[[], Tensor]) -> Tensor:
        return kept if isinstance(kept, Tensor) else kept()

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)
