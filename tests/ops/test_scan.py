"""The operators compute the recurrence, whatever the backend, shape, dtype and normalisation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from statemix import bdlru_scan, hlru_scan, kernel_counts, reset_kernel_counts
from tests import tolerances
from tests.ops.cases import BACKENDS, FAMILIES, NORMALIZATIONS, OPERATORS, TRUTHS, Shape, inputs, shapes
from tests.truth import relative_error

each_family = pytest.mark.parametrize("family", FAMILIES)
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_normalization = pytest.mark.parametrize("normalization", NORMALIZATIONS)
# Rounding errors average out over many numbers; over a handful one may be twice the norm's share.
large_shapes = shapes().filter(lambda s: s.B * s.T * s.N > 300)


def scale_for(normalization: str) -> float:
    # Unnormalised gates of this size neither explode nor vanish over forty steps.
    return 0.3 if normalization == "none" else 2.0


@each_family
@each_backend
@each_normalization
@settings(max_examples=25)
@given(shape=shapes(), seed=st.integers(0, 2**20), state=st.booleans())
def test_forward_and_gradients_are_those_of_a_float64_loop(
    family, backend, normalization, shape, seed, state
):
    scale = scale_for(normalization)
    given_ = inputs(family, shape, scale=scale, state=state, seed=seed, grad=True)
    options = {"normalization": normalization, "cu_seqlens": shape.cu_seqlens}
    got = OPERATORS[family](*given_, **options, backend=backend)
    want = TRUTHS[family](*given_, **options)
    cotangents = [torch.randn(w.shape, dtype=w.dtype) for w in want]
    wrt = [x for x in given_ if x is not None]
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape
        assert relative_error(g, w) < tolerances.FORWARD[torch.float64]
    got_grads = torch.autograd.grad(got, wrt, cotangents)
    want_grads = torch.autograd.grad(want, wrt, cotangents)
    for g, w in zip(got_grads, want_grads, strict=True):
        assert g.shape == w.shape
        assert relative_error(g, w) < tolerances.GRADIENT[torch.float64]


@each_family
@each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@settings(max_examples=15)
@given(shape=large_shapes, seed=st.integers(0, 2**20))
def test_narrow_dtypes_lose_no_more_than_their_rounding(family, backend, dtype, shape, seed):
    given_ = inputs(family, shape, dtype, seed=seed, grad=True)
    exact = [x.detach().double().requires_grad_() for x in given_]
    hidden, final = OPERATORS[family](*given_, cu_seqlens=shape.cu_seqlens, backend=backend)
    want_hidden, want_final = TRUTHS[family](*exact, cu_seqlens=shape.cu_seqlens)
    assert hidden.dtype == dtype
    assert final.dtype == torch.float32
    assert relative_error(hidden, want_hidden) < tolerances.FORWARD[dtype]
    assert relative_error(final, want_final) < tolerances.STATE[dtype]
    cotangents = [torch.randn(hidden.shape).to(dtype), torch.randn(final.shape)]
    grads = torch.autograd.grad((hidden, final), given_, cotangents)
    want = torch.autograd.grad((want_hidden, want_final), exact, [c.double() for c in cotangents])
    for g, w, x in zip(grads, want, given_, strict=True):
        assert g.dtype == x.dtype
        assert relative_error(g, w) < tolerances.GRADIENT[dtype]


@each_family
@each_backend
@settings(max_examples=20)
@given(data=st.data(), shape=shapes().filter(lambda s: s.lengths is None))
def test_a_sequence_run_in_pieces_equals_the_whole(family, backend, data, shape):
    logits, values, initial = inputs(family, shape)
    whole, final = OPERATORS[family](logits, values, initial, backend=backend)
    cuts = sorted(data.draw(st.lists(st.integers(0, shape.T), max_size=4)))
    state, outputs = initial, []
    for a, b in zip([0, *cuts], [*cuts, shape.T], strict=True):
        piece_logits = logits if logits.shape[1] == 1 and shape.T != 1 else logits[:, a:b]
        h, state = OPERATORS[family](piece_logits, values[:, a:b], state, backend=backend)
        outputs.append(h)
    assert relative_error(torch.cat(outputs, 1), whole) < 1e-12
    assert relative_error(state, final) < 1e-12


@each_backend
def test_both_families_agree_where_both_are_diagonal(backend):
    logits, values, initial = inputs("bdlru", Shape(2, 30, 1, 9))
    block, block_final = bdlru_scan(logits, values, initial, backend=backend)
    order, order_final = hlru_scan(logits[:, :, 0], values[:, :, 0], initial, backend=backend)
    assert relative_error(block[:, :, 0], order) < 1e-13
    assert relative_error(block_final, order_final) < 1e-13


@each_backend
def test_hlru_is_the_bdlru_of_its_companion_matrix(backend):
    M, N, T = 3, 5, 12
    logits, values, initial = inputs("hlru", Shape(2, T, M, N), scale=0.3)
    hidden, final = hlru_scan(logits, values, initial, normalization="none", backend=backend)
    gates = torch.zeros(2, T, M, M + 1, N, dtype=torch.float64)
    gates[:, :, 0] = logits
    for row in range(1, M):
        gates[:, :, row, row - 1] = 1
    spread = torch.zeros(2, T, M, N, dtype=torch.float64)
    spread[:, :, 0] = values
    block, block_final = bdlru_scan(gates, spread, initial, normalization="none", backend=backend)
    assert relative_error(block[:, :, 0], hidden) < 1e-12
    assert relative_error(block_final, final) < 1e-12


@each_family
@each_backend
def test_no_steps_give_no_output_and_leave_the_state(family, backend):
    logits, values, initial = inputs(family, Shape(2, 0, 3, 4), grad=True)
    hidden, final = OPERATORS[family](logits, values, initial, backend=backend)
    assert hidden.shape == values.shape
    assert torch.equal(final, initial)
    weights = torch.randn_like(final)
    (grad,) = torch.autograd.grad((final * weights).sum(), initial)
    assert torch.equal(grad, weights)


@each_family
@each_backend
def test_packed_sequences_run_in_inference_mode(family, backend):
    shape = Shape(1, 9, 3, 4, (4, 0, 5))
    given = inputs(family, shape)
    want = OPERATORS[family](*given, cu_seqlens=shape.cu_seqlens, backend=backend)
    with torch.inference_mode():
        bounds = shape.cu_seqlens
        got = OPERATORS[family](*given, cu_seqlens=bounds, backend=backend)
    assert bounds.is_inference()
    again = OPERATORS[family](*given, cu_seqlens=bounds, backend=backend)
    for g, a, w in zip(got, again, want, strict=True):
        assert torch.equal(g, w)
        assert torch.equal(a, w)


@each_family
@each_backend
def test_an_empty_batch_works(family, backend):
    logits, values, initial = inputs(family, Shape(0, 5, 3, 4))
    hidden, final = OPERATORS[family](logits, values, initial, backend=backend)
    assert hidden.shape == values.shape
    assert final.shape == (0, 3, 4)


@each_family
@each_backend
def test_any_strides_give_the_same(family, backend):
    logits, values, initial = inputs(family, Shape(3, 11, 4, 6))
    want = OPERATORS[family](logits, values, initial, backend=backend)
    strided = [x.transpose(0, -1).contiguous().transpose(0, -1) for x in (logits, values, initial)]
    sliced = torch.stack([values, -values], -1)[..., 0]
    for v in (strided[1], sliced):
        got = OPERATORS[family](strided[0], v, strided[2], backend=backend)
        for g, w in zip(got, want, strict=True):
            assert torch.equal(g, w)


@each_family
@each_backend
def test_a_view_that_means_the_negative_of_its_memory_is_read_as_such(family, backend):
    def run(tensors, gradient):
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        hidden, final = OPERATORS[family](*leaves, backend=backend)
        return hidden, final, *torch.autograd.grad(hidden, leaves, gradient)

    negative = [torch.complex(x, x).conj().imag for x in inputs(family, Shape(2, 7, 3, 1))]
    assert all(x.is_neg() for x in negative)
    gradient = torch.complex(negative[1], negative[1]).conj().imag
    got = run(negative, gradient)
    want = run([x.resolve_neg() for x in negative], gradient.resolve_neg())
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w)


@each_family
@each_backend
@each_normalization
def test_a_nan_reaches_only_what_depends_on_it(family, backend, normalization):
    shape = Shape(2, 10, 2, 4)
    clean = inputs(family, shape, scale=0.3)
    logits, values, initial = (x.clone() for x in clean)
    logits[0, 5, ..., 1] = float("nan")
    values[0, 6, ..., 1] = float("inf")
    want, _ = OPERATORS[family](*clean, normalization=normalization, backend=backend)
    got, _ = OPERATORS[family](logits, values, initial, normalization=normalization, backend=backend)
    touched = torch.zeros_like(want, dtype=torch.bool)
    touched[0, 5:, ..., 1] = True
    assert torch.equal(got[~touched], want[~touched])
    assert got[0, 5, ..., 1].isnan().all()


@each_family
@each_backend
def test_a_nan_in_one_packed_sequence_never_reaches_the_next(family, backend):
    shape = Shape(1, 12, 2, 4, (5, 7))
    clean = inputs(family, shape)
    values = clean[1].clone()
    values[0, 4] = float("nan")
    want, want_final = OPERATORS[family](*clean, cu_seqlens=shape.cu_seqlens, backend=backend)
    got, final = OPERATORS[family](clean[0], values, clean[2], cu_seqlens=shape.cu_seqlens, backend=backend)
    assert torch.equal(got[0, 5:], want[0, 5:])
    assert torch.equal(final[1], want_final[1])
    assert final[0].isnan().any()


@each_family
@pytest.mark.parametrize("normalization", [n for n in NORMALIZATIONS if n != "none"])
def test_states_stay_bounded_over_twenty_thousand_steps(family, normalization):
    shape = Shape(1, 20_000, 3, 8)
    logits, values, initial = inputs(family, shape, torch.float32, scale=20.0)
    bound = max(values.abs().max(), initial.abs().max()).item()
    hidden, final = OPERATORS[family](logits, values, initial, normalization=normalization, backend="cpu")
    allowed = bound * (1 + (shape.M + 2) * 2**-23 * shape.T)
    assert hidden.abs().max().item() <= allowed
    assert final.abs().max().item() <= allowed


@each_family
@each_backend
def test_minus_infinity_closes_a_gate_exactly(family, backend):
    logits, values, initial = inputs(family, Shape(1, 6, 2, 3))
    logits[..., 0, :] = -torch.inf
    for normalization in ("softmax", "sigmoid", "relu"):
        hidden, _ = OPERATORS[family](logits, values, initial, normalization=normalization, backend=backend)
        other = initial.clone()
        other[:, 0] = 1e6  # read by the first lag or column alone, which is closed
        if family == "bdlru":
            again, _ = OPERATORS[family](logits, values, other, normalization=normalization, backend=backend)
            assert torch.equal(hidden, again)
        assert hidden.isfinite().all()


@each_family
@each_backend
def test_a_closed_relu_row_is_zero_and_passes_no_gradient(family, backend):
    logits, values, initial = inputs(family, Shape(1, 4, 2, 3), grad=True)
    closed = -logits.detach().abs() - 0.1
    closed[0, 2] = 0.0
    closed.requires_grad_()
    hidden, final = OPERATORS[family](closed, values, initial, normalization="relu", backend=backend)
    assert (hidden == 0).all()
    grads = torch.autograd.grad(hidden.sum() + final.sum(), (closed, values))
    assert all((g == 0).all() for g in grads)


@each_family
def test_a_counter_says_which_kernel_ran(family):
    logits, values, initial = inputs(family, Shape(1, 4, 2, 3), grad=True)
    for backend in BACKENDS:
        reset_kernel_counts()
        hidden, _ = OPERATORS[family](logits, values, initial, backend=backend)
        hidden.sum().backward()
        counts = kernel_counts()
        assert counts[f"{family}.forward.{backend}"] == 1
        assert all(key.endswith(backend) for key in counts)
