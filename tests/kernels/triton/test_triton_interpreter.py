"""Runs the tests of the Triton kernels without a GPU, and says what a machine without one is told."""

import importlib.util
import warnings

import pytest
import torch

from statemix import backend_for, bdlru_scan
from statemix.kernels import cuda, triton
from statemix.ops import dispatch
from tests.kernels.triton.interpreter import INTERPRETED, TRITON, interpret

needs_triton = pytest.mark.skipif(not TRITON, reason="needs triton")


def test_the_scans_agree_with_float64_loops_in_the_interpreter():
    interpret("test_triton_kernels.py")


def test_the_fused_layers_agree_with_their_formulas_in_the_interpreter():
    interpret("test_rms_norm.py", "test_swiglu.py", "test_cross_entropy.py")


def test_the_fused_steps_agree_with_float64_loops_in_the_interpreter():
    interpret("test_step.py")


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="the interpreter was asked for")
def test_tensors_on_the_cpu_are_refused_with_the_remedy():
    with pytest.raises(
        ValueError,
        match=r"backend='triton' cannot run here: .*these tensors are on the CPU: use backend='auto'",
    ):
        bdlru_scan(torch.zeros(1, 2, 1, 2, 3), torch.zeros(1, 2, 1, 3), backend="triton")


def reason(device="cuda", family="bdlru", size=4, dtype=torch.float32):
    return triton.unavailable_reason(device, family=family, order_or_block_size=size, dtype=dtype)


@pytest.fixture
def fresh():
    """Decisions are kept; these tests change what they rest on."""
    caches = (dispatch._automatic, dispatch._reason, dispatch.warn_once, triton._device_reason)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_what_is_missing_is_named_with_the_remedy(fresh, monkeypatch):
    assert "float32, bfloat16, float16; got torch.float64: use backend='reference'" in reason(
        dtype=torch.float64
    )
    assert "block_size up to 32 in registers; got 33" in reason(size=33)
    assert "order up to 128 in registers; got 129" in reason(family="hlru", size=129)
    assert "no compiler for 'mps'" in reason("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    assert reason("cuda").startswith("PyTorch sees no NVIDIA or AMD GPU: install")
    assert reason("xpu").startswith("PyTorch sees no Intel GPU: install")


def test_a_missing_triton_and_an_old_gpu_are_named(fresh, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=None: (6, 1))
    if torch.version.hip is None and importlib.util.find_spec("triton"):
        assert reason() == "Triton needs compute capability 7.5; the GPU has 6.1: use backend='reference'"
    monkeypatch.setattr(triton, "find_spec", lambda name: None)
    triton._device_reason.cache_clear()
    assert reason().startswith("Triton is not installed: pip install triton")


@needs_triton
@pytest.mark.parametrize(
    ("device", "says"),
    [
        (
            "cuda",
            r"portable Triton kernels, slower than CUDA C\+\+, on cuda: cuda: this PyTorch is for ROCm",
        ),
        (
            "xpu",
            r"portable Triton kernels, slower than CUDA C\+\+, on xpu: CUDA C\+\+ runs on NVIDIA GPUs alone",
        ),
    ],
)
def test_gpus_without_cuda_take_triton_and_say_so_once(fresh, monkeypatch, device, says):
    monkeypatch.setattr(cuda, "unavailable_reason", lambda *_, **__: "this PyTorch is for ROCm")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=None: (9, 4))
    monkeypatch.setattr(torch.xpu, "is_available", lambda: True)
    assert backend_for(device, order_or_block_size=4) == "triton"
    wanted = ("bdlru_scan", "auto", torch.device(device), "bdlru", 4, torch.bfloat16)
    with pytest.warns(RuntimeWarning, match=says):
        assert dispatch.resolve_backend(*wanted) == "triton"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dispatch.resolve_backend(*wanted) == "triton"
    with pytest.warns(RuntimeWarning, match="slow reference"):
        assert dispatch.resolve_backend(*wanted[:5], torch.float64) == "reference"
