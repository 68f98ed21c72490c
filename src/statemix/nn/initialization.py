"""How the parameters of BD-LRU and H-LRU start: as in the paper, or as helps small models and tracking."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from statemix.ops.checks import check_choice

INITIAL_STATES = ("zeros", "learned")
GATE_INITIALIZATIONS = ("paper", "identity", "closed")
WEIGHT_INITIALIZATIONS = ("paper", "fan-in")

_IDENTITY_LOGIT = 3.0
_CLOSED_LOGIT = -6.0
_CAN_CLOSE = ("softmax", "sigmoid")  # others take the size of a logit, or have no gradient below zero


def check_initialization(
    name: str, *, normalization: str, initial_state: str, gate_init: str, weight_init: str
) -> None:
    """Raise ValueError for an unknown start, or for closed gates where low logits shut none."""
    check_choice(name, "initial_state", initial_state, INITIAL_STATES)
    check_choice(name, "gate_init", gate_init, GATE_INITIALIZATIONS)
    check_choice(name, "weight_init", weight_init, WEIGHT_INITIALIZATIONS)
    if gate_init == "closed" and normalization not in _CAN_CLOSE:
        raise ValueError(
            f"{name}: gate_init 'closed' needs a normalization that low logits shut, one of "
            f"{_CAN_CLOSE}; got {normalization!r}"
        )


def draw_weight(weight: Tensor, weight_init: str) -> None:
    """N(0, 0.02) as in the paper, or N(0, 1/sqrt(inputs)) for a weight (outputs, inputs)."""
    nn.init.normal_(weight, std=0.02 if weight_init == "paper" else weight.shape[1] ** -0.5)


@torch.no_grad()
def start_gates(
    logits: Tensor, gate_init: str, keeping: Callable[[Tensor], Tensor], entering: Callable[[Tensor], Tensor]
) -> None:
    """Raise the logits by which a state keeps itself ("identity"), or lower the entering ones ("closed").

    Args:
        logits: the bias of the gates, or the gates themselves where they are constant, (*gate_shape).
        keeping, entering: views of these logits.
    """
    if gate_init == "identity":
        keeping(logits).add_(_IDENTITY_LOGIT)
    elif gate_init == "closed":
        entering(logits).add_(_CLOSED_LOGIT)
