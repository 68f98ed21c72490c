"""A run between two steps: what a checkpoint holds, and the one way to go on."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from statemix.models.loss import CrossEntropy, next_token_loss

from .batches import DeviceBatch
from .checkpoint import CheckpointError, load_checkpoint, newest_checkpoint
from .config import RunConfig
from .folder import CHECKPOINTS
from .gate_noise import GateNoise
from .metrics import Row
from .record import Pace
from .schedule import rate_at
from .workers import Workers


class Loss(nn.Module):
    """Model and cross entropy as one module, so that both are compiled and shared as one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, targets: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, ...]:
        return tuple(next_token_loss(self.model, inputs, targets, cu_seqlens=cu_seqlens))


@dataclass
class Run:
    """Weights, moments and sums between two updates."""

    config: RunConfig
    model: nn.Module
    optimizer: torch.optim.Optimizer
    device: torch.device
    workers: Workers = field(default_factory=Workers)
    step: int = 0
    pace: Pace = field(default_factory=Pace)

    def __post_init__(self) -> None:
        # Loss, right answers, answers asked for, gradient norm: summed since the last row, on the device,
        # so that a GPU is not waited for at every step.
        self.sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        self.length, self.rate = 0, 0.0  # of the last step
        self._autocast = wants_bfloat16(self.config, self.device)
        loss: nn.Module = Loss(self.model)
        if self.config.compile:
            # Inside of what workers share: it meets whole graphs there.
            loss.compile()
        self._loss = self.workers.wrapped(loss, self.device)
        self.gate_noise = GateNoise(self.model, self.config, self.device)

    def update(self, batches: Sequence[DeviceBatch]) -> None:
        """One step of AdamW on the batches of one step."""
        with self.pace.counted():
            self._update(batches)

    def _update(self, batches: Sequence[DeviceBatch]) -> None:
        config = self.config.optimizer
        rate = config.learning_rate * rate_at(self.step, self.config.steps, self.config.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.gate_noise.at(self.step)
        self._part_random_numbers()
        asked = int(self.workers.sum(torch.tensor(sum(batch.asked for batch in batches))))
        self.optimizer.zero_grad()
        for number, batch in enumerate(batches):
            with self.workers.together(), self._sharing(last=number == len(batches) - 1):
                with self.precision():
                    found = CrossEntropy(*self._loss(batch.inputs, batch.targets, batch.cu_seqlens))
                # Workers average their gradients: the mean over all that was asked is wanted.
                (found.total * (self.workers.size / max(asked, 1))).backward()
            with torch.no_grad():
                none = torch.zeros_like(found.total)
                terms = (found.total / max(asked, 1), found.right, found.asked, none)
                self.sums += torch.stack([term.double() for term in terms])
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.optimizer.step()
        self.step += 1
        self.sums[3] += norm.detach() / self.workers.size
        self.pace.add(sum(batch.inputs.numel() for batch in batches) * self.workers.size)
        self.length = batches[0].length
        self.rate = rate

    def take_row(self) -> Row:
        """The means since the last row, which start anew."""
        with self.pace.counted():
            sums = self.workers.sum(self.sums).tolist()
        self.sums.zero_()
        return self.pace.take_rows(self.step, [sums], learning_rates=[self.rate], length=self.length)[0]

    def is_finite(self) -> bool:
        """Whether no step since the last row had a loss or a gradient that is no number."""
        return not self.workers.largest(not bool(self.sums.isfinite().all()))

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """The number format of the projections."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast)

    def progress(self) -> dict[str, Any]:
        """What a checkpoint holds beside weights, moments and random numbers; all workers ask for it."""
        return {"sums": self.workers.sum(self.sums).tolist(), **asdict(self.pace)}

    def restore(self, folder: Path) -> None:
        """Go back to the newest good checkpoint of a run folder, or stay at the beginning."""
        checkpoint = newest_checkpoint(folder / CHECKPOINTS)
        if checkpoint is None:
            return
        self.step, progress = load_checkpoint(checkpoint, self.model, self.optimizer)
        if not progress:
            raise CheckpointError(
                f"checkpoint {checkpoint}: it holds weights alone, as statemix convert writes them, and not "
                f"how far training had come: the model can be used, but its run cannot be resumed"
            )
        if self.workers.first:
            self.sums = torch.tensor(progress["sums"], dtype=torch.float64, device=self.device)
        self.pace = Pace.of(progress)

    def _part_random_numbers(self) -> None:
        """Workers draw numbers of their own, which follow from the step in a resumed run too."""
        if not self.workers.first:
            key = [self.config.seed, self.workers.rank, self.step]
            torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))

    def _sharing(self, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients travel between workers after the last batch of a step only."""
        if last or not isinstance(self._loss, nn.parallel.DistributedDataParallel):
            return contextlib.nullcontext()
        return self._loss.no_sync()


def wants_bfloat16(config: RunConfig, device: torch.device) -> bool:
    """Whether projections run in bfloat16: as the config says; "auto" on a GPU that has it."""
    if config.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return config.precision == "bfloat16"
