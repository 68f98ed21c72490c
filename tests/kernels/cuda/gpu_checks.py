"""Random problems, and both directions of a kernel on a GPU against the float64 loops."""

import importlib

import pytest
import torch

from statemix.kernels.cuda import rule, scan
from tests.kernels.cuda import float64_loops

PACKED = [0, 1, 1, 40, 41, 43, 43, 100, 163, 164, 300, 300]
# Relative errors in the norm. Rounding to 8 or 11 bits alone is an error of at most 2^-8 or 2^-11; float32 coefficients
# that sum to 1 + 1e-7 compound over the steps.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4e-3, torch.float16: 5e-4}
STATE_TOLERANCE = 1e-5
NORMALIZATIONS = ("softmax", "sigmoid", "relu", "tanh", "linear", "none")
FAMILIES = ("bdlru", "hlru")
NEEDS_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.fixture(autouse=True)
def outputs_start_as_nan():
    """Every `torch.empty` is filled with NaN: what a kernel forgets to write shows."""
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(False)
    torch.cuda.empty_cache()


def kernels(family):
    return importlib.import_module(f"statemix.kernels.cuda.{family}")


def problem(family, m, batch, steps, width, dtype=torch.bfloat16, *, scale=2.0, logits_batch=None, logits_steps=None,
            states=True, cu_seqlens=None, normalization="softmax"):  # fmt: skip
    """Random arguments of forward; the coefficients of "none" are kept small enough not to explode."""
    rows = (m, m + 1) if family == "bdlru" else (m + 1,)
    blocks = (m,) if family == "bdlru" else ()
    options = {"device": "cuda", "dtype": torch.float32}
    shape = (logits_batch or batch, logits_steps or steps, *rows, width)
    logits = torch.randn(shape, **options) * (0.5 / (m + 1) if normalization == "none" else scale)
    values = torch.randn((batch, steps, *blocks, width), **options)
    cu = None if cu_seqlens is None else torch.tensor(cu_seqlens, dtype=torch.int32, device="cuda")
    count = batch if cu is None else len(cu_seqlens) - 1
    initial = torch.randn((count, m, width), **options) if states else None
    return logits.to(dtype), values.to(dtype), initial, cu, normalization


def check_forward(family, arguments):
    hidden, final = kernels(family).forward(*arguments)
    expected_hidden, expected_final = float64_loops.forward(family, *arguments)
    dtype = arguments[1].dtype
    assert hidden.dtype == dtype and hidden.is_contiguous() and final.dtype == torch.float32
    assert float64_loops.relative_error(hidden, expected_hidden) < TOLERANCE[dtype]
    assert float64_loops.relative_error(final, expected_final) < STATE_TOLERANCE
    return hidden


def check_backward(family, arguments, hidden, grad_hidden="random", grad_final=True, tolerance=None):
    logits, values, initial, cu, normalization = arguments
    if isinstance(grad_hidden, str):
        grad_hidden = torch.randn(values.shape, device="cuda").to(values.dtype)
    count = values.shape[0] if cu is None else len(cu) - 1
    grad_final = (
        torch.randn(count, logits.shape[-2] - 1, values.shape[-1], device="cuda") if grad_final else None
    )
    rest = (hidden, grad_hidden, grad_final, normalization)
    actual = kernels(family).backward(logits, values, initial, cu, *rest)
    expected = float64_loops.backward(family, logits, values, initial, cu, *rest)
    assert actual[0].shape == logits.shape and actual[0].dtype == logits.dtype
    for name, got, want in zip(("logits", "values"), actual, expected, strict=False):
        assert float64_loops.relative_error(got, want) < (tolerance or TOLERANCE[values.dtype]), name
    if initial is None:
        assert actual[2] is None
    else:
        assert float64_loops.relative_error(actual[2], expected[2]) < STATE_TOLERANCE


def check(family, *shape, **keywords):
    backward = {name: keywords.pop(name) for name in ("grad_hidden", "grad_final") if name in keywords}
    arguments = problem(family, *shape, **keywords)
    check_backward(family, arguments, check_forward(family, arguments), **backward)


def force(monkeypatch, choose):
    """Runs the kernels that `choose` names, for the arguments of rule.choose."""
    monkeypatch.setattr(scan, "choose", choose)
    monkeypatch.setattr(scan, "_plans", {})


def force_shape(monkeypatch, shape, adapt):
    """Runs the kernel of one shape, as `adapt(candidate, direction, batch, width, device)` makes it."""

    def choose(family, direction, m, dtype, normalization, batch, steps, width, device, **options):
        options["normalization"] = normalization
        candidate = rule._candidate(family, direction, m, dtype, shape, device, **options)
        assert candidate is not None
        return rule._fit(adapt(candidate, direction, batch, width, device), device)

    force(monkeypatch, choose)


def check_parts(family, m, batch, steps, width, normalization="softmax"):
    """Gates and values as parts of one tensor's rows: read as such, and so are the gradients written."""
    logits, values, initial, _, _ = problem(family, m, batch, steps, width, normalization=normalization)
    split = [x.flatten(2).shape[2] for x in (logits, values)]
    together = torch.cat([logits.flatten(2), values.flatten(2)], 2).split(split, 2)
    parts = [part.view(x.shape) for part, x in zip(together, (logits, values), strict=True)]
    hidden = check_forward(family, (*parts, initial, None, normalization))
    check_backward(family, (*parts, initial, None, normalization), hidden)
    rest = (initial, None, hidden, torch.randn_like(values), None, normalization)
    found = kernels(family).backward(*parts, *rest)
    assert found[0].stride(1) == found[1].stride(1) == sum(split)
    assert found[1].data_ptr() == found[0].data_ptr() + split[0] * values.element_size()
    for one, other in zip(found, kernels(family).backward(logits, values, *rest), strict=True):
        assert torch.equal(one, other)
