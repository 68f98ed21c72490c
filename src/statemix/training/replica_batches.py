"""Batches of many replicas, made ahead of time where a GPU would wait for them."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .config import RunConfig
from .data import Source, open_source

# Tokens that one message from a loader's process holds, so that its cost is shared by many small batches.
_TOKENS_IN_CHUNK = 2**20
_MOST_STEPS_IN_CHUNK = 64


def stacked_batches(
    configs: Sequence[RunConfig], first_step: int, device: torch.device, *, workers: int | None = None
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Inputs and targets (K, B, T) of every step from ``first_step`` on, on the device.

    Args:
        configs: one for each replica; each draws from its own seed.
        workers: processes that make them. Default: none on a CPU, where they would take its cores from
            training, else half of the cores, at most eight.
    """
    if workers is None:
        workers = 0 if device.type == "cpu" else min(8, (os.cpu_count() or 2) // 2)
    chunks = _Chunks(configs)
    loader = DataLoader(
        chunks,
        batch_size=None,
        sampler=range(first_step // chunks.steps, -(-configs[0].steps // chunks.steps)),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # not the one that a checkpoint puts back
    )
    copying = torch.cuda.Stream(device) if device.type == "cuda" else None
    step = first_step - first_step % chunks.steps
    for shapes, tokens in loader:
        if copying is not None:
            with torch.cuda.stream(copying):
                tokens = tokens.pin_memory().to(device, non_blocking=True)
            torch.cuda.current_stream(device).wait_stream(copying)
            tokens.record_stream(torch.cuda.current_stream(device))
        start = 0
        for shape in shapes:
            size = shape[0] * shape[1] * shape[2]
            inputs, targets = tokens[start : start + 2 * size].view(2, *shape)
            start += 2 * size
            if step >= first_step:
                yield inputs, targets
            step += 1


class _Chunks(Dataset):
    """Number i holds some steps one after the other: their shapes, and all tokens as one vector."""

    def __init__(self, configs: Sequence[RunConfig]) -> None:
        self.configs = list(configs)
        config = configs[0]
        tokens_in_step = len(configs) * config.batch_size * config.data.trained_length
        self.steps = max(1, min(_MOST_STEPS_IN_CHUNK, _TOKENS_IN_CHUNK // tokens_in_step))
        self._source: Source | None = None

    def __getitem__(self, number: int) -> tuple[list[tuple[int, ...]], Tensor]:
        # Opened by the worker itself: a source need not travel between processes.
        source = self._source = self._source or open_source(self.configs[0].data)
        shapes, pieces = [], []
        for step in range(number * self.steps, min((number + 1) * self.steps, self.configs[0].steps)):
            # Replicas that differ in their optimizer alone read the same batch.
            made = {
                c.seed: source.batch(step, batch_size=c.batch_size, seed=c.seed, steps=c.steps)
                for c in {c.seed: c for c in self.configs}.values()
            }
            batches = [made[c.seed] for c in self.configs]
            shapes.append((len(batches), *batches[0].inputs.shape))
            pieces += [torch.stack([b.inputs for b in batches]), torch.stack([b.targets for b in batches])]
        return shapes, torch.cat([piece.flatten().to(torch.int32) for piece in pieces])
