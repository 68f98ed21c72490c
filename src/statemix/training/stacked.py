"""Many small models as one: weights side by side in a matrix, one batched forward, one AdamW over all.

A row of the matrix is a replica. Nothing in a step looks across rows, so replicas with other seeds, learning
rates or decays do not feel each other, and one whose loss is no number is frozen while the rest go on.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from statemix.tasks import IGNORED

from .config import RunConfig
from .gate_noise import GateNoise
from .optimizer import decays
from .schedule import rate_at

# Parameters begin at multiples of so many numbers: whole rows of 128 bytes on a GPU.
_ALIGNMENT = 32


class StackedModels(nn.Module):
    """K models of one architecture that are run and updated together.

    Args:
        models: as they start; their weights are copied.
        configs: one for each model, alike in all that decides shapes and steps.
        bfloat16: run projections in bfloat16; weights, moments and states stay float32.

    Everything that a step changes is a tensor of this module: its state dict is a checkpoint.

        weights, exp_avg, exp_avg_sq   (K, P)   parameters and AdamW's moments, a replica a row
        step                           ()       updates made
        alive                          (K,)     False from the step on whose loss or gradient was no number
        last_step                      (K,)     updates that each replica was given
        sums                           (K, 4)   loss, right answers, answers asked, gradient norm, summed
    """

    template: nn.Module
    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: Tensor
    alive: Tensor
    last_step: Tensor
    sums: Tensor

    def __init__(
        self, models: Sequence[nn.Module], configs: Sequence[RunConfig], *, bfloat16: bool = False
    ) -> None:
        super().__init__()
        self._bfloat16 = bfloat16
        object.__setattr__(self, "template", models[0])  # not a submodule: its own weights are not in use
        named = dict(models[0].named_parameters())
        device = next(iter(named.values())).device
        count = len(models)
        self._places: dict[str, tuple[int, torch.Size]] = {}
        size = 0
        for name, parameter in named.items():
            self._places[name] = (size, parameter.shape)
            size += -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT
        self.weights = nn.Parameter(torch.zeros(count, size, device=device), requires_grad=False)
        for row, model in zip(self.weights, models, strict=True):
            for name, parameter in model.named_parameters():
                start, shape = self._places[name]
                row[start : start + shape.numel()] = parameter.detach().flatten()
        self._leaves = {name: self._view(self.weights, name).detach().requires_grad_() for name in named}
        self._padding = {
            name: torch.zeros(count, -shape.numel() % _ALIGNMENT, device=device)
            for name, (_, shape) in self._places.items()
        }
        for name in ("exp_avg", "exp_avg_sq"):
            self.register_buffer(name, torch.zeros_like(self.weights))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64, device=device))
        self.register_buffer("alive", torch.ones(count, dtype=torch.bool, device=device))
        self.register_buffer("last_step", torch.zeros(count, dtype=torch.int64, device=device))
        self.register_buffer("sums", torch.zeros(count, 4, dtype=torch.float64, device=device))
        self._linear_biases = {
            f"{name}.bias".lstrip(".")
            for name, module in models[0].named_modules()
            if isinstance(module, nn.Linear) and module.bias is not None
        }
        self._settings(models[0], configs, device)
        self._gate_noise = GateNoise(models[0], configs[0], device)
        self.vectorized = self._can_be_vectorized()

    def __len__(self) -> int:
        return len(self.weights)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (K, B, T), each replica's own -> logits (K, B, T, V)."""
        with self.precision():
            if self.vectorized:
                return torch.vmap(self._one, randomness="different")(self._leaves, tokens)
            rows = [{name: leaf[i] for name, leaf in self._leaves.items()} for i in range(len(self))]
            return torch.stack([self._one(row, tokens[i]) for i, row in enumerate(rows)])

    def update(self, inputs: Tensor, targets: Tensor) -> None:
        """One step of every replica on its batch, (K, B, T) each; nothing here waits for the device."""
        self._gate_noise.at(self.step)
        logits = self(inputs).flatten(1, -2)
        wanted = targets.flatten(1).long()
        losses = F.cross_entropy(
            logits.flatten(0, 1).float(), wanted.flatten(), ignore_index=IGNORED, reduction="none"
        )
        asked = (wanted != IGNORED).sum(1)
        # A batch in which nothing is asked has nothing wrong: no division by zero, which would look diverged.
        loss = losses.view_as(wanted).sum(1) / asked.clamp(min=1)
        grads = torch.autograd.grad(loss.sum(), list(self._leaves.values()), allow_unused=True)
        with torch.no_grad():
            gradient = self._gathered(grads)
            norm = torch.linalg.vector_norm(gradient, dim=1)
            self.alive &= loss.isfinite() & norm.isfinite()
            self._adamw(gradient, norm)
            right = (logits.argmax(-1) == wanted).sum(1)
            row = torch.stack([x.double() for x in (loss, right, asked, norm)], 1)
            self.sums += torch.where(self.alive[:, None], row, 0.0)
            self.step += 1
            self.last_step += self.alive

    def precision(self) -> torch.autocast:
        """The number format of the projections."""
        # No cache of casts: it would hand one step's weights to the next where steps are captured.
        device = self.weights.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self._bfloat16, cache_enabled=False)

    def rates_at(self, step: int) -> list[float]:
        """Learning rates of the step, one a replica."""
        return self._rates[step].tolist()

    def take_sums(self) -> Tensor:
        """The sums since they were last taken, (K, 4) on the CPU; they start anew."""
        sums = self.sums.cpu().clone()
        self.sums.zero_()
        return sums

    def replica(self, index: int) -> dict[str, Tensor]:
        """The state dict of one model, sharing memory with the stack."""
        state = dict(self.template.state_dict())
        state.update({name: self._view(self.weights, name)[index].detach() for name in self._places})
        return state

    @torch.no_grad()
    def scale(self, index: int, names: Iterable[str], factor: float) -> None:
        """Multiply some parameters of one replica."""
        for name in names:
            self._view(self.weights, name)[index].mul_(factor)

    def _one(self, parameters: dict[str, Tensor], tokens: Tensor) -> Tensor:
        if self._bfloat16:
            # Autocast sees a mapped linear layer as a product and a sum, of which it casts the product only.
            parameters = {n: p.bfloat16() if n in self._linear_biases else p for n, p in parameters.items()}
        return functional_call(self.template, parameters, (tokens,))

    def _view(self, matrix: Tensor, name: str) -> Tensor:
        start, shape = self._places[name]
        return matrix[:, start : start + shape.numel()].unflatten(1, shape)

    def _gathered(self, grads: Sequence[Tensor | None]) -> Tensor:
        """Gradients in the places of their weights, (K, P)."""
        pieces = []
        for (name, leaf), grad in zip(self._leaves.items(), grads, strict=True):
            pieces += [(torch.zeros_like(leaf) if grad is None else grad).flatten(1), self._padding[name]]
        return torch.cat(pieces, 1)

    def _adamw(self, gradient: Tensor, norm: Tensor) -> None:
        """Decoupled decay, moments and update as torch.optim.AdamW has them, with settings (K, 1)."""
        alive = self.alive[:, None]
        clip = (self._clip_norm / (norm[:, None] + 1e-6)).clamp(max=1.0)
        # Selected, not multiplied: what is no number must not reach moments and weights.
        gradient = torch.where(alive, gradient * clip, 0.0)
        # index_select, since indexing with a tensor of no dimensions would bring it to the host.
        step = self.step.clamp(max=len(self._rates) - 1).view(1)
        rate = torch.where(alive, self._rates.index_select(0, step).T, 0.0)
        count = (self.step + 1).double()
        first, second = (1 - beta**count for beta in (self._beta1, self._beta2))
        self.weights.mul_(1 - rate * self._decay)
        self.exp_avg.lerp_(gradient, (1 - self._beta1).float())
        self.exp_avg_sq.mul_(self._beta2.float()).addcmul_(gradient * (1 - self._beta2).float(), gradient)
        deviation = self.exp_avg_sq.sqrt().div_(second.sqrt().float()).add_(self._eps)
        self.weights.sub_(self.exp_avg / deviation * (rate / first.float()))

    def _settings(self, model: nn.Module, configs: Sequence[RunConfig], device: torch.device) -> None:
        """What differs between replicas, and the learning rates of all steps, on the device."""

        def column(values: Sequence[float], dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)[:, None]

        optimizers = [config.optimizer for config in configs]
        rates = [
            [c.optimizer.learning_rate * rate_at(step, c.steps, c.schedule) for c in configs]
            for step in range(configs[0].steps)
        ]
        self._rates = torch.tensor(rates, dtype=torch.float32, device=device)
        self._clip_norm = column([o.clip_norm for o in optimizers])
        self._beta1 = column([o.betas[0] for o in optimizers], torch.float64)
        self._beta2 = column([o.betas[1] for o in optimizers], torch.float64)
        self._eps = column([o.eps for o in optimizers])
        decaying = torch.zeros_like(self.weights[0])
        for name, decay in decays(model).items():
            start, shape = self._places[name]
            decaying[start : start + shape.numel()] = float(decay)
        self._decay = column([o.weight_decay for o in optimizers]) * decaying

    def _can_be_vectorized(self) -> bool:
        """Whether the model can be mapped over replicas: every operation in it needs a batching rule."""
        tokens = torch.zeros(len(self), 1, 2, dtype=torch.int64, device=self.weights.device)
        try:
            with warnings.catch_warnings(), torch.no_grad(), self.precision():
                warnings.simplefilter("ignore")
                torch.vmap(self._one, randomness="different")(self._leaves, tokens)
        except (RuntimeError, TypeError) as error:
            reason = str(error).splitlines()[0]
            warnings.warn(
                f"train_replicas: this model cannot be mapped over its replicas, which are run one after the "
                f"other: {reason}",
                RuntimeWarning,
                stacklevel=4,
            )
            return False
        return True
