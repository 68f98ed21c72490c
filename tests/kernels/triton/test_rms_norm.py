"""The fused RMSNorm against its formula in float64, in Triton's interpreter; and it compiles for GPUs."""

import pytest
import torch
from torch import nn

from tests.kernels.triton.interpreter import DEVICE, compiled_code, for_each_vendor, on_a_card, runs

pytest.importorskip("triton")

pytestmark = on_a_card


def norm_and_input(shape):
    torch.manual_seed(0)
    norm = nn.RMSNorm(shape[-1], eps=1e-3, device=DEVICE)
    nn.init.normal_(norm.weight)
    return norm, (torch.randn(shape, device=DEVICE) * 0.3).requires_grad_()


@runs
@pytest.mark.parametrize("shape", [(5, 1), (2, 3, 7), (3, 64), (2, 1000), (0, 8)], ids=str)
@pytest.mark.parametrize("half", [False, True], ids=["float32", "autocast"])
def test_values_and_gradients_are_those_of_the_formula(shape, half, monkeypatch):
    from statemix.models import normalization as module

    monkeypatch.setattr(module, "_fuses", lambda norm, x: True)
    norm, x = norm_and_input(shape)
    with torch.autocast(DEVICE, torch.bfloat16, enabled=half):
        y = module.rms_norm(norm, x)
    gradient = torch.randn_like(y)
    found = torch.autograd.grad(y, [x, norm.weight], gradient)
    exact, weight = x.detach().double().requires_grad_(), norm.weight.detach().double().requires_grad_()
    wanted = exact / (exact.square().mean(-1, keepdim=True) + 1e-3).sqrt() * weight
    of_exact = torch.autograd.grad(wanted, [exact, weight], gradient.double())
    tolerance = 8e-3 if half else 1e-5
    assert y.dtype == (torch.bfloat16 if half else torch.float32)
    torch.testing.assert_close(y.double(), wanted.detach(), rtol=tolerance, atol=tolerance)
    for one, other in zip(found, of_exact, strict=True):
        # Only the output is rounded: gradients are those of the formula to the last digits of float32.
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)


@runs
def test_more_rows_than_programs_and_a_second_derivative(monkeypatch):
    from statemix.kernels.triton import rms_norm as kernels
    from statemix.models import normalization as module

    monkeypatch.setattr(module, "_fuses", lambda norm, x: True)
    monkeypatch.setattr(kernels, "_PROGRAMS", 3)
    norm, x = norm_and_input((11, 5))
    fused, plain = module.rms_norm(norm, x), norm(x)
    for one, other in zip(
        *(torch.autograd.grad(y.square().sum(), [x, norm.weight], retain_graph=True) for y in (fused, plain)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    seconds = []
    for y in (fused, plain):
        (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        seconds.append(torch.autograd.grad(first.square().sum(), x)[0])
    torch.testing.assert_close(seconds[0], seconds[1], rtol=1e-4, atol=1e-5)


@for_each_vendor
@pytest.mark.parametrize("name", ["_forward", "_backward"])
def test_the_kernels_compile(name, target, binary, monkeypatch, tmp_path):
    from statemix.kernels.triton import rms_norm

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(rms_norm, name)
    signature = dict.fromkeys(kernel.arg_names, "*fp32") | {"width": "i32", "rows": "i32", "eps": "fp32"}
    signature |= {"y_pointer": "*bf16", "gradient_pointer": "*bf16"}
    assert len(compiled_code(kernel, signature, {"BLOCK": 1024}, target, binary, warps=4)) > 1000
