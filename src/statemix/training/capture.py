"""A training step as a CUDA graph: the launches of its many small kernels become one."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor


class CapturedStep:
    """A step that is captured as a CUDA graph, one for each shape of its batch.

    The first step of a shape runs eagerly, which compiles kernels and fills caches; the second is captured.
    """

    def __init__(
        self, update: Callable[[Tensor, Tensor], None], device: torch.device, *, required: bool
    ) -> None:
        self._update, self._device, self._required = update, device, required
        self._can = True
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: dict[torch.Size, tuple[torch.cuda.CUDAGraph, Tensor, Tensor] | None] = {}

    def __call__(self, inputs: Tensor, targets: Tensor) -> None:
        shape = inputs.shape
        # Of one dtype in and out of a graph, or a compiled step would be compiled again while captured.
        inputs, targets = inputs.long(), targets.long()
        if shape not in self._graphs:
            self._graphs[shape] = None
            self._update(inputs, targets)
            return
        captured = self._graphs[shape]
        if captured is None and self._can:
            captured = self._graphs[shape] = self._capture(shape)
        if captured is None:
            self._update(inputs, targets)
            return
        graph, some_inputs, some_targets = captured
        some_inputs.copy_(inputs)
        some_targets.copy_(targets)
        graph.replay()

    def _capture(self, shape: torch.Size) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor] | None:
        tokens = torch.zeros(2, *shape, dtype=torch.int64, device=self._device)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                self._update(tokens[0], tokens[1])
        except RuntimeError as error:
            if self._required:
                raise
            self._can = False
            # The end of a capture fails with words of its own over what went wrong inside.
            reason = str(error.__context__ or error).splitlines()[0]
            warnings.warn(
                f"train_replicas: this model's step cannot be captured and runs kernel by kernel, which "
                f"is slower: {reason}",
                RuntimeWarning,
                stacklevel=2,
            )
            return None
        return graph, tokens[0], tokens[1]


@contextlib.contextmanager
def stream_for(device: torch.device) -> Iterator[None]:
    """A stream of its own on a GPU: the default one cannot be captured."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        stream.synchronize()
