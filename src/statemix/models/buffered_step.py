"""One token through a model in buffers that are allocated once: the step of a CPU decoder.

A step of a small model is hundreds of small operations, each of which would ask for memory. Here every
one writes into its place, the states are moved on where they lie, and nothing is allocated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statemix.kernels.reference.normalization import normalize
from statemix.nn import BDLRU, HLRU
from statemix.nn.layer import RecurrentLayer

from .block import MLP
from .language_model import LanguageModel

Action = Callable[[], object]


def can_buffer(model: LanguageModel) -> bool:
    """Whether every part of a model is one of those below, in float32 on a CPU."""
    here = all(
        p.dtype == torch.float32 and p.device.type == "cpu" and type(p) in (Tensor, nn.Parameter)
        for p in model.parameters()
    )
    return here and model.reads_weights


class BufferedStep:
    """Move ``states`` on by one token: tokens (B,) -> ``logits`` (B, V), both where they lie.

    The weights are read where the model holds them, so an update of them counts; for tensors that take the
    place of others make a new one.

    Args:
        states: a tensor (B, M, N) for each layer, changed in place by every call.
    """

    def __init__(self, model: LanguageModel, states: tuple[Tensor, ...]) -> None:
        batch, width = states[0].shape[0], model.config.d_model
        embedding = model.embedding.weight.detach()
        # Of the dtype and device of the model, whatever PyTorch's defaults are by now.
        self.tokens = embedding.new_zeros(batch, dtype=torch.long)
        self.logits = embedding.new_empty(batch, model.head_weight.shape[0])
        x, normed = embedding.new_empty(batch, width), embedding.new_empty(batch, width)
        self._actions: list[Action] = [lambda: torch.index_select(embedding, 0, self.tokens, out=x)]
        for module, state in zip(model.blocks, states, strict=True):
            block = cast(Any, module)
            self._actions += _norm(block.mixer_norm, x, normed)
            self._actions += _mixer(block.mixer, normed, state, x)
            if block.mlp is not None:
                self._actions += _norm(block.mlp_norm, x, normed)
                self._actions += _mlp(block.mlp, normed, x)
        self._actions += _norm(model.norm, x, normed)
        self._actions.append(_product(model.head_weight.detach(), None, normed, self.logits))

    def __call__(self, tokens: Tensor) -> Tensor:
        self.tokens.copy_(tokens)
        for action in self._actions:
            action()
        return self.logits


def _norm(norm: nn.RMSNorm, x: Tensor, out: Tensor) -> list[Action]:
    """out = x / rms(x) * weight."""
    scale, weight = x.new_empty(x.shape[0], 1), norm.weight.detach()
    share, eps = 1 / x.shape[1], torch.finfo(x.dtype).eps if norm.eps is None else norm.eps
    shift = x.new_full((1, 1), eps)  # a number would become a tensor at every step
    return [
        lambda: torch.linalg.vector_norm(x, dim=1, keepdim=True, out=scale),
        lambda: torch.addcmul(shift, scale, scale, value=share, out=scale).rsqrt_(),
        lambda: torch.mul(x, scale, out=out).mul_(weight),
    ]


def _product(weight: Tensor, bias: Tensor | None, x: Tensor, out: Tensor) -> Action:
    """out = x W^T, and a bias; of a batch of one as a product of matrix and vector."""
    if x.shape[0] == 1:
        row, target = x[0], out[0]
        if bias is None:
            return lambda: torch.mv(weight, row, out=target)
        return lambda: torch.addmv(bias, weight, row, out=target)
    columns = weight.T
    if bias is None:
        return lambda: torch.mm(x, columns, out=out)
    return lambda: torch.addmm(bias, x, columns, out=out)


def _added_product(weight: Tensor, x: Tensor, out: Tensor) -> Action:
    """out += x W^T."""
    if x.shape[0] == 1:
        row, target = x[0], out[0]
        return lambda: target.addmv_(weight, row)
    columns = weight.T
    return lambda: out.addmm_(x, columns)


def _mixer(layer: RecurrentLayer, x: Tensor, state: Tensor, out: Tensor) -> list[Action]:
    """out += layer(x), and the state one step on."""
    batch, size = state.shape[0], state.shape[1]
    actions: list[Action] = []
    value_weight = layer.value.weight.detach()
    values = x.new_empty(batch, value_weight.shape[0])
    actions.append(_product(value_weight, None, x, values))
    if layer.selective:
        logits = x.new_empty(batch, layer.gate.weight.shape[0])
        actions.append(_product(layer.gate.weight.detach(), layer.gate.bias.detach(), x, logits))
        shaped = logits.view(batch, *_gate_shape(layer))
    else:
        shaped = layer.gate_logits.detach()[None]
    coefficients = torch.empty_like(shaped)
    actions.append(_normalization(layer.normalization, shaped, coefficients))
    if isinstance(layer, BDLRU):
        actions += _bdlru(coefficients, values.view(batch, size, -1), state)
        read = state.view(batch, -1)
    else:
        newest = x.new_empty(batch, state.shape[2])
        actions += _hlru(coefficients, values, state, newest)
        latest = cast(HLRU, layer).readout == "latest"
        read = newest if latest else state.view(batch, -1)
    actions.append(_added_product(layer.output.weight.detach(), read, out))
    return actions


def _gate_shape(layer: RecurrentLayer) -> tuple[int, ...]:
    if isinstance(layer, BDLRU):
        return layer.block_size, layer.block_size + 1, layer.num_blocks
    hlru = cast(HLRU, layer)
    return hlru.order + 1, hlru.num_channels


def _normalization(name: str, logits: Tensor, out: Tensor) -> Action:
    axis = logits.dim() - 2
    if name == "softmax":
        return lambda: torch.softmax(logits, axis, out=out)
    # The others are rare: they allocate what they compute.
    return lambda: out.copy_(normalize(logits, axis, name))


def _bdlru(coefficients: Tensor, values: Tensor, state: Tensor) -> list[Action]:
    """h[i] = sum_j a[i, j] h[j] + b[i] v[i]."""
    size = state.shape[1]
    before, gates, enters = state[:, None], coefficients[:, :, :size], coefficients[:, :, size]
    mixed = state.new_empty(state.shape[0], size, *state.shape[1:])
    return [
        lambda: torch.mul(gates, before, out=mixed),
        lambda: torch.sum(mixed, 2, out=state),
        lambda: state.addcmul_(enters, values),
    ]


def _hlru(coefficients: Tensor, values: Tensor, state: Tensor, newest: Tensor) -> list[Action]:
    """The newest state, and the window one place on."""
    order = state.shape[1]
    lags, enters = coefficients[:, :order], coefficients[:, order]
    mixed = torch.empty_like(state)
    actions: list[Action] = [
        lambda: torch.mul(lags, state, out=mixed),
        lambda: torch.sum(mixed, 1, out=newest),
        lambda: newest.addcmul_(enters, values),
    ]
    rows = state.unbind(1)
    for row in range(order - 1, 0, -1):
        actions.append(lambda to=rows[row], of=rows[row - 1]: to.copy_(of))
    actions.append(lambda: rows[0].copy_(newest))
    return actions


def _mlp(mlp: MLP, x: Tensor, out: Tensor) -> list[Action]:
    """out += mlp(x)."""
    up, down = mlp.up.weight.detach(), mlp.down.weight.detach()
    hidden = x.new_empty(x.shape[0], up.shape[0])
    actions: list[Action] = [_product(up, None, x, hidden)]
    if not mlp.gated:
        gelu = torch.ops.aten.gelu.out
        return [*actions, lambda: gelu(hidden, out=hidden), _added_product(down, hidden, out)]
    gate, value = hidden.chunk(2, -1)
    return [*actions, lambda: F.silu(gate, inplace=True).mul_(value), _added_product(down, gate, out)]
