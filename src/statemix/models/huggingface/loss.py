"""The loss of labels without their logits, as Transformers counts it."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.loss.loss_utils import ForCausalLMLoss

from statemix.models.loss import IGNORE_INDEX, linear_cross_entropy, readable_weight


def needs_no_logits(head: nn.Module, loss_function: Any, hidden: Tensor) -> bool:
    """Whether the loss is the usual one, of a head that is nothing but its weight.

    A head that was wrapped (adapters, quantization, sharding, hooks) has to be called, and a loss of the
    user's own reads logits.
    """
    return loss_function is ForCausalLMLoss and readable_weight(head, hidden) is not None


def next_label_loss(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    num_items_in_batch: Tensor | float | None = None,
    ignore_index: int = IGNORE_INDEX,
    shift_labels: Tensor | None = None,
    **_: Any,
) -> Tensor:
    """What ``ForCausalLMLoss`` makes of ``hidden @ weight.T``, with its arguments.

    Where nothing is asked it is 0, so that a batch of nothing but padding leaves the weights alone.

    Args:
        hidden: (B, T, D). weight: (V, D). labels: (B, T), each the target of the place before it.
        num_items_in_batch: what the sum is divided by; default the number of targets here. Gradient
            accumulation gives the number in all batches of a step.
        shift_labels: (B, T), targets at their own places, in place of labels.
    """
    if shift_labels is None:
        shift_labels = F.pad(labels, (0, 1), value=ignore_index)[..., 1:]
    found = linear_cross_entropy(hidden, weight, shift_labels.to(hidden.device), ignore_index=ignore_index)
    if num_items_in_batch is None:
        return found.mean
    items = num_items_in_batch
    if isinstance(items, Tensor):
        items = items.to(hidden.device)
    return found.total / (items + (items == 0))
