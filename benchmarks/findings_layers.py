"""Layers and a task that findings.py tries out and the library does not have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statemix import BDLRU
from statemix.models import MIXERS, MixerConfig
from statemix.tasks import TASKS, Counting, Permutation, Task


class OtherStart(BDLRU):
    """An initial state that is drawn and never trained, or one that is learned from zero on."""

    def __init__(self, d_model: int, *, kind: str, **options: Any) -> None:
        super().__init__(d_model, **options)
        self.kind = kind
        if kind == "learned from zero" and self.initial_state is not None:
            nn.init.zeros_(self.initial_state)

    def forward(self, x: Tensor, state: Tensor | None = None, **options: Any) -> Any:
        if state is None and self.kind == "drawn, fixed":
            state = self.initial_state_for(len(x)).detach()
        return super().forward(x, state, **options)


class OtherGates(BDLRU):
    """Coefficients phi(z) / (sum phi(z) + epsilon) for another phi; it keeps the logits that it saw last.

    ``normalization`` is then "none", since nothing is left to do; without a phi it does what it says.
    """

    def __init__(
        self,
        d_model: int,
        *,
        phi: Callable[[Tensor], Tensor] | None = None,
        epsilon: float = 1e-3,
        bias: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(d_model, **options)
        self.phi, self.epsilon = phi, epsilon
        self.logits = torch.empty(0)
        with torch.no_grad():
            self.gate.bias.add_(bias)

    def _inputs(self, x: Tensor, extra: int) -> tuple[Tensor, Tensor]:
        values = self.value(x)
        return self._gate_logits(x, values.dtype), values.unflatten(2, self._value_shape)

    def _gate_logits(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        self.logits = super()._gate_logits(x, dtype)
        if self.phi is None:
            return self.logits
        found = self.phi(self.logits)
        return found / (found.sum(-2, keepdim=True) + self.epsilon)


class SideBySide(nn.Module):
    """BD-LRUs of several block sizes that read the same input; their outputs add.

    Args:
        blocks: block sizes, each with its number of blocks.
    """

    def __init__(self, d_model: int, *, blocks: tuple[tuple[int, int], ...], **options: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(BDLRU(d_model, num_blocks=n, block_size=m, **options) for m, n in blocks)

    def forward(self, x: Tensor, state: None = None) -> Tensor:
        return torch.stack([layer(x) for layer in self.layers]).sum(0)


def variant(name: str, layer: Callable[..., nn.Module], **fixed: Any) -> MixerConfig:
    """The config of a layer from above: one more line in the table of mixers."""

    def make(
        d_model: int,
        *,
        num_blocks: int,
        block_size: int,
        normalization: str = "softmax",
        initial_state: str = "zeros",
    ) -> nn.Module:
        sizes = {} if layer is SideBySide else {"num_blocks": num_blocks, "block_size": block_size}
        return layer(d_model, **sizes, normalization=normalization, initial_state=initial_state, **fixed)

    MIXERS[name] = replace(MIXERS["bdlru"], layer=make)
    return MixerConfig(name=name, block_size=3, num_blocks=16, initial_state="learned")


def identity_gradient(z: Tensor) -> Tensor:
    """ReLU that passes gradients as if it were open everywhere."""
    return z + (F.relu(z) - z).detach()


def leaky(z: Tensor) -> Tensor:
    """ReLU that is never quite shut."""
    return F.relu(z) + 0.01 * F.softplus(z)


def with_floor(z: Tensor) -> Tensor:
    """ReLU whose rows are never all zero, though what is shut has no gradient."""
    return F.relu(z) + 0.01


SINGLE_TASKS: dict[str, Task] = {
    "parity": Counting(modulus=2),
    "S3": Permutation(group="S3"),
    "count mod 5": Counting(modulus=5, symbols=5),
}


@dataclass(frozen=True, kw_only=True)
class OneOfThree(Task):
    """Each sequence is one of :data:`SINGLE_TASKS`, which have tokens and answers of their own."""

    @property
    def num_tokens(self) -> int:
        return sum(task.num_tokens for task in SINGLE_TASKS.values())

    @property
    def output_size(self) -> int:
        return sum(task.output_size for task in SINGLE_TASKS.values())

    def generate(self, batch: int, length: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        inputs, targets = np.zeros((2, batch, length), dtype=np.int64)
        first_token = first_answer = 0
        for i, task in enumerate(SINGLE_TASKS.values()):
            tokens, answers = task.generate(batch, length, random)
            some = slice(i, None, len(SINGLE_TASKS))
            inputs[some], targets[some] = tokens[some] + first_token, answers[some] + first_answer
            first_token, first_answer = first_token + task.num_tokens, first_answer + task.output_size
        return inputs, targets


TASKS["one-of-three"] = OneOfThree
