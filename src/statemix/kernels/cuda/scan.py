"""Both families' forward and backward on the GPU: memory layout, choice of the kernel, launch.

The families differ in their kernels and in one axis: a BD-LRU has M rows of logits and values a step, an
H-LRU one. What a call needs beyond pointers depends only on shapes, strides and dtypes and is kept (a plan),
so that a call with known ones looks at nothing else.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor

from statemix.kernels.cuda import launch
from statemix.kernels.cuda.configurations import Configuration
from statemix.kernels.cuda.rule import choose

#: How often an argument had to be copied to be readable, by "family.direction.argument".
copies: Counter[str] = Counter()

_DTYPE_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def _strides(tensor: Tensor) -> tuple[int, ...]:
    """Strides in bytes; an axis of size 1 gets the stride that it would have in a contiguous tensor."""
    size = tensor.element_size()
    strides, contiguous = [], size
    for length, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        strides.append(contiguous if length == 1 else stride * size)
        contiguous = contiguous * length
    return tuple(reversed(strides))


def _follow(lengths: tuple[int, ...], strides: tuple[int, ...], size: int) -> bool:
    """Whether elements of ``size`` bytes of axes of these lengths follow each other without gaps."""
    for length, stride in zip(reversed(lengths), reversed(strides), strict=True):
        if stride != size:
            return False
        size *= length
    return True


def _is_aligned(tensor: Tensor, strides: tuple[int, ...]) -> bool:
    """Whether rows are contiguous, each at a multiple of 16 bytes, with strides that fit the kernels."""
    return (
        strides[-1] == tensor.element_size()
        and tensor.data_ptr() % 16 == 0
        and all(stride % 16 == 0 for stride in strides[:-1])
        and max(strides[1:]) < 2**31
    )


def _readable(where: str, given: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The tensors as kernels can read them, and how their rows lie (enum Rows); copies what does not fit."""
    tensors = dict(given)
    width = next(iter(tensors.values()))
    row_bytes = width.shape[-1] * width.element_size()
    strides = {name: _strides(tensor) for name, tensor in tensors.items()}
    packed, stepped = (  # all rows of a batch element, or those of a step
        {
            name: _follow(tensor.shape[first:], strides[name][first:], tensor.element_size())
            for name, tensor in tensors.items()
        }
        for first in (1, 2)
    )
    aligned = {name: _is_aligned(tensor, strides[name]) for name, tensor in tensors.items()}
    if row_bytes % 16 == 0:
        for name, tensor in tensors.items():
            if not aligned[name] and not packed[name]:
                tensors[name] = tensor.contiguous()
                copies[f"{where}.{name}"] += 1
                packed[name] = stepped[name] = True
                aligned[name] = tensors[name].data_ptr() % 16 == 0
        if all(aligned.values()):
            if all(packed.values()):
                return tensors, "packed"
            return tensors, "stepped" if all(stepped.values()) else "strided"
    for name, tensor in tensors.items():
        if not packed[name]:
            tensors[name] = tensor.contiguous()
            copies[f"{where}.{name}"] += 1
    return tensors, "unaligned"


class _Plan(NamedTuple):
    kernel: launch.Kernel
    blocks: int
    exchange: int
    logits: tuple[int, int, int, int]
    values: tuple[int, int, int]
    grads: tuple[int, int, int]
    steps: int
    width: int


_plans: dict[tuple, _Plan] = {}


def _remember(key: tuple, plan: _Plan) -> None:
    """Keeps a plan; lengths that differ from call to call do not fill the memory."""
    if len(_plans) >= 4096:
        _plans.clear()
    _plans[key] = plan


def _logit_strides(family: str, logits: Tensor) -> tuple[int, int, int, int]:
    strides = _strides(logits)
    batch = 0 if logits.shape[0] == 1 else strides[0]
    time = 0 if logits.shape[1] == 1 else strides[1]
    return (batch, time, strides[2] if family == "bdlru" else 0, strides[-2])


def _value_strides(family: str, values: Tensor) -> tuple[int, int, int]:
    batch, time, *rest = _strides(values)
    return (0 if values.shape[0] == 1 else batch, time, rest[0] if family == "bdlru" else time)


def configuration(
    family: str,
    direction: str,
    logits: Tensor,
    values: Tensor,
    sequences: int,
    normalization: str,
    rows: str,
    device_index: int,
) -> Configuration:
    """What runs for tensors of these shapes and dtypes, which may be without storage."""
    steps, width = values.shape[1], values.shape[-1]
    time_broadcast = logits.shape[1] == 1 and steps > 1
    broadcast = time_broadcast or logits.shape[0] != values.shape[0]
    return choose(
        family,
        direction,
        logits.shape[-2] - 1,
        _DTYPE_NAMES[values.dtype],
        normalization,
        sequences,
        max(1, steps * values.shape[0] // max(1, sequences)),
        width,
        launch.device_properties(device_index),
        rows=rows,
        time_broadcast=time_broadcast,
        gate_gradient=not (broadcast and direction == "backward"),
    )


def _plan(
    family: str,
    direction: str,
    logits: Tensor,
    values: Tensor,
    grads: Tensor,
    sequences: int,
    normalization: str,
    rows: str,
) -> _Plan:
    index = values.device.index
    chosen = configuration(family, direction, logits, values, sequences, normalization, rows, index)
    tiles = -(-values.shape[-1] // chosen.tile)
    return _Plan(
        kernel=launch.scan_kernel(chosen, index),
        blocks=chosen.thread_blocks(sequences * tiles),
        exchange=sequences * tiles * chosen.exchange_floats,
        logits=_logit_strides(family, logits),
        values=_value_strides(family, values),
        grads=_value_strides(family, grads),
        steps=values.shape[1],
        width=values.shape[-1],
    )


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _exchange(plan: _Plan, device: torch.device) -> Tensor | None:
    return torch.zeros(plan.exchange, dtype=torch.float32, device=device) if plan.exchange else None


def _launch(kernel: launch.Kernel, blocks: int, device: torch.device, arguments: tuple[int, ...]) -> None:
    """Launches with the tensors' device current; costs nothing where it is already."""
    if torch._C._cuda_getDevice() == device.index:
        kernel.launch(blocks, arguments)
    else:
        with torch.cuda.device(device):
            kernel.launch(blocks, arguments)


def forward(
    family: str,
    gate_logits: Tensor,
    values: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    normalization: str,
) -> tuple[Tensor, Tensor]:
    """Runs a family's forward; shapes as in `bdlru.forward` and `hlru.forward`."""
    sequences = values.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    device = values.device
    aligned = (gate_logits.data_ptr() | values.data_ptr()) % 16 == 0
    key = (
        family,
        gate_logits.shape,
        gate_logits.stride(),
        values.shape,
        values.stride(),
        values.dtype,
        device.index,
        sequences,
        normalization,
    )
    plan = _plans.get(key) if aligned else None
    if plan is None:
        given = {"gate_logits": gate_logits, "values": values}
        tensors, rows = _readable(f"{family}.forward", given)
        gate_logits, values = tensors.values()
        plan = _plan(family, "forward", gate_logits, values, values, sequences, normalization, rows)
        if aligned and all(tensors[name] is given[name] for name in given):
            _remember(key, plan)
    if initial_state is not None:
        initial_state = initial_state.contiguous()
    if cu_seqlens is not None:
        cu_seqlens = cu_seqlens.contiguous()

    hidden = torch.empty_like(values, memory_format=torch.contiguous_format)
    state_shape = (sequences, gate_logits.shape[-2] - 1, plan.width)
    final_state = torch.empty(state_shape, dtype=torch.float32, device=device)
    initial = _address(initial_state)
    exchange = _exchange(plan, device)
    _launch(
        plan.kernel,
        plan.blocks,
        device,
        (
            gate_logits.data_ptr(), values.data_ptr(), 0, 0, hidden.data_ptr(), 0,
            initial, initial, final_state.data_ptr(), _address(cu_seqlens), _address(exchange),
            *plan.logits, *plan.values, 0, 0, 0, plan.steps, plan.width, 0, 0,
        ),
    )  # fmt: skip
    return hidden, final_state


def backward(
    family: str,
    gate_logits: Tensor,
    values: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    hidden: Tensor,
    grad_hidden: Tensor | None,
    grad_final_state: Tensor | None,
    normalization: str,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Runs a family's backward; shapes as in `bdlru.backward` and `hlru.backward`."""
    sequences = values.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    hidden = hidden.contiguous()
    if grad_hidden is None:
        grad_hidden = values.new_zeros((1, 1, *values.shape[2:])).expand(values.shape)
    device = values.device
    aligned = (
        gate_logits.data_ptr() | values.data_ptr() | grad_hidden.data_ptr() | hidden.data_ptr()
    ) % 16 == 0
    key = (
        family,
        gate_logits.shape,
        gate_logits.stride(),
        values.shape,
        values.stride(),
        grad_hidden.stride(),
        values.dtype,
        device.index,
        sequences,
        normalization,
    )
    plan = _plans.get(key) if aligned else None
    if plan is None:
        given = {"gate_logits": gate_logits, "values": values, "grad_hidden": grad_hidden, "hidden": hidden}
        tensors, rows = _readable(f"{family}.backward", given)
        gate_logits, values, grad_hidden, hidden = tensors.values()
        plan = _plan(family, "backward", gate_logits, values, grad_hidden, sequences, normalization, rows)
        if aligned and all(tensors[name] is given[name] for name in given):
            _remember(key, plan)
    if grad_final_state is not None:
        grad_final_state = grad_final_state.contiguous()
    if cu_seqlens is not None:
        cu_seqlens = cu_seqlens.contiguous()
    grad_initial_state = None
    if initial_state is not None:
        initial_state = initial_state.contiguous()
        grad_initial_state = torch.empty_like(initial_state)

    broadcast = gate_logits.shape[:2] != values.shape[:2]
    if broadcast:
        grad_values = torch.empty_like(values, memory_format=torch.contiguous_format)
        grad_gates = torch.empty(values.shape, dtype=torch.float32, device=device)
    else:
        grad_gates, grad_values = _gradients_like(gate_logits, values)
    apart = (values.element_size() * grad_values.stride(1), values.element_size() * grad_gates.stride(1))
    exchange = _exchange(plan, device)
    _launch(
        plan.kernel,
        plan.blocks,
        device,
        (
            gate_logits.data_ptr(), values.data_ptr(), hidden.data_ptr(), grad_hidden.data_ptr(),
            grad_values.data_ptr(), grad_gates.data_ptr(),
            _address(initial_state), _address(grad_final_state), _address(grad_initial_state),
            _address(cu_seqlens), _address(exchange),
            *plan.logits, *plan.values, *plan.grads, plan.steps, plan.width, *apart,
        ),
    )  # fmt: skip
    if broadcast:
        grad_gates = _broadcast_gate_gradient(
            family, gate_logits, values, hidden, grad_gates, initial_state, cu_seqlens, normalization
        )
    return grad_gates, grad_values, grad_initial_state


def _gradients_like(gate_logits: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Room for both gradients: parts of one tensor's rows if logits and values are, as of one product."""
    batch, steps = values.shape[:2]
    columns = gate_logits.numel() // (batch * steps), values.numel() // (batch * steps)
    row = sum(columns)
    if (
        gate_logits.stride()[:2] == values.stride()[:2] == (steps * row, row)
        and values.data_ptr() == gate_logits.data_ptr() + columns[0] * values.element_size()
    ):
        of_gates, of_values = values.new_empty(batch, steps, row).split(columns, 2)
        return of_gates.view(gate_logits.shape), of_values.view(values.shape)
    contiguous = torch.contiguous_format
    return (
        torch.empty_like(gate_logits, memory_format=contiguous),
        torch.empty_like(values, memory_format=contiguous),
    )


def _broadcast_gate_gradient(
    family: str,
    gate_logits: Tensor,
    values: Tensor,
    hidden: Tensor,
    state_gradient: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    normalization: str,
) -> Tensor:
    """Sums the gradient of logits that are shared by batch rows or steps, in float32 and a fixed order."""
    batch, steps, width = values.shape[0], values.shape[1], values.shape[-1]
    columns = gate_logits.shape[-2]
    kernel = launch.gate_gradient_kernel(
        family, columns - 1, _DTYPE_NAMES[values.dtype], normalization, values.device.index
    )
    results = gate_logits.numel() // (columns * width)  # rows of logits
    terms = batch * steps * (values.shape[2] if family == "bdlru" else 1) // results
    # Enough parts to fill the device, and not so many that a part is short.
    threads = launch.device_properties(values.device.index).multiprocessors * 2048
    parts = max(1, min(threads // max(1, results * width), terms // 16))
    partial = torch.empty((parts, *gate_logits.shape), dtype=torch.float32, device=values.device)
    _launch(
        kernel,
        -(-width // launch.GATE_GRADIENT_THREADS) * results * parts,
        values.device,
        (
            gate_logits.data_ptr(), values.data_ptr(), hidden.data_ptr(), state_gradient.data_ptr(),
            partial.data_ptr(), _address(initial_state), _address(cu_seqlens),
            *_logit_strides(family, gate_logits), *_value_strides(family, values),
            batch, steps, width, gate_logits.shape[0], gate_logits.shape[1], parts,
        ),
    )  # fmt: skip
    total = partial[0] if parts == 1 else partial.sum(0)
    return total.to(gate_logits.dtype)
