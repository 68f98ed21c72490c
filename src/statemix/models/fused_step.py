"""One token through a model in as few kernels as there can be: the step of a GPU decoder, to be captured.

A small batch takes four kernels a block, each of which reads its weights once: norm, projections, gates and
recurrence; readout and residual; norm, first matrix and SwiGLU; second matrix and residual. A larger batch
multiplies with general products and has one kernel between them for the recurrence.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statemix.nn.fused_step import advance, buffers, can_step, project
from statemix.nn.layer import RecurrentLayer

from .block import MLP, Block
from .language_model import LanguageModel

_EARLY_FROM = (9, 0)
"""Compute capability from which a kernel can start before the one in front has ended."""


def can_fuse(model: LanguageModel) -> bool:
    """Whether every part of a model is one of those below, on one GPU and in one dtype."""
    weight = model.embedding.weight
    blocks = cast(list[Block], list(model.blocks))
    if not weight.is_cuda or torch.is_autocast_enabled("cuda"):
        return False
    if not model.reads_weights:
        return False
    alike = all(
        p.dtype == weight.dtype and p.device == weight.device and p.is_contiguous()
        for p in model.parameters()
    )
    return alike and all(can_step(cast(RecurrentLayer, block.mixer), weight.dtype) for block in blocks)


class FusedStep:
    """Move ``states`` on by one token: tokens (B,) -> logits (B, V).

    Args:
        states: a tensor (B, M, N) for each layer, dense, changed in place by every call.
        early: start kernels before those in front have ended; None where the GPU can. Calls in a row are
            safe, and so are changes of weights and states between them.

    Attributes:
        streamed: whether the batch is small enough for kernels that read each weight once.
    """

    def __init__(
        self, model: LanguageModel, states: tuple[Tensor, ...], *, early: bool | None = None
    ) -> None:
        from statemix.kernels.triton.stream import streams

        self.model, self.states = model, states
        device, dtype = states[0].device, model.embedding.weight.dtype
        self.streamed = all(streams(s.shape[0], dtype, s.shape[1]) for s in states)
        if early is None:
            on_nvidia = device.type == "cuda" and torch.version.hip is None
            early = on_nvidia and torch.cuda.get_device_capability(device) >= _EARLY_FROM
        self._early = early

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        model = self.model
        # An ordinary launch: what comes before the step has ended when its kernels begin.
        x = F.embedding(tokens, model.embedding.weight)
        for module, state in zip(model.blocks, self.states, strict=True):
            block = cast(Any, module)
            mix, mlp = (
                (self._streamed_mixer, self._streamed_mlp) if self.streamed else (self._mixer, self._mlp)
            )
            mix(block.mixer, block.mixer_norm, state, x)
            if block.mlp is not None:
                mlp(block.mlp, block.mlp_norm, x)
        if not self.streamed:
            return F.linear(model.norm(x), model.head_weight)
        return self._product(x, model.head_weight, **_norm(model.norm))

    def _streamed_mixer(self, layer: RecurrentLayer, norm: nn.RMSNorm, state: Tensor, x: Tensor) -> None:
        new_state, read = buffers(layer, x.shape[0], x.dtype)
        if layer.selective:
            project(layer, x, state, new_state, read, early=self._early, **_norm(norm))
            carry = (new_state, state)
        else:
            values = self._product(x, layer.value.weight, **_norm(norm))
            advance(layer, x, values, state, state, read)
            carry = None
        self._product(read.flatten(1), layer.output.weight, x, carry=carry)

    def _streamed_mlp(self, mlp: MLP, norm: nn.RMSNorm, x: Tensor) -> None:
        activation = "swiglu" if mlp.gated else "gelu"
        hidden = self._product(x, mlp.up.weight, activation=activation, **_norm(norm))
        self._product(hidden, mlp.down.weight, x)

    def _product(self, x: Tensor, weight: Tensor, onto: Tensor | None = None, **options: Any) -> Tensor:
        """activation(norm(x) W^T), added to ``onto`` where it is given."""
        from statemix.kernels.triton import stream

        outputs = weight.shape[0] // (2 if options.get("activation") == "swiglu" else 1)
        out = x.new_empty(x.shape[0], outputs) if onto is None else onto
        stream.product(x, weight, out, add=onto is not None, early=self._early, **options)
        return out

    def _mixer(self, layer: RecurrentLayer, norm: nn.RMSNorm, state: Tensor, x: Tensor) -> None:
        normed = norm(x)
        _, read = buffers(layer, x.shape[0], x.dtype)
        advance(layer, normed, F.linear(normed, layer.value.weight), state, state, read)
        x.addmm_(read.flatten(1), layer.output.weight.T)

    def _mlp(self, mlp: MLP, norm: nn.RMSNorm, x: Tensor) -> None:
        from statemix.kernels.triton import swiglu

        hidden = F.linear(norm(x), mlp.up.weight)
        hidden = swiglu.forward(hidden) if mlp.gated else F.gelu(hidden)
        x.addmm_(hidden, mlp.down.weight.T)


def _norm(norm: nn.RMSNorm) -> dict[str, Any]:
    return {"norm_weight": norm.weight, "eps": norm.eps}
