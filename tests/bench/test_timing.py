"""Times on a GPU are those of CUDA graphs, which leave nothing behind."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from statemix.bench import timing
from statemix.bench.timing import capturable, milliseconds

GPU = torch.device("cuda")


def test_on_a_cpu_work_needs_no_stream_and_a_time_is_the_median_of_calls() -> None:
    calls = []
    with capturable(torch.device("cpu")):
        time = milliseconds(lambda: calls.append(1), torch.device("cpu"), budget_s=0.0)
    assert time >= 0
    assert len(calls) == 1 + 3  # one to warm up, three at least


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
class TestGraphs:
    def reserved(self) -> int:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    def test_a_backward_pass_whose_forward_ran_before_is_captured(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        graphs = []
        capture = timing._captured
        monkeypatch.setattr(timing, "_captured", lambda *args: graphs.append(capture(*args)) or graphs[-1])
        before = self.reserved()
        with capturable(GPU):
            x = torch.randn(2**22, device=GPU, requires_grad=True)
            y, gradient = x.sin(), torch.ones(2**22, device=GPU)
            differentiate = partial(torch.autograd.grad, y, x, gradient, retain_graph=True)
            milliseconds(differentiate, GPU, budget_s=0.05)
            del x, y, gradient, differentiate
        assert len(graphs) == 1
        assert graphs[0] is not None
        # Tensors of 16 MB are given back; what the generator of random numbers keeps for graphs is small.
        assert self.reserved() <= before + 2**22

    def test_what_cannot_be_captured_is_timed_plainly_and_numbers_are_drawn_afterwards(self) -> None:
        stream = torch.cuda.current_stream()
        x = torch.randn(8, device=GPU)
        assert milliseconds(lambda: x.sum().item(), GPU, budget_s=0.05) > 0
        assert torch.cuda.current_stream() == stream
        assert torch.randn(8, device=GPU).isfinite().all()
        # And what is captured next is captured.
        assert timing._captured(lambda: x + 1, 2) is not None
