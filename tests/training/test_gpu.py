"""The same promises on a GPU, where projections run in bfloat16."""

import pytest
import torch

from statemix.training import train

from .small import numbers, small
from .test_loop import At, terminate

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_a_run_on_a_gpu_goes_on_as_if_it_never_stopped(tmp_path):
    whole = train(small(device="cuda"), out=tmp_path / "whole", progress=False)
    train(small(device="cuda"), out=tmp_path / "run", observers=[At(5, terminate)], progress=False)
    resumed = train(small(device="cuda"), out=tmp_path / "run", resume=True, progress=False)
    assert numbers(resumed.history) == numbers(whole.history)
    assert {p.dtype for p in resumed.model.parameters()} == {torch.float32}


def test_a_gpu_learns_what_a_cpu_learns():
    gpu, cpu = (train(small(device=device), progress=False) for device in ("cuda", "cpu"))
    losses = [[row["loss"] for row in run.history] for run in (gpu, cpu)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
