"""The fused SwiGLU against its formula in float64, in Triton's interpreter; and it compiles for GPUs."""

import pytest
import torch

from tests.kernels.triton.interpreter import DEVICE, compiled_code, for_each_vendor, on_a_card, runs

pytest.importorskip("triton")

pytestmark = on_a_card


@runs
@pytest.mark.parametrize("shape", [(3, 2), (2, 3, 14), (2, 2 * 1024), (3, 2 * 1500), (0, 8)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_values_and_gradients_are_those_of_the_formula(shape, dtype, monkeypatch):
    from statemix.models import swiglu as module

    monkeypatch.setattr(module, "_fuses", lambda hidden: True)
    torch.manual_seed(0)
    hidden = (4 * torch.randn(shape, device=DEVICE)).to(dtype).requires_grad_()
    y = module.swiglu(hidden)
    gradient = torch.randn_like(y)
    (found,) = torch.autograd.grad(y, hidden, gradient)
    exact = hidden.detach().double().requires_grad_()
    gate, value = exact.chunk(2, -1)
    wanted = gate / (1 + (-gate).exp()) * value
    (of_exact,) = torch.autograd.grad(wanted, exact, gradient.double())
    tolerance = 1e-5 if dtype == torch.float32 else 8e-3
    assert y.dtype == found.dtype == dtype and y.shape == wanted.shape
    torch.testing.assert_close(y.double(), wanted.detach(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found.double(), of_exact, rtol=tolerance, atol=tolerance)


@runs
def test_it_can_be_differentiated_again_and_saves_the_hidden_vector_alone(monkeypatch):
    from statemix.models import swiglu as module

    monkeypatch.setattr(module, "_fuses", lambda hidden: True)
    hidden = torch.randn(2, 6, device=DEVICE, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = module.swiglu(hidden)
    assert [t.data_ptr() for t in saved] == [hidden.data_ptr()]
    (first,) = torch.autograd.grad(y.sum(), hidden, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), hidden)
    plain = module._plain(hidden)
    (first,) = torch.autograd.grad(plain.sum(), hidden, create_graph=True)
    torch.testing.assert_close(second, torch.autograd.grad(first.square().sum(), hidden)[0])


@for_each_vendor
@pytest.mark.parametrize("name", ["_forward", "_backward"])
def test_the_kernels_compile(name, target, binary, monkeypatch, tmp_path):
    from statemix.kernels.triton import swiglu

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(swiglu, name)
    signature = dict.fromkeys(kernel.arg_names, "*bf16") | {"width": "i32"}
    assert len(compiled_code(kernel, signature, {"BLOCK": 1024}, target, binary, warps=4)) > 1000
