"""The Triton kernels against float64 loops: on a GPU where there is one, else in Triton's interpreter.

The interpreter is chosen when Triton is imported, so these tests need a process of their own there:
``test_triton_interpreter.py`` starts it.
"""

import importlib
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from statemix import backend_for, kernel_counts, reset_kernel_counts
from tests import tolerances
from tests.ops.cases import FAMILIES, NORMALIZATIONS, OPERATORS, TRUTHS, Shape, inputs
from tests.truth import gradients_at_stored_states, relative_error

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if INTERPRETED:
    DEVICE = torch.device("cpu")
elif torch.cuda.is_available() or torch.xpu.is_available():
    DEVICE = torch.device("cuda" if torch.cuda.is_available() else "xpu")
    pytestmark = pytest.mark.gpu
else:
    pytest.skip(
        "needs a GPU, or the interpreter as test_triton_interpreter.py starts it", allow_module_level=True
    )

each_family = pytest.mark.parametrize("family", FAMILIES)
# The interpreter cuts off what it stores in bfloat16, instead of rounding it.
CUT_OFF = {torch.bfloat16: 3.0} if INTERPRETED else {}


@pytest.fixture(autouse=True)
def outputs_start_as_nan():
    """Every ``torch.empty`` is filled with NaN: what a kernel forgets to write shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def kernels(family):
    return importlib.import_module(f"statemix.kernels.triton.{family}")


def moved(tensors, grad=False):
    return [None if x is None else x.detach().to(DEVICE).requires_grad_(grad) for x in tensors]


def compare(family, shape, normalization="softmax", dtype=torch.float32, state=True, seed=0):
    """Output, final state and gradients through the operator against a loop in float64 on the CPU."""
    scale = 0.3 if normalization == "none" else 2.0
    drawn = [x for x in inputs(family, shape, dtype, scale=scale, state=state, seed=seed) if x is not None]
    given_, exact = moved(drawn, grad=True), [x.double().requires_grad_() for x in drawn]
    bounds = shape.cu_seqlens
    want = TRUTHS[family](*exact, normalization=normalization, cu_seqlens=bounds)
    options = {"normalization": normalization, "backend": "triton"}
    got = OPERATORS[family](*given_, **options, cu_seqlens=None if bounds is None else bounds.to(DEVICE))
    generator = torch.Generator().manual_seed(seed)
    cotangents = [
        torch.randn(w.shape, generator=generator).to(g.dtype) for w, g in zip(want, got, strict=True)
    ]
    grads = torch.autograd.grad(got, given_, [c.to(DEVICE) for c in cotangents])
    want_grads = torch.autograd.grad(want, exact, [c.double() for c in cotangents])
    limits = [tolerances.FORWARD[dtype] * 1.3, tolerances.STATE[dtype], *[tolerances.GRADIENT[dtype]] * 3]
    for g, w, limit in zip((*got, *grads), (*want, *want_grads), limits, strict=False):
        assert g.shape == w.shape
        assert relative_error(g.detach().cpu(), w.detach()) < limit * CUT_OFF.get(g.dtype, 1.0)
    assert grads[0].dtype == dtype and got[1].dtype == torch.float32


SHAPES = {
    "one": Shape(1, 1, 1, 1),
    "block of 3": Shape(2, 6, 3, 5),
    "wider than a tile": Shape(1, 3, 2, 150),
    "block of 16": Shape(1, 2, 16, 3),
    "beyond what a lane holds": Shape(1, 2, 20, 9),
    "packed": Shape(1, 7, 3, 4, (3, 0, 1, 3)),
}


@each_family
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_shapes_agree_with_a_float64_loop(family, shape):
    compare(family, shape)


HALVES = (torch.bfloat16, torch.float16)


@each_family
@pytest.mark.parametrize(
    ("normalization", "dtype"),
    [*((n, torch.float32) for n in NORMALIZATIONS), *((n, d) for n in ("softmax", "tanh") for d in HALVES)],
)
def test_every_normalization_and_dtype_agrees_with_the_loop(family, normalization, dtype):
    compare(family, Shape(1, 3, 3, 9), normalization, dtype)


@each_family
@pytest.mark.parametrize("lengths", [None, (2, 0, 3)], ids=["batch", "packed"])
@pytest.mark.parametrize("gates", [(True, True), (True, False), (False, True)])
def test_gradients_of_shared_gates_have_their_shape(family, gates, lengths):
    compare(family, Shape(1 if lengths else 2, 5, 2, 5, lengths, gates), "sigmoid")


@each_family
@pytest.mark.parametrize("gates", [(True, True), (False, True), (True, False)])
def test_sums_over_many_steps_are_cut_into_parts(family, gates, monkeypatch):
    from statemix.kernels.triton import scan

    monkeypatch.setattr(scan, "_TERMS", 2)
    compare(family, Shape(4, 4, 2, 3, None, gates))


@st.composite
def small_shapes(draw):
    m, width = draw(st.sampled_from([1, 2, 3, 4, 5, 8])), draw(st.sampled_from([1, 3, 8, 33]))
    gates = draw(st.sampled_from([(False, False), (True, True), (False, True)]))
    if draw(st.booleans()):
        lengths = (*draw(st.lists(st.integers(0, 2), max_size=3)), draw(st.integers(1, 3)))
        return Shape(1, sum(lengths), m, width, lengths, gates)
    return Shape(draw(st.integers(1, 2)), draw(st.integers(1, 4)), m, width, None, gates)


@each_family
@settings(max_examples=8, derandomize=True)
@given(shape=small_shapes(), state=st.booleans(), normalization=st.sampled_from(NORMALIZATIONS))
def test_any_shape_agrees_with_the_loop(family, shape, state, normalization):
    compare(family, shape, normalization, state=state)


@each_family
@pytest.mark.parametrize(
    ("normalization", "dtype"),
    [
        *((n, torch.float32) for n in NORMALIZATIONS[:-1]),
        ("softmax", torch.bfloat16),
        ("linear", torch.float16),
    ],
)
def test_gradients_of_saturated_gates_are_exact_for_the_stored_states(family, normalization, dtype):
    """One logit leads by 12: gradients are differences of nearly equal numbers."""
    logits, values, initial = inputs(family, Shape(1, 2, 3, 24), torch.float64, scale=0.1)
    generator = torch.Generator().manual_seed(1)
    leader = torch.randint(0, 4, (*logits.shape[:-2], 1, logits.shape[-1]), generator=generator)
    logits += 12.0 * (torch.arange(4).unsqueeze(-1) == leader)
    if normalization in ("tanh", "linear"):
        logits *= torch.randint(0, 2, logits.shape, generator=generator) * 2 - 1
    if normalization == "sigmoid":
        logits -= 6
    logits, values, initial = logits.to(dtype), values.to(dtype), initial.float()
    hidden, _ = kernels(family).forward(*moved((logits, values, initial)), None, normalization)
    grad = (256 * torch.randn(values.shape, generator=generator)).to(dtype)
    got = kernels(family).backward(
        *moved((logits, values, initial)), None, hidden, grad.to(DEVICE), None, normalization
    )
    exact = [x.cpu().double() for x in (logits, values, initial, hidden, grad)]
    want = gradients_at_stored_states(family, *exact, normalization)
    limit = {torch.float32: 1e-5, torch.bfloat16: 2.5e-3, torch.float16: 4e-4}[dtype]
    for g, w in zip(got, want, strict=True):
        assert relative_error(g.cpu(), w) < limit * CUT_OFF.get(g.dtype, 1.0)


@each_family
def test_rows_of_zero_and_of_masked_logits(family):
    for normalization in ("relu", "tanh", "linear"):
        logits, values, initial = inputs(family, Shape(1, 4, 2, 5), torch.float64)
        logits[:, 1] = 0
        check_exact(family, logits, values, initial, normalization)
    for normalization in ("softmax", "sigmoid", "relu"):
        logits, values, initial = inputs(family, Shape(1, 4, 2, 5), torch.float64)
        logits[..., 1, :] = float("-inf")
        dz = check_exact(family, logits, values, initial, normalization)
        assert (dz[..., 1, :] == 0).all()
    logits, values, initial = inputs(family, Shape(1, 6, 2, 5), torch.float64)
    logits[:, 1:3] -= 300
    logits[:, 4:] += 300
    check_exact(family, logits, values, initial, "sigmoid")


def check_exact(family, logits, values, initial, normalization):
    arguments = moved(x.float() for x in (logits, values, initial))
    hidden, final = kernels(family).forward(*arguments, None, normalization)
    assert hidden.isfinite().all() and final.isfinite().all()
    grad = torch.randn(values.shape, generator=torch.Generator().manual_seed(2))
    got = kernels(family).backward(*arguments, None, hidden, grad.to(DEVICE), None, normalization)
    exact = [x.cpu().double() for x in (*arguments, hidden, grad)]
    for g, w in zip(got, gradients_at_stored_states(family, *exact, normalization), strict=True):
        assert relative_error(g.cpu(), w) < 1e-5
    return got[0]


@each_family
@pytest.mark.parametrize("where", ["logits", "values", "initial"])
@pytest.mark.parametrize("normalization", ["softmax", "tanh"])
@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # NumPy's, in the interpreter
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_nan_reaches_only_what_depends_on_it(family, where, normalization):
    arguments = moved(inputs(family, Shape(2, 3, 2, 9), torch.float32))
    clean, clean_final = kernels(family).forward(*arguments, None, normalization)
    poisoned = arguments[("logits", "values", "initial").index(where)]
    start = 0 if where == "initial" else 1
    poisoned[1, start if where != "initial" else slice(None), ..., 5] = float("nan")
    hidden, final = kernels(family).forward(*arguments, None, normalization)
    reached = torch.zeros_like(hidden, dtype=torch.bool)
    reached[1, start:, ..., 5] = True
    assert torch.equal(hidden[~reached], clean[~reached])
    assert hidden[1, start, ..., 5].isnan().all()
    elsewhere = torch.ones_like(final, dtype=torch.bool)
    elsewhere[1, :, 5] = False
    assert torch.equal(final[elsewhere], clean_final[elsewhere])
    grads = kernels(family).backward(
        *arguments, None, hidden, torch.ones_like(hidden), torch.ones_like(final), normalization
    )
    for gradient in grads:
        elsewhere = torch.ones_like(gradient, dtype=torch.bool)
        elsewhere[1, ..., 5] = False
        assert gradient[elsewhere].isfinite().all()


@each_family
def test_any_strides_are_read_where_they_lie(family):
    logits, values, initial = moved(inputs(family, Shape(2, 4, 2, 6), torch.float32))
    want = kernels(family).forward(logits, values, initial, None, "softmax")
    grad = torch.randn_like(values)
    want_grads = kernels(family).backward(logits, values, initial, None, want[0], grad, None, "softmax")

    def strided(x):
        return torch.stack([x, x]).movedim(0, -1).transpose(0, 1).contiguous().transpose(0, 1)[..., 0]

    logits, values, grad, initial = (strided(x) for x in (logits, values, grad, initial))
    assert values.stride(-1) == 2
    got = kernels(family).forward(logits, values, initial, None, "softmax")
    got_grads = kernels(family).backward(
        logits, values, initial, None, strided(want[0]), grad, None, "softmax"
    )
    assert all(torch.equal(g, w) for g, w in zip((*got, *got_grads), (*want, *want_grads), strict=True))


@each_family
def test_a_loss_on_the_final_state_alone(family):
    given_ = moved(inputs(family, Shape(1, 5, 2, 4), torch.float32), grad=True)
    exact = [x.detach().cpu().double().requires_grad_() for x in given_]
    got = torch.autograd.grad(OPERATORS[family](*given_, backend="triton")[1].square().sum(), given_)
    want = torch.autograd.grad(TRUTHS[family](*exact)[1].square().sum(), exact)
    for g, w in zip(got, want, strict=True):
        assert relative_error(g.cpu(), w) < 1e-5


@each_family
def test_the_same_inputs_give_the_same_bits_and_a_counter_says_what_ran(family):
    shape = Shape(2, 4, 2, 4, None, (True, True))
    reset_kernel_counts()
    runs = []
    for _ in range(2):
        given_ = moved(inputs(family, shape, torch.bfloat16), grad=True)
        out, _ = OPERATORS[family](*given_, backend="triton")
        runs.append([out, *torch.autograd.grad(out.sum(), given_)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert kernel_counts() == {f"{family}.forward.triton": 2, f"{family}.backward.triton": 2}


@pytest.mark.skipif(not INTERPRETED, reason="of the interpreter")
def test_auto_never_takes_the_interpreter():
    assert backend_for("cpu") == "cpu"


@pytest.mark.skipif(INTERPRETED, reason="needs the memory of a GPU")
@each_family
def test_elements_beyond_31_bits_are_reached(family):
    """The last steps of a long sequence, from a state, equal the same steps alone."""
    steps, width = 2**16 + 5, 2**13
    values = torch.zeros(1, steps, 4, width, dtype=torch.bfloat16, device=DEVICE)
    if family == "hlru":
        values = values.flatten(2)
    rows = (4, 5) if family == "bdlru" else (2,)
    logits = torch.zeros(1, 1, *rows, values.shape[-1], dtype=torch.bfloat16, device=DEVICE)
    values[:, -3:].normal_()
    hidden, final = kernels(family).forward(logits, values, None, None, "softmax")
    want, want_final = kernels(family).forward(logits, values[:, -3:], None, None, "softmax")
    assert values.numel() > 2**31
    assert torch.equal(hidden[:, -3:], want) and torch.equal(final, want_final)
