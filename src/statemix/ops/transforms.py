"""Under which modes, transforms and gradients a call runs: what decides the way that it takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import (
    TransformType,
    get_interpreter_stack,
    get_unwrapped,
    is_functorch_wrapped_tensor,
    maybe_get_level,
)
from torch.autograd import forward_ad

_BATCHED_GRADIENTS = torch._C._dispatch_key_parse("VmapMode")


def are_gradients_batched() -> bool:
    """Whether ``torch.autograd.grad(is_grads_batched=True)`` runs: gradients are tensors without storage."""
    return torch._C._dispatch_tls_is_dispatch_key_included(_BATCHED_GRADIENTS)


def needs_operator(arguments: tuple[Any, ...]) -> bool:
    """Whether the dispatcher has to see the operator: tensors are not plain, or a mode looks on."""
    if torch._C._len_torch_dispatch_stack() > 0:
        return True
    if are_gradients_batched():  # the dispatcher loops over them
        return True
    # Loops, not generators: this is on the way of every eager call. The last two arguments are names.
    for argument in arguments[:-2]:
        if argument is None:
            continue
        if type(argument) is Tensor or type(argument) is torch.nn.Parameter:
            if argument.is_meta or is_functorch_wrapped_tensor(argument):
                return True
            if argument.is_neg():  # a view that means the negative of what lies in memory, as z.conj().imag
                return True
        else:
            return True
    return False


def needs_autograd(arguments: tuple[Any, ...]) -> bool:
    """Whether somebody may ask for derivatives."""
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return True
    if torch.is_grad_enabled():
        for argument in arguments[:-2]:
            if argument is not None and argument.requires_grad:
                return True
    return False


def is_forward_mode() -> bool:
    """Whether a forward mode of torch.func is at work, at whatever level."""
    return any(level.key() == TransformType.Jvp for level in get_interpreter_stack() or [])


def forward_modes(arguments: tuple[Any, ...]) -> int:
    """How many forward modes of torch.func these tensors pass through.

    An autograd function serves one alone: PyTorch runs its ``jvp`` with all of them switched off, and what
    the others would add is zero without a word.
    """
    stack, levels = get_interpreter_stack() or [], set()
    for tensor in arguments[:-2]:
        while tensor is not None and is_functorch_wrapped_tensor(tensor):
            level = maybe_get_level(tensor)
            if 0 < level <= len(stack) and stack[level - 1].key() == TransformType.Jvp:
                levels.add(level)
            tensor = get_unwrapped(tensor)
    return len(levels)
