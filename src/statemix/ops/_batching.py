"""The batching rule of the scans, for ``torch.func.vmap`` and what is made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

Output = Literal["gates", "batch"]
"""What an output has the batch of: the gates, which may be broadcast, or the values."""


def fold_into_batch(
    apply: Callable[..., Any],
    info: Any,
    in_dims: tuple[int | None, ...],
    arguments: tuple[Any, ...],
    outputs: tuple[Output, ...],
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Fold the mapped dimension into the batch, run once, unfold; outputs, and where they are mapped.

    Packed sequences have no batch to fold into, and gates that are mapped while the batch is
    broadcast would have to be copied along it: both run one call for each index.
    """
    tensors, dims = arguments[:-2], in_dims[:-2]
    moved: list[Any] = [t if d is None else t.movedim(d, 0) for t, d in zip(tensors, dims, strict=True)]
    mapped = [d is not None for d in dims]
    if info.batch_size == 0:  # no call to make, but its outputs have shapes
        shown = (t.new_zeros(t.shape[1:]) if m else t for t, m in zip(moved, mapped, strict=True))
        return tuple(r[None][:0] for r in apply(*shown, *arguments[-2:])), (0,) * len(outputs)
    gates, values, _, cu_seqlens = moved[:4]
    batch = values.shape[1] if mapped[1] else values.shape[0]
    gate_batch = gates.shape[1] if mapped[0] else gates.shape[0]
    broadcast_gates = gate_batch == 1 and batch != 1
    if cu_seqlens is not None or (broadcast_gates and (mapped[0] or "gates" in outputs)):
        results = [
            apply(*(t[i] if m else t for t, m in zip(moved, mapped, strict=True)), *arguments[-2:])
            for i in range(info.batch_size)
        ]
        return tuple(torch.stack(column) for column in zip(*results, strict=True)), (0,) * len(outputs)

    def fold(tensor: Tensor | None, is_mapped: bool, keep: bool) -> Tensor | None:
        if tensor is None or (keep and not is_mapped):
            return tensor
        if not is_mapped:
            tensor = tensor.expand(info.batch_size, *tensor.shape)
        return tensor.flatten(0, 1)

    folded = [
        fold(t, m, keep=i == 0 and broadcast_gates)
        for i, (t, m) in enumerate(zip(moved, mapped, strict=True))
    ]
    results = apply(*folded, *arguments[-2:])
    return tuple(r.unflatten(0, (info.batch_size, -1)) for r in results), (0,) * len(outputs)
