"""What BD-LRU and H-LRU share as layers: states, pieces, padded and packed batches, steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statemix.kernels.precision import state_dtype, wide
from statemix.kernels.reference.normalization import NORMALIZATIONS, normalize
from statemix.ops.checks import (
    DTYPES,
    check_boundaries,
    check_choice,
    check_device,
    check_size,
    check_state,
)
from statemix.ops.dispatch import BACKENDS
from statemix.shapes import Boundaries, Mask, Sequence, Spectrum, State, Token

from .alignment import grown, padded, padded_columns
from .block_dropout import drop_blocks
from .checks import check_input, check_mask, check_noise
from .eigenvalues import eigenvalues
from .fused_step import fused_step
from .initialization import check_initialization, draw_weight, start_gates
from .padding import RealSteps
from .plain import is_plain
from .projection import two_products
from .recomputation import recomputed


class RecurrentLayer(nn.Module):
    """A linear recurrence between two projections and a readout.

    Subclasses say how large their gates are, name their operator, and lay out what is read.

    Examples:
        >>> from statemix.nn import BDLRU, HLRU
        >>> layers = BDLRU(8, num_blocks=4, block_size=2), HLRU(8, num_channels=4, order=2)
        >>> [isinstance(layer, RecurrentLayer) for layer in layers], [layer.family for layer in layers]
        ([True, True], ['bdlru', 'hlru'])
    """

    # Bump when the meaning of a parameter changes; a checkpoint carries it.
    _version = 1
    # Parameters that weight decay would only pull towards an arbitrary point.
    no_weight_decay = ("gate.bias", "gate_logits", "initial_state")
    # "bdlru" or "hlru", and the scan of it.
    family: str
    _operator: Callable[..., tuple[Tensor, Tensor]]

    def __init__(
        self,
        d_model: int,
        *,
        rows: int,
        columns: int,
        gate_shape: tuple[int, ...],
        value_shape: tuple[int, ...],
        read_shape: tuple[int, ...],
        normalization: str,
        selective: bool,
        initial_state: str,
        gate_init: str,
        weight_init: str,
        gate_noise: float,
        block_dropout: float,
        recompute_gates: bool,
        backend: str,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        for what, value, choices in (
            ("normalization", normalization, NORMALIZATIONS),
            ("backend", backend, BACKENDS),
            ("selective", selective, (True, False)),
            ("recompute_gates", recompute_gates, (True, False)),
        ):
            check_choice(name, what, value, choices)
        d_model = check_size(name, "d_model", d_model)
        if dtype is not None and dtype not in DTYPES:
            raise TypeError(f"{name}: dtype must be one of {DTYPES}; got {dtype}")
        check_initialization(
            name,
            normalization=normalization,
            initial_state=initial_state,
            gate_init=gate_init,
            weight_init=weight_init,
        )
        check_noise(name, gate_noise=gate_noise, block_dropout=block_dropout)
        if device is not None:
            device = check_device(name, device)
        if gate_noise and recompute_gates:
            raise ValueError(
                f"{name}: gate_noise and recompute_gates cannot be had together: noise would have to be "
                f"drawn again; leave one of them out"
            )
        self.d_model = d_model
        self.normalization = normalization
        self.selective = selective
        self.gate_init = gate_init
        self.weight_init = weight_init
        self.gate_noise = gate_noise
        # The part of the noise that is drawn now, which a trainer may let rise: a number, or a tensor of one.
        self.gate_noise_share: Tensor | float = 1.0
        self.block_dropout = block_dropout
        self.recompute_gates = recompute_gates
        self.backend = backend
        self._rows, self._columns = rows, columns
        self._gate_shape, self._value_shape, self._read_shape = gate_shape, value_shape, read_shape
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        if selective:
            self.gate = nn.Linear(d_model, prod(gate_shape), **factory)
        else:
            self.gate_logits = nn.Parameter(torch.empty(gate_shape, **factory))
        self.value = nn.Linear(d_model, prod(value_shape), bias=False, **factory)
        self.output = nn.Linear(prod(read_shape), d_model, bias=False, **factory)
        if initial_state == "learned":
            self.initial_state = nn.Parameter(torch.empty(rows, columns, **factory))
        else:
            self.register_parameter("initial_state", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new parameters: weights N(0, 0.02) and zero gate biases, as in the paper.

        Constant gates are drawn as a weight is.

        ``weight_init="fan-in"`` draws weights from N(0, 1/sqrt(inputs)) instead: what goes through a layer
        keeps its size. ``gate_init="identity"`` adds 3 to the logit by which a state keeps itself,
        ``"closed"`` takes 6 from the logit by which values enter. A learned initial state is drawn from
        N(0, 1): the rows of a block must differ for mixing to be seen at all.
        """
        gates = (self.gate.weight,) if self.selective else ()
        for weight in (self.value.weight, self.output.weight, *gates):
            draw_weight(weight, self.weight_init)
        bias = self.gate.bias if self.selective else self.gate_logits
        if self.selective:
            nn.init.zeros_(bias)
        else:
            # No weight makes these differ: at zero all are alike, and with relu there is no gradient at all.
            draw_weight(bias, "paper")
        start_gates(bias.view(self._gate_shape), self.gate_init, self._keeping_logits, self._entering_logits)
        if self.initial_state is not None:
            nn.init.normal_(self.initial_state)

    @overload
    def forward(
        self,
        x: Tensor,
        state: Tensor | None = ...,
        *,
        return_state: Literal[False] = ...,
        cu_seqlens: Tensor | None = ...,
        mask: Tensor | None = ...,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        x: Tensor,
        state: Tensor | None = ...,
        *,
        return_state: Literal[True],
        cu_seqlens: Tensor | None = ...,
        mask: Tensor | None = ...,
    ) -> tuple[Tensor, Tensor]: ...

    def forward(
        self,
        x: Sequence,
        state: State | None = None,
        *,
        return_state: bool = False,
        cu_seqlens: Boundaries | None = None,
        mask: Mask | None = None,
    ) -> Sequence | tuple[Sequence, State]:
        """Run a batch of sequences, or continue one from a state.

        Args:
            x: (B, T, D).
            state: (B, M, N) float32, what an earlier call returned; it wins over a learned state.
                (num_sequences, M, N) with ``cu_seqlens``.
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
            y, final = self._forward_masked(x, state, mask)
        else:
            if cu_seqlens is not None:
                check_boundaries(type(self).__name__, cu_seqlens, x)
            y, final = self._forward(x, state, cu_seqlens)
        return (y, final) if return_state else y

    def step(self, x: Token, state: State | None = None) -> tuple[Token, State]:
        """Run one token at constant memory: (B, D) -> (B, D), and the next state (B, M, N).

        ``state=None`` starts as ``forward`` does. Nothing is changed in place. On a GPU under ``no_grad``
        gates and recurrence are one kernel, which for a small batch makes the projections too.
        """
        self._check_input(x, 2, "(B, D)")
        if torch.compiler.is_compiling():
            return self._plain_step(x, state)
        found = fused_step(self, x, state)
        if found is not None:
            return found
        y, state = self._forward(x[:, None], state, None)
        return y[:, 0], state

    def _plain_step(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """One token in plain operations, which a compiler fuses where an operator would stand alone."""
        if state is None:
            state = self._start(x.shape[0])
        else:
            self._check_state(state, x.shape[0], x)
        values = self.value(x).unflatten(1, self._value_shape)
        gate_logits = self._noised(self._gate_logits(x[:, None], values.dtype)[:, 0])
        coefficients = normalize(gate_logits, gate_logits.dim() - 2, self.normalization)
        state, read = self._advance(coefficients, values.to(coefficients.dtype), state)
        if self.block_dropout and self.training:
            read, _, _ = drop_blocks(self.block_dropout, read[:, None], None, state, None)
        return self.output(read.to(values.dtype).flatten(1)), state

    @abstractmethod
    def _advance(self, coefficients: Tensor, values: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The next state (B, M, N) and what is read of it, from coefficients (#B, *gate_shape)."""

    def initial_state_for(self, batch: int) -> State:
        """The state before the first step of each of ``batch`` sequences, (batch, M, N)."""
        name = f"{type(self).__name__}.initial_state_for"
        return self._start(check_size(name, "batch", batch, at_least=0))

    def _start(self, batch: int) -> Tensor:
        """The same for a batch that was seen, whose size may be a symbol."""
        learned = self._initial_states(batch)
        if learned is not None:
            return learned
        weight = self.value.weight
        dtype = state_dtype(weight.dtype)
        return torch.zeros(batch, self._rows, self._columns, dtype=dtype, device=weight.device)

    def transition_spectrum(self, x: Sequence) -> Spectrum:
        """Eigenvalues of the transition that each block makes at each step, complex (B, T, N, M).

        (1, 1, N, M) for a layer that is not selective. NaN where a transition is not finite.
        """
        return eigenvalues(self.transition(x))

    @abstractmethod
    def transition(self, x: Sequence) -> Tensor:
        """The transition matrix of each block at each step, (B, T, N, M, M); acts on the left."""

    @property
    def is_random(self) -> bool:
        """Whether a call draws random numbers, as training may."""
        return self.training and (self.gate_noise > 0 or self.block_dropout > 0)

    @property
    def reads_weights(self) -> bool:
        """Whether every projection is nothing but its weight; else they are called, one by one."""
        gates = (self.gate,) if self.selective else ()
        return all(map(is_plain, (*gates, self.value, self.output)))

    def _read(
        self, hidden: Tensor, initial: Tensor | None, final: Tensor, cu_seqlens: Tensor | None
    ) -> Tensor:
        """What the output projection reads at every step, (B, T, ...) in one row."""
        return hidden.flatten(2)

    def _readout(
        self, hidden: Tensor, initial: Tensor | None, final: Tensor, extra: int, cu_seqlens: Tensor | None
    ) -> Tensor:
        """What the output projection, grown by ``extra`` blocks, makes of the states: (B, T, D)."""
        read = self._read(hidden, initial, final, cu_seqlens)
        return F.linear(read, self._output_weight(extra)) if extra else self.output(read)

    def _output_weight(self, extra: int) -> Tensor:
        weight = self.output.weight
        return padded(weight.T, self._read_shape, extra).T if extra else weight

    @abstractmethod
    def _keeping_logits(self, logits: Tensor) -> Tensor:
        """A view of the gate logits by which a state keeps itself."""

    @abstractmethod
    def _entering_logits(self, logits: Tensor) -> Tensor:
        """A view of the gate logits by which values enter."""

    def _forward(self, x: Tensor, state: Tensor | None, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor]:
        states = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
        if state is None:
            state = self._initial_states(states)
        else:
            self._check_state(state, states, x, cu_seqlens is not None)
        extra = self._extra_columns(x)
        if extra and state is not None:
            state = F.pad(state, (0, extra))
        gate_logits, values = self._inputs(x, extra)
        gate_logits = self._noised(gate_logits)
        with self._recomputing(x, gate_logits, extra):
            hidden, final = self._operator(
                gate_logits,
                values,
                state,
                normalization=self.normalization,
                cu_seqlens=cu_seqlens,
                backend=self.backend,
            )
        read = (hidden, state, final)
        if self.block_dropout and self.training:
            read = drop_blocks(self.block_dropout, *read, cu_seqlens)
        y = self._readout(*read, extra, cu_seqlens)
        return y, final[..., : self._columns] if extra else final

    def _forward_masked(self, x: Tensor, state: Tensor | None, mask: Tensor) -> tuple[Tensor, Tensor]:
        if state is not None:
            self._check_state(state, x.shape[0], x)
        real = RealSteps.of(mask)
        y, final = self._forward(real.take(x), real.states(state), real.cu_seqlens)
        return real.put(y), final[: x.shape[0]]

    def _inputs(self, x: Tensor, extra: int) -> tuple[Tensor, Tensor]:
        """What the operator takes, grown by ``extra`` blocks: gate logits and values."""
        gates, values = grown(self._gate_shape, extra), grown(self._value_shape, extra)
        if self.selective and is_plain(self.gate) and is_plain(self.value):
            logits, entering = two_products(
                x,
                padded(self.gate.weight, self._gate_shape, extra),
                padded(self.gate.bias, self._gate_shape, extra),
                padded(self.value.weight, self._value_shape, extra),
                # Logits that are to be computed again would stay with the values.
                joined=x.is_cuda and not self.recompute_gates,
            )
            return logits.unflatten(2, gates), entering.unflatten(2, values)
        if extra:  # the gates are constants, and the projection is its weight
            entering = F.linear(x, padded(self.value.weight, self._value_shape, extra))
        else:
            entering = self.value(x)
        logits = self._gate_logits(x, entering.dtype)
        return F.pad(logits, (0, extra)) if extra else logits, entering.unflatten(2, values)

    def _gate_logits(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Logits of the gates, (#B, #T, *gate_shape): one product with its bias, or a constant."""
        if not self.selective:
            return self.gate_logits.to(dtype)[None, None]
        return self.gate(x).unflatten(2, self._gate_shape)

    def _noised(self, gate_logits: Tensor) -> Tensor:
        """The logits with what training adds to them."""
        if not (self.gate_noise and self.training):
            return gate_logits
        noise = torch.randn_like(gate_logits) * self.gate_noise
        return gate_logits + noise * self.gate_noise_share

    def _recomputing(self, x: Tensor, gate_logits: Tensor, extra: int) -> AbstractContextManager[Any]:
        """What the backward pass keeps of the gates while the operator runs: logits, or their input."""
        if not (self.recompute_gates and self.selective and is_plain(self.gate)):
            return nullcontext()
        dtype, shape = gate_logits.dtype, self._gate_shape
        # The parameters of this call: functional_call has put the module's own back before backward runs.
        parameters = self.gate.weight, self.gate.bias

        def compute() -> Tensor:
            weight, bias = (padded(p, shape, extra).to(dtype) for p in parameters)
            return F.linear(x.to(dtype), weight, bias).unflatten(2, grown(shape, extra))

        return recomputed(gate_logits, compute)

    def _initial_states(self, states: int) -> Tensor | None:
        """The learned state for each sequence; None where it is zero."""
        if self.initial_state is None:
            return None
        return wide(self.initial_state).expand(states, -1, -1)

    def _extra_columns(self, x: Tensor) -> int:
        """Blocks of zeros that bring products and kernels on a GPU to their fast paths."""
        # Padding copies the weights: a single step, which only reads them, would cost three times as much.
        if not x.is_cuda or x.shape[1] == 1 or not self.reads_weights:
            return 0
        half = torch.is_autocast_enabled("cuda") or x.element_size() == 2
        return padded_columns(self._columns, 64 if half else 32) - self._columns

    def _check_input(self, x: Tensor, dims: int, shape: str) -> None:
        # What is more than its weight knows by itself what it takes: the weight may be packed, or elsewhere.
        weight = self.value.weight if is_plain(self.value) else None
        check_input(type(self).__name__, x, dims, shape, self.d_model, weight)

    def _check_state(self, state: Tensor, states: int, x: Tensor, packed: bool = False) -> None:
        shape = (states, self._rows, self._columns)
        check_state(type(self).__name__, state, shape, x, packed, name="state")
