"""What every baseline shares: states, pieces, steps, packed and padded batches around one method."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statemix.kernels.precision import state_dtype
from statemix.ops.checks import check_boundaries, check_choice, check_number, check_size
from statemix.shapes import Boundaries, Mask, Sequence, Token

from ..checks import check_input, check_mask
from ..initialization import INITIAL_STATES
from ..plain import is_plain
from ..transforms import has_values


class Baseline(nn.Module):
    """A sequence layer (B, T, D) -> (B, T, D) behind the interface of the statemix layers.

    Subclasses give the shapes of their state and :meth:`_mix`, which runs rows whose padded steps, if
    any, all stand at the end. Padded and packed batches are brought to that form here.

    A state is a tensor, or a tuple of tensors where there are several, float32 (float64 for float64
    layers), batch first: the recurrent ones, then windows of past inputs. ``initial_state="learned"``
    learns the recurrent ones.
    """

    # Parameters that weight decay would only pull towards an arbitrary point.
    no_weight_decay: tuple[str, ...] = ("initial_state.0", "initial_state.1")
    # Per sequence: what the recurrence holds, and what a convolution or a token shift must remember.
    recurrent_shapes: tuple[tuple[int, ...], ...] = ()
    window_shapes: tuple[tuple[int, ...], ...] = ()

    def __init__(self, d_model: int, *, initial_state: str = "zeros") -> None:
        super().__init__()
        d_model = check_size(type(self).__name__, "d_model", d_model)
        check_choice(type(self).__name__, "initial_state", initial_state, INITIAL_STATES)
        self.d_model = d_model
        self._learned = initial_state == "learned"

    def _complete(self) -> None:
        """End of every constructor, once shapes are known: the learned state, then first weights."""
        self.initial_state = None
        if self._learned:
            self.initial_state = nn.ParameterList(torch.empty(shape) for shape in self.recurrent_shapes)
        self._find_weight()
        self.reset_parameters()

    def _find_weight(self) -> None:
        """Keep which module has the first parameter, and what it is before anyone wraps it."""
        name = next(name for name, _ in self.named_parameters())
        *self._owner, self._first = name.split(".")
        self._owner_kind = type(self.get_submodule(".".join(self._owner)))

    def _weight(self) -> Tensor | None:
        """The first parameter, of the layer's dtype and where it computes; None where that says neither.

        A projection that is more than its weight knows by itself what it takes: the weight may be packed, or
        lie elsewhere.
        """
        module: Any = self
        for name in self._owner:
            module = getattr(module, name)
        plain = module is self or is_plain(module, self._owner_kind)
        return getattr(module, self._first) if plain else None

    def _like(self, x: Tensor) -> Tensor:
        """A tensor of the dtype and device that the layer computes in: a weight, else its input."""
        weight = self._weight()
        return x if weight is None else weight

    def reset_parameters(self) -> None:
        """Draw new parameters: linear weights N(0, 0.02), biases 0, a learned initial state N(0, 1)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif module is not self and hasattr(module, "reset_parameters"):
                cast(Any, module).reset_parameters()
        for state in self.initial_state or ():
            nn.init.normal_(state)

    @property
    def state_numbers(self) -> int:
        """Numbers that the recurrence keeps for one sequence; windows of past inputs are not counted."""
        return sum(math.prod(shape) for shape in self.recurrent_shapes)

    def forward(
        self,
        x: Sequence,
        state: Any = None,
        *,
        return_state: bool = False,
        cu_seqlens: Boundaries | None = None,
        mask: Mask | None = None,
    ) -> Any:
        """Run a batch of sequences, or continue one from a state.

        Args:
            x: (B, T, D).
            state: what an earlier call returned; one entry a packed sequence with ``cu_seqlens``.
            return_state: return (y, state) instead of y.
            cu_seqlens: (num_sequences + 1,) int32, the cumulative lengths of packed sequences (B = 1).
            mask: (B, T) bool, True where a step is real. Padded steps leave the state as it is, and
                their outputs are exactly 0.

        Raises:
            ValueError, TypeError: inputs that do not fit, or ``mask`` and ``cu_seqlens`` together.
        """
        self._check_input(x, 3, "(B, T, D)")
        if mask is not None:
            check_mask(type(self).__name__, x, mask, cu_seqlens)
            y, state = self._padded(x, state, mask)
        elif cu_seqlens is not None:
            check_boundaries(type(self).__name__, cu_seqlens, x)
            y, state = self._packed(x, state, cu_seqlens)
        else:
            y, state = self._run(x, state, None)
        return (y, state) if return_state else y

    def step(self, x: Token, state: Any = None) -> tuple[Token, Any]:
        """One token: x (B, D) -> y (B, D) and the next state. Nothing is changed in place."""
        self._check_input(x, 2, "(B, D)")
        y, state = self._run(x[:, None], state, None)
        return y[:, 0], state

    def initial_state_for(self, batch: int) -> Any:
        """The state before the first step of each of ``batch`` sequences."""
        batch = check_size(f"{type(self).__name__}.initial_state_for", "batch", batch, at_least=0)
        like = self._weight()
        if like is None:
            usable = (p for p in self.parameters() if p.is_floating_point() and not p.is_meta)
            like = next(usable, torch.empty(0))
        return _bare(self._start(batch, like))

    def _start(self, batch: int, like: Tensor) -> tuple[Tensor, ...]:
        """The state before the first step, of the device and, widened, the dtype of ``like``."""
        dtype = state_dtype(like.dtype)
        if self.initial_state is None:
            first = tuple(like.new_zeros(batch, *s, dtype=dtype) for s in self.recurrent_shapes)
        else:
            first = tuple(s.to(dtype).expand(batch, *s.shape) for s in self.initial_state)
        return first + tuple(like.new_zeros(batch, *s, dtype=dtype) for s in self.window_shapes)

    @abstractmethod
    def _mix(
        self, x: Tensor, state: tuple[Tensor, ...], real: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x (B, T, D), T >= 1 -> y (B, T, D) and the state after the last real step of each row.

        ``real`` (B, T), where given, is True and then False along each row, and x is 0 where it is False.
        """

    def _run(self, x: Tensor, state: Any, real: Tensor | None) -> tuple[Tensor, Any]:
        like = self._like(x)
        before = self._start(x.shape[0], like) if state is None else self._checked_state(state, x)
        if x.shape[1]:
            y, after = self._mix(x, before, real)
            return y, _bare(after)
        # Nothing to run, and the state stays; a step that is not real, anywhere, says what y would be.
        absent = torch.zeros(x.shape[0], 1, dtype=torch.bool, device=x.device)
        y, _ = self._mix(x.new_zeros(x.shape[0], 1, x.shape[2]), self._start(x.shape[0], like), absent)
        return y[:, :0], _bare(before)

    def _padded(self, x: Tensor, state: Any, mask: Tensor) -> tuple[Tensor, Any]:
        """Move each row's real steps to its front, run, and put them back where they were."""
        index = torch.argsort(~mask, dim=1, stable=True)[..., None].expand_as(x)
        real = torch.arange(x.shape[1], device=x.device) < mask.sum(1, keepdim=True)
        front = torch.where(real[..., None], x.gather(1, index), 0.0)
        y, state = self._run(front, state, real)
        y = torch.where(real[..., None], y, 0.0)
        return torch.zeros_like(y).scatter(1, index, y), state

    def _packed(self, x: Tensor, state: Any, cu_seqlens: Tensor) -> tuple[Tensor, Any]:
        """Lay the sequences of one row under each other, run, and lay them back in a row."""
        bounds = cu_seqlens.long()
        starts, lengths = bounds[:-1], bounds[1:] - bounds[:-1]
        if state is not None:
            state = _bare(self._checked_state(state, x.new_empty(len(lengths), 0, x.shape[2])))
        groups = _of_like_lengths(lengths)
        outputs, firsts, states, total = [], [], [], 0
        for group in groups:
            own = None if state is None else _select(state, group)
            y, after = self._side_by_side(x, own, starts[group], lengths[group])
            firsts.append(total + y.shape[1] * torch.arange(len(group), device=x.device))
            total += y.shape[0] * y.shape[1]
            outputs.append(y.flatten(0, 1))
            states.append(after)
        back = torch.argsort(torch.cat(groups))
        # Among the outputs of all rows, where those of each sequence begin.
        first = torch.cat(firsts)[back]
        step = torch.arange(x.shape[1], device=x.device)
        sequence = torch.searchsorted(bounds[1:], step, right=True)
        place = first[sequence] + step - starts[sequence]
        return torch.cat(outputs).index_select(0, place)[None], _select(_joined(states), back)

    def _side_by_side(self, x: Tensor, state: Any, starts: Tensor, lengths: Tensor) -> tuple[Tensor, Any]:
        """Run sequences of a row as rows of their own: (S, longest, D), and their states."""
        step = torch.arange(_longest(lengths, x.shape[1]), device=x.device)
        inside = step < lengths[:, None]
        rows = x[0, (starts[:, None] + step).clamp(max=max(x.shape[1] - 1, 0))]
        return self._run(torch.where(inside[..., None], rows, 0.0), state, inside)

    def _check_input(self, x: Tensor, dims: int, shape: str) -> None:
        check_input(type(self).__name__, x, dims, shape, self.d_model, self._weight())

    def _checked_state(self, state: Any, x: Tensor) -> tuple[Tensor, ...]:
        """The tensors of a state that a caller gave, where they are what a layer returns."""
        shapes = [(x.shape[0], *shape) for shape in (*self.recurrent_shapes, *self.window_shapes)]
        tensors = self._tensors_of(state, len(shapes))
        dtype = state_dtype(self._like(x).dtype)
        for tensor, shape in zip(tensors, shapes, strict=True):
            self._check_state(tensor, shape, x, dtype)
        return tensors

    def _tensors_of(self, state: Any, count: int) -> tuple[Tensor, ...]:
        tensors = (state,) if isinstance(state, Tensor) else state
        if not isinstance(tensors, tuple | list) or not all(isinstance(t, Tensor) for t in tensors):
            raise TypeError(
                f"{type(self).__name__}: state must be what an earlier call returned, {count} tensors; got "
                f"{type(state).__name__}: take the state of return_state=True or of step, or leave it out"
            )
        if len(tensors) != count:
            raise ValueError(
                f"{type(self).__name__}: state must be {count} tensors, as an earlier call returned them; "
                f"got {len(tensors)}: give all of them as one tuple"
            )
        return tuple(tensors)

    def _check_state(self, tensor: Tensor, shape: tuple[int, ...], x: Tensor, dtype: torch.dtype) -> None:
        name = type(self).__name__
        # A batch of one would be stretched: every sequence would go on from the same state.
        if tensor.dim() != len(shape) or any(a != b for a, b in zip(tensor.shape, shape, strict=True)):
            raise ValueError(
                f"{name}: state must be {shape}, one entry a sequence; got {tuple(tensor.shape)}: give it as "
                f"a call returns it for as many sequences"
            )
        if tensor.dtype != dtype:
            raise TypeError(
                f"{name}: state must be {dtype}; got {tensor.dtype}: go on from it as a call returned it, or "
                f"cast with .to({dtype})"
            )
        if tensor.device != x.device:
            raise ValueError(
                f"{name}: state must be on {x.device} as x is; got {tensor.device}: move it with .to()"
            )


def _of_like_lengths(lengths: Tensor) -> list[Tensor]:
    """Sequences in groups: beyond the short ones, padding to the longest of a group at most doubles it."""
    if torch.compiler.is_compiling() or not has_values(lengths) or not len(lengths):
        return [torch.arange(len(lengths), device=lengths.device)]
    sizes = lengths.tolist()
    octaves = [max(_SHORT, size - 1).bit_length() for size in sizes]
    if len(sizes) * max(sizes) <= 2 * sum(sizes):
        octaves = [0] * len(sizes)
    return [
        torch.tensor([i for i, own in enumerate(octaves) if own == octave], device=lengths.device)
        for octave in sorted(set(octaves))
    ]


def _longest(lengths: Tensor, time: int) -> int:
    """The longest sequence; all of the time, which none exceeds, where lengths are shapes alone."""
    if not len(lengths):
        return 0
    return int(lengths.max()) if has_values(lengths) else time


# Sequences up to this length are of one group: padding them costs less than a run of their own.
_SHORT = 31


def _select(state: Any, index: Tensor) -> Any:
    """The states of some of the sequences."""
    return _bare(tuple(tensor.index_select(0, index) for tensor in _tuple(state)))


def _joined(states: Iterable[Any]) -> Any:
    """States of groups as one; caches of unlike lengths are filled up with places that are not real."""
    tensors = []
    for parts in zip(*map(_tuple, states), strict=True):
        size = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
        rows = []
        for part in parts:
            missing = [want - have for want, have in zip(size, part.shape[1:], strict=True)]
            rows.append(
                F.pad(part, [side for m in reversed(missing) for side in (0, m)]) if any(missing) else part
            )
        tensors.append(torch.cat(rows))
    return _bare(tuple(tensors))


def _tuple(state: Any) -> tuple[Tensor, ...]:
    return (state,) if isinstance(state, Tensor) else tuple(state)


def _bare(state: tuple[Tensor, ...]) -> Any:
    return state[0] if len(state) == 1 else state


def check_sizes(layer: str, **sizes: int) -> None:
    """Refuse sizes that are no integers, or below one."""
    for what, size in sizes.items():
        check_size(layer, what, size)


def check_switches(layer: str, **switches: bool) -> None:
    """Refuse what is neither True nor False: any word would count as True, "no" among them."""
    for what, switch in switches.items():
        check_choice(layer, what, switch, (True, False))


def inner_width(layer: str, d_model: int, expand: float) -> int:
    """``expand`` times the width, in whole channels; ValueError where that leaves none."""
    wanted = f"a number that leaves at least one channel of expand * d_model, with d_model = {d_model}"
    check_number(layer, "expand", expand, wanted, lambda ratio: 0.5 < ratio * d_model < math.inf)
    return round(expand * d_model)
