"""What the operators ask of tensors: shapes, dtypes, devices, and where sequences begin."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.utils.weak import WeakTensorKeyDictionary

from statemix.kernels.precision import state_dtype
from statemix.kernels.reference.normalization import NORMALIZATIONS

from .options import check_choice

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

_CUMULATIVE = "it holds the cumulative lengths, e.g. torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)"
_checked_boundaries = WeakTensorKeyDictionary()
_passed: set[tuple] = set()


def check_scan(
    operation: str,
    gate_logits: Tensor,
    values: Tensor,
    initial_state: Tensor | None,
    normalization: str,
    cu_seqlens: Tensor | None,
    *,
    in_blocks: bool,
) -> None:
    """Raise ValueError or TypeError for inputs that the operator cannot mean.

    ``in_blocks`` says that values carry a block (BD-LRU). What has passed once is not looked at again.
    """
    signature = _signature(operation, gate_logits, values, initial_state, normalization, cu_seqlens)
    if signature is not None and signature in _passed:
        return
    _check_dense(operation, "gate_logits", gate_logits)
    _check_dense(operation, "values", values)
    if initial_state is not None:
        _check_dense(operation, "initial_state", initial_state)
    _check_shapes(operation, gate_logits, values, in_blocks)
    _check_dtypes(operation, gate_logits, values)
    check_choice(operation, "normalization", normalization, NORMALIZATIONS)
    states = values.shape[0]
    if cu_seqlens is not None:
        check_boundaries(operation, cu_seqlens, values)
        states = cu_seqlens.shape[0] - 1
    if initial_state is not None:
        shape = (states, gate_logits.shape[-2] - 1, values.shape[-1])
        check_state(operation, initial_state, shape, values, cu_seqlens is not None)
    if signature is not None:
        if len(_passed) >= 4096:  # lengths that differ from call to call do not fill the memory
            _passed.clear()
        _passed.add(signature)


def _check_tensor(operation: str, name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"{operation}: {name} must be a torch.Tensor; got {type(tensor).__name__}: make it one with "
            f"torch.as_tensor"
        )


def _check_dense(operation: str, name: str, tensor: Tensor) -> None:
    _check_tensor(operation, name, tensor)
    if tensor.layout is not torch.strided or tensor.is_nested:
        layout = "a nested one" if tensor.is_nested else str(tensor.layout)
        raise TypeError(
            f"{operation}: {name} must be a dense tensor; got {layout}: call .to_dense(), or pack sequences "
            f"of unequal length and give cu_seqlens"
        )


def check_rank(operation: str, name: str, tensor: Tensor, sizes: int, wanted: str) -> None:
    """Raise ValueError unless a tensor has as many sizes as ``wanted`` has letters."""
    if tensor.dim() != sizes:
        remedy = f"a batch of one is {name}[None]" if tensor.dim() == sizes - 1 else f"give it {sizes} sizes"
        raise ValueError(f"{operation}: {name} must be {wanted}; got {tuple(tensor.shape)}: {remedy}")


def _check_shapes(operation: str, gate_logits: Tensor, values: Tensor, in_blocks: bool) -> None:
    wants_logits = "(B, T, M, M+1, N)" if in_blocks else "(B, T, M+1, N)"
    wants_values = "(B, T, M, N)" if in_blocks else "(B, T, N)"
    check_rank(operation, "gate_logits", gate_logits, 5 if in_blocks else 4, wants_logits)
    check_rank(operation, "values", values, 4 if in_blocks else 3, wants_values)
    size = gate_logits.shape[-2] - 1
    if in_blocks and gate_logits.shape[2] != size:
        raise ValueError(
            f"{operation}: gate_logits must be {wants_logits}; got {tuple(gate_logits.shape)}: "
            f"the fourth size must be {gate_logits.shape[2] + 1}"
        )
    if size < 1 or values.shape[-1] < 1:
        raise ValueError(
            f"{operation}: M and N must be at least 1; got gate_logits {wants_logits} = "
            f"{tuple(gate_logits.shape)}, values {tuple(values.shape)}: there is nothing to mix, leave the "
            f"call out"
        )
    batch, time = values.shape[:2]
    wanted = (batch, time, *((size,) if in_blocks else ()), gate_logits.shape[-1])
    if tuple(values.shape) != wanted:
        raise ValueError(
            f"{operation}: values must be {wants_values} = {wanted} to fit gate_logits "
            f"{tuple(gate_logits.shape)}; got {tuple(values.shape)}: give both the same sizes"
        )
    for axis, name, want in ((0, "batch", batch), (1, "time", time)):
        # Compared one by one: compilers follow that through symbolic sizes, and not `in`.
        if gate_logits.shape[axis] != want and gate_logits.shape[axis] != 1:
            raise ValueError(
                f"{operation}: gate_logits must have {name} size {want} as values {tuple(values.shape)} "
                f"have, or 1 to be broadcast; got {tuple(gate_logits.shape)}: give both the same, or one for "
                f"all"
            )


def _signature(
    operation: str,
    gate_logits: Tensor,
    values: Tensor,
    initial_state: Tensor | None,
    normalization: str,
    cu_seqlens: Tensor | None,
) -> tuple | None:
    """All that :func:`check_scan` looks at; None where that is not all in shapes and dtypes."""
    if cu_seqlens is not None or type(normalization) is not str:
        return None
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0:  # sizes may be symbols
        return None
    described: list = [operation, normalization]
    for tensor in (gate_logits, values) if initial_state is None else (gate_logits, values, initial_state):
        if type(tensor) is not Tensor and type(tensor) is not torch.nn.Parameter:
            return None
        if tensor.layout is not torch.strided or tensor.is_nested:
            return None
        described += (tensor.shape, tensor.dtype, tensor.device)
    return tuple(described)


def _check_dtypes(operation: str, gate_logits: Tensor, values: Tensor) -> None:
    if values.dtype not in DTYPES:
        raise TypeError(f"{operation}: values must be one of {DTYPES}; got {values.dtype}: cast them first")
    if gate_logits.dtype != values.dtype:
        raise TypeError(
            f"{operation}: gate_logits and values must share one dtype; got {gate_logits.dtype} and "
            f"{values.dtype}: cast one with .to()"
        )
    if gate_logits.device != values.device:
        raise ValueError(
            f"{operation}: gate_logits and values must be on one device; got {gate_logits.device} and "
            f"{values.device}: move one with .to()"
        )


def check_state(
    operation: str,
    state: Tensor,
    shape: tuple[int, int, int],
    like: Tensor,
    packed: bool = False,
    name: str = "initial_state",
) -> None:
    """Raise unless a state has this shape, the device of ``like`` and the dtype of states."""
    _check_tensor(operation, name, state)
    if tuple(state.shape) != shape:
        letters = "(num_sequences, M, N)" if packed else "(B, M, N)"
        raise ValueError(
            f"{operation}: {name} must be {letters} = {shape}; got {tuple(state.shape)}: give it as a call "
            f"returns it, one for each sequence"
        )
    wide = state_dtype(like.dtype)
    if state.dtype != wide:
        raise TypeError(
            f"{operation}: {name} must be {wide} for inputs of {like.dtype}; got {state.dtype}: "
            f"states keep full precision, cast with .to({wide})"
        )
    if state.device != like.device:
        raise ValueError(
            f"{operation}: {name} must be on {like.device} as the inputs are; got {state.device}: "
            f"move it with .to()"
        )


def check_boundaries(operation: str, cu_seqlens: Tensor, values: Tensor) -> None:
    """Raise unless ``cu_seqlens`` cuts the time of a batch of one into sequences.

    The content is read when it is on the CPU, and once for each tensor when it is on a GPU; never
    under a compiler, a transform or a graph capture, where reading is impossible: what of that is on the CPU
    is read where the kernels run, by :func:`check_cuts`.
    """
    if not isinstance(cu_seqlens, Tensor):
        raise TypeError(
            f"{operation}: cu_seqlens must be a torch.Tensor; got {type(cu_seqlens).__name__}: {_CUMULATIVE}"
        )
    batch, time = values.shape[:2]
    if cu_seqlens.dtype != torch.int32:
        raise TypeError(
            f"{operation}: cu_seqlens must be torch.int32; got {cu_seqlens.dtype}: cast with .to(torch.int32)"
        )
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 1:
        raise ValueError(
            f"{operation}: cu_seqlens must be (num_sequences + 1,); got {tuple(cu_seqlens.shape)}: "
            f"{_CUMULATIVE}"
        )
    if cu_seqlens.device != values.device:
        raise ValueError(
            f"{operation}: cu_seqlens must be on {values.device} as the values are; got {cu_seqlens.device}: "
            f"move it with .to()"
        )
    if batch != 1:
        raise ValueError(
            f"{operation}: cu_seqlens needs a batch of 1, all sequences one after the other in time; got "
            f"values {tuple(values.shape)}: flatten batch and time, or leave cu_seqlens out"
        )
    if not _readable(cu_seqlens):
        return
    on_cpu = cu_seqlens.device.type == "cpu"
    if not on_cpu and _checked_boundaries.get(cu_seqlens) == _as_checked(cu_seqlens, time):
        return
    check_cuts(operation, cu_seqlens, time)
    remember_boundaries(cu_seqlens, time)


def check_cuts(operation: str, cu_seqlens: Tensor, time: int) -> None:
    """Raise unless boundaries lie in order from 0 to ``time``: kernels read and write where they point."""
    bounds = cu_seqlens.tolist()
    if bounds[0] != 0 or bounds[-1] != time or bounds != sorted(bounds):
        shown = bounds if len(bounds) <= 10 else [*bounds[:5], "...", *bounds[-3:]]
        raise ValueError(
            f"{operation}: cu_seqlens must start with 0, never fall, and end with T = {time}; got {shown}: "
            f"{_CUMULATIVE}"
        )


def remember_boundaries(cu_seqlens: Tensor, time: int) -> None:
    """Take boundaries on a GPU as checked, where who made them on the CPU will not wait to read them."""
    if cu_seqlens.device.type != "cpu":
        _checked_boundaries[cu_seqlens] = _as_checked(cu_seqlens, time)


def _as_checked(cu_seqlens: Tensor, time: int) -> tuple[int | None, int]:
    """What tells whether boundaries are still those that were checked; inference counts no versions."""
    return None if cu_seqlens.is_inference() else cu_seqlens._version, time


def _readable(tensor: Tensor) -> bool:
    if torch.compiler.is_compiling() or tensor.device.type == "meta":
        return False
    if type(tensor) is not Tensor or is_functorch_wrapped_tensor(tensor):
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())
