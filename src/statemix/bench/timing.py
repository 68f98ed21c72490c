"""Times as medians of many repetitions, and the speed of a copy in the same run."""

from __future__ import annotations

import contextlib
import functools
import statistics
import time
from collections.abc import Callable, Iterator

import torch

CALLS = 5  # in a CUDA graph


def milliseconds(
    run: Callable[[], object], device: torch.device, *, budget_s: float = 1.0, at_most: int = 200
) -> float:
    """The median time of one call.

    On a GPU a CUDA graph of five calls is replayed between events where the call can be captured, so
    that the host's launches stay out of the number.
    """
    if device.type == "cuda":
        return _cuda_milliseconds(run, budget_s, at_most)
    run()
    times: list[float] = []
    end = time.perf_counter() + budget_s
    while len(times) < 3 or (time.perf_counter() < end and len(times) < at_most):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def _cuda_milliseconds(run: Callable[[], object], budget_s: float, at_most: int) -> float:
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    graph = _captured(run, CALLS)
    replay, calls = (run, 1) if graph is None else (graph.replay, CALLS)
    try:
        replay()
        torch.cuda.synchronize()
        times: list[float] = []
        end = time.perf_counter() + budget_s
        while len(times) < 3 or (time.perf_counter() < end and len(times) < at_most):
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            replay()
            stop.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(stop) / calls)
        return statistics.median(times)
    finally:
        if graph is not None:
            graph.reset()  # its memory serves nothing else until then


def _captured(run: Callable[[], object], calls: int) -> torch.cuda.CUDAGraph | None:
    """A CUDA graph of so many calls; None where they cannot be captured."""
    stream = torch.cuda.current_stream()
    own = None if stream == torch.cuda.default_stream() else stream
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=own):
            for _ in range(calls):
                run()
        return graph
    except RuntimeError:  # some peers synchronise inside: time their plain calls
        torch.cuda.set_stream(stream)  # a capture that fails leaves its own
        torch.cuda.synchronize()
        # And the generator of random numbers as if it went on, until another ends.
        numbers = torch.zeros(1, device="cuda")
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            numbers.add_(1)
        return None


@contextlib.contextmanager
def capturable(device: torch.device) -> Iterator[None]:
    """Work on a stream of its own, where a backward pass can be captured whose forward pass was not.

    Backward runs on the stream of its forward, which must be the one that is captured, and never the default.
    """
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)


@functools.cache
def copy_gb_s(device: torch.device, *, fresh: bool = False) -> float:
    """GB/s, bytes read plus written, of a copy too large for any cache; measured once in a process.

    Into memory that was written before, or with ``fresh`` into a new tensor, which pays for its pages.
    """
    source = torch.empty(2**28 if device.type == "cuda" else 2**26, device=device).normal_()
    target = torch.empty_like(source).copy_(source)
    run = source.clone if fresh else lambda: target.copy_(source)
    if device.type != "cuda":
        return 2 * source.nbytes / milliseconds(run, device) / 1e6
    # Outside a graph: a copy inside of one is a slower memory node.
    times = []
    for _ in range(20):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop))
    return 2 * source.nbytes / statistics.median(times[3:]) / 1e6


def warm_up(device: torch.device, seconds: float = 1.0) -> None:
    """Bring clocks up: the first kernel after idleness reads a fifth too slow."""
    if device.type != "cuda":
        return
    x = torch.empty(2**26, device=device).normal_()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        x.mul_(1.0)
        torch.cuda.synchronize()
