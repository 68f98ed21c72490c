"""The CUDA kernels on a GPU against float64 loops: every promise of the operators' contract."""

import itertools

import pytest
import torch

from statemix.kernels.cuda import scan
from tests.kernels.cuda import float64_loops
from tests.kernels.cuda.gpu_checks import (
    FAMILIES,
    NEEDS_GPU,
    NORMALIZATIONS,
    PACKED,
    check,
    check_backward,
    check_forward,
    check_parts,
    kernels,
    outputs_start_as_nan,  # noqa: F401
    problem,
)

pytestmark = NEEDS_GPU


@pytest.mark.parametrize("family, m", [("bdlru", m) for m in range(1, 17)] + [("hlru", m) for m in (*range(1, 13), 16, 17, 24, 25, 32)])  # fmt: skip
@pytest.mark.parametrize("width", [40, 1024])
def test_every_block_size_and_order(family, m, width):
    check(family, m, 8 if width == 1024 else 2, 37 if width == 1024 else 83, width)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("m", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_normalization_and_dtype(family, m, normalization, dtype):
    check(family, m, 8, 35, 1000, dtype, normalization=normalization)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize(
    "family, m", [("bdlru", 5), ("bdlru", 8), ("bdlru", 11), ("bdlru", 16), ("hlru", 16)]
)
def test_every_normalization_with_narrow_rows(family, m, normalization, dtype):
    check(family, m, 2, 70, 48, dtype, normalization=normalization)


@pytest.mark.parametrize("steps", [1, 2, 3, 15, 16, 17, 64, 129])
@pytest.mark.parametrize("width", [1, 7, 8, 30, 33, 64, 65, 72, 100, 200])
@pytest.mark.parametrize("family, m", [("bdlru", 2), ("bdlru", 4), ("hlru", 3), ("hlru", 8)])
def test_lengths_and_widths_that_fill_no_tile(family, m, steps, width):
    check(family, m, 3, steps, width)


@pytest.mark.parametrize("width", [33, 100, 2047])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family, m", [("bdlru", 1), ("bdlru", 4), ("bdlru", 8), ("bdlru", 9), ("hlru", 4)])
def test_rows_that_are_not_aligned(family, m, dtype, width):
    check(family, m, 4, 27, width, dtype)


@pytest.mark.parametrize("states", [False, True], ids=["from zero", "from a state"])
@pytest.mark.parametrize("m", [1, 2, 3, 4, 6, 8, 16])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_long_sequence_over_clusters(family, m, states):
    check(family, m, 1, 2500, 64, states=states, grad_final=states)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_composed_maps(normalization, dtype):
    for m, steps, width in ((1, 700, 40), (2, 701, 33), (3, 512, 16), (4, 257, 17), (4, 9, 64), (2, 16, 64)):
        check("bdlru", m, 1, steps, width, dtype, normalization=normalization)


def test_gradient_of_the_final_state_alone():
    for family in FAMILIES:
        check(family, 4, 3, 50, 64, grad_hidden=None)
        check(family, 4, 3, 50, 65, grad_hidden=None)


@pytest.mark.parametrize("width", [64, 33])
@pytest.mark.parametrize("states", [False, True], ids=["from zero", "from a state"])
@pytest.mark.parametrize("m", [1, 3, 4, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_sequences_with_empty_ones(family, m, states, width):
    check(family, m, 1, PACKED[-1], width, cu_seqlens=PACKED, states=states)


@pytest.mark.parametrize("logits_batch, logits_steps", [(1, None), (None, 1), (1, 1)])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize(
    "family, m, width", [("bdlru", 1, 64), ("bdlru", 4, 100), ("bdlru", 16, 40), ("hlru", 4, 72)]
)
def test_broadcast_logits(family, m, width, normalization, logits_batch, logits_steps):
    check(
        family,
        m,
        3,
        150,
        width,
        logits_batch=logits_batch,
        logits_steps=logits_steps,
        normalization=normalization,
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("states", [False, True], ids=["from zero", "from a state"])
def test_broadcast_logits_of_packed_sequences(family, states):
    check(family, 3, 1, PACKED[-1], 40, cu_seqlens=PACKED, logits_steps=1, states=states)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_step_with_one_step_of_logits(family):
    check(family, 2, 4, 1, 64, logits_steps=1)
    check(family, 2, 4, 1, 64, logits_batch=1)


def test_logits_that_are_part_of_a_wider_projection_are_not_copied():
    scan.copies.clear()
    batch, steps, m, width = 2, 45, 3, 64
    fused = torch.randn(batch, steps, m * (m + 2) * width, device="cuda").bfloat16()
    logits = fused[..., : m * (m + 1) * width].unflatten(-1, (m, m + 1, width))
    values = fused[..., m * (m + 1) * width :].unflatten(-1, (m, width))
    arguments = (logits, values, None, None, "softmax")
    hidden = check_forward("bdlru", arguments)
    check_backward("bdlru", arguments, hidden)
    grad = torch.randn(steps, batch, m, width, device="cuda").bfloat16().transpose(0, 1)
    check_backward("bdlru", arguments, hidden, grad)
    permuted = torch.randn(batch, steps, m + 1, m, width, device="cuda").bfloat16().transpose(2, 3)
    check_forward("bdlru", (permuted, values, None, None, "softmax"))
    assert not scan.copies


@pytest.mark.parametrize("normalization", ["softmax", "linear"])  # that needs the logits again
@pytest.mark.parametrize("family, m, batch, steps, width", [
    ("bdlru", 1, 2, 50, 72), ("bdlru", 3, 3, 41, 40), ("bdlru", 4, 1, 700, 128), ("bdlru", 8, 2, 30, 64),
    ("bdlru", 12, 2, 20, 24), ("hlru", 1, 2, 50, 72), ("hlru", 4, 3, 61, 136), ("hlru", 20, 2, 20, 40),
])  # fmt: skip
def test_gradients_of_parts_of_one_tensor_are_parts_of_one_tensor(
    family, m, batch, steps, width, normalization
):
    check_parts(family, m, batch, steps, width, normalization)


def test_logits_with_a_stride_along_n_are_copied_and_counted():
    scan.copies.clear()
    logits = torch.randn(2, 20, 3, 64, 2, device="cuda").bfloat16()[..., 0].contiguous()
    strided = torch.randn(2, 20, 3, 64, 2, device="cuda").bfloat16()[..., 0]
    values = torch.randn(2, 20, 64, device="cuda").bfloat16()
    check_forward("hlru", (logits, values, None, None, "softmax"))
    assert not scan.copies
    check_forward("hlru", (strided, values, None, None, "softmax"))
    assert scan.copies == {"hlru.forward.gate_logits": 1}


# Of gradients given the stored states: what rounding the output leaves, whatever the gates.
SATURATED_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2.5e-3, torch.float16: 4e-4}


_ALL, _TWO = tuple(SATURATED_TOLERANCE), (torch.float32, torch.bfloat16)


@pytest.mark.parametrize(
    "family, m, batch, steps, width, logits_steps, dtype",
    [
        (*shape, dtype)
        for dtypes, *shape in (  # shapes of the tests above: their kernels are compiled already
            (_ALL, "bdlru", 1, 8, 35, 1000, None),
            (_ALL, "bdlru", 4, 8, 35, 1000, None),
            (_ALL, "bdlru", 8, 8, 35, 1000, None),
            (_ALL, "hlru", 3, 8, 35, 1000, None),
            (_TWO, "bdlru", 8, 2, 70, 48, None),  # two lanes a block
            (_TWO, "bdlru", 11, 2, 70, 48, None),  # and one row absent
            (_TWO, "bdlru", 16, 2, 70, 48, None),
            (_TWO, "hlru", 16, 2, 70, 48, None),
            (_TWO, "bdlru", 3, 1, 512, 16, None),  # composed maps
            (_TWO, "bdlru", 4, 1, 257, 17, None),
            (_TWO, "bdlru", 4, 3, 40, 100, 1),  # logits that all steps share
            (_TWO, "hlru", 4, 3, 40, 72, 1),
        )
        for dtype in dtypes
    ],
)
@pytest.mark.parametrize("normalization", NORMALIZATIONS[:-1])  # unnormalized rows would explode
def test_saturated_gates(family, m, batch, steps, width, logits_steps, normalization, dtype):
    """One logit leads by 12: states survive, and gradients are differences of nearly equal numbers."""
    arguments = list(
        problem(family, m, batch, steps, width, scale=0.1, logits_steps=logits_steps, dtype=torch.float32)
    )
    logits, values = arguments[:2]
    leader = torch.randint(0, m + 1, (*logits.shape[:-2], 1, width), device="cuda")
    gap = torch.full(leader.shape, 12.0, device="cuda")
    if normalization in ("tanh", "linear"):
        gap *= torch.randint(0, 2, gap.shape, device="cuda") * 2 - 1
    logits += gap * (torch.arange(m + 1, device="cuda").unsqueeze(-1) == leader)
    if normalization == "sigmoid":
        logits -= 6
    arguments[:2] = logits.to(dtype), values.to(dtype)
    arguments[4] = normalization
    hidden = check_forward(family, arguments)
    # Gradients are as small as exp(-12): scaled as in training, else they are subnormal in float16.
    grad = (256 * torch.randn_like(values)).to(dtype)
    check_backward(family, arguments, hidden, grad, tolerance=SATURATED_TOLERANCE[dtype])


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("where", ["logits", "values", "initial"])
@pytest.mark.parametrize("width", [64, 33])
def test_nan_reaches_only_what_depends_on_it(family, normalization, where, width):
    batch, steps, m = 3, 75, 2
    arguments = problem(family, m, batch, steps, width, normalization=normalization)
    logits, values, initial, _, _ = arguments
    clean_hidden, clean_final = kernels(family).forward(*arguments)
    if where == "logits":
        logits[1, 33, ..., 5] = float("nan")
    elif where == "values":
        values[1, 33, ..., 5] = float("nan")
    else:
        initial[1, :, 5] = float("nan")
    hidden, final = kernels(family).forward(*arguments)
    affected = torch.zeros_like(hidden, dtype=torch.bool)
    affected[1, 0 if where == "initial" else 33 :, ..., 5] = True
    assert torch.equal(hidden[~affected], clean_hidden[~affected])
    first = hidden[1, 0 if where == "initial" else 33, ..., 5]
    assert torch.isnan(first).all()
    other = torch.ones_like(final, dtype=torch.bool)
    other[1, :, 5] = False
    assert torch.equal(final[other], clean_final[other])
    grad = torch.randn_like(values)
    dz, dv, dh = kernels(family).backward(
        logits, values, initial, None, torch.nan_to_num(hidden), grad, torch.randn_like(final), normalization
    )
    for gradient in (dz, dv, dh):
        elsewhere = torch.ones_like(gradient, dtype=torch.bool)
        elsewhere[1, ..., 5] = False
        assert torch.isfinite(gradient[elsewhere]).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_masked_logits_of_minus_infinity_are_exact_zeros(family):
    for normalization in ("softmax", "sigmoid", "relu"):
        arguments = list(problem(family, 3, 2, 40, 64, torch.float32, normalization=normalization))
        arguments[0][..., 1, :] = float("-inf")
        hidden = check_forward(family, arguments)
        rest = (hidden, torch.randn_like(arguments[1]), None, normalization)
        dz, _, _ = kernels(family).backward(*arguments[:4], *rest)
        assert (dz[..., 1, :] == 0).all()
        assert torch.isfinite(dz).all()


@pytest.mark.parametrize("normalization", ["relu", "tanh", "linear"])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_zero_logits(family, normalization):
    arguments = list(problem(family, 2, 2, 40, 64, torch.float32, normalization=normalization))
    arguments[0][:, 5] = 0
    check_backward(family, arguments, check_forward(family, arguments))


@pytest.mark.parametrize("family", FAMILIES)
def test_extreme_logits_of_sigmoid(family):
    arguments = list(problem(family, 2, 2, 40, 64, torch.float32, normalization="sigmoid"))
    arguments[0][:, 3:9] -= 300
    arguments[0][:, 12:20] += 300
    arguments[0][:, 24:36] -= 88  # where e^-z is the largest number of float32, or just infinite
    check_backward(family, arguments, check_forward(family, arguments))


@pytest.mark.parametrize("normalization", ["sigmoid", "tanh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_derivatives_hold_their_relative_precision_near_zero_and_where_gates_are_saturated(
    family, dtype, normalization
):
    arguments = list(problem(family, 2, 4, 60, 64, dtype, normalization=normalization))
    sizes = torch.tensor([1e-4, 4e-3, 6e-3, 0.04, 0.06, 1.0, 4.0, 8.0, 12.0, 20.0], device="cuda")
    shape = arguments[0].shape
    signs = torch.randint(0, 2, shape, device="cuda") * 2 - 1
    arguments[0] = (signs * sizes[torch.randint(0, len(sizes), shape, device="cuda")]).to(dtype)
    hidden = check_forward(family, arguments)
    rest = (hidden, torch.randn(hidden.shape, device="cuda").to(dtype), None, normalization)
    actual = kernels(family).backward(*arguments[:4], *rest)[0].double()
    expected = float64_loops.backward(family, *arguments[:4], *rest)[0]
    errors = ((actual - expected) / expected).abs()[expected.abs() > 1e-30]
    # Of each element; in a few the difference that multiplies the derivative all but cancels.
    assert torch.quantile(errors, 0.98) < {torch.float32: 1e-4, torch.bfloat16: 8e-3}[dtype]


@pytest.mark.parametrize("family, m, batch, steps, width", [("bdlru", 4, 8, 400, 1024), ("bdlru", 4, 1, 400, 128), ("bdlru", 8, 4, 400, 64), ("hlru", 4, 8, 400, 512), ("hlru", 4, 1, 8000, 256), ("bdlru", 1, 1, 8000, 256)])  # fmt: skip
def test_a_hundred_runs_give_the_same_bits(family, m, batch, steps, width):
    arguments = problem(family, m, batch, steps, width)
    logits, values, initial, cu, name = arguments
    hidden, final = kernels(family).forward(*arguments)
    grad, grad_final = torch.randn_like(values), torch.randn_like(final)
    first = kernels(family).backward(logits, values, initial, cu, hidden, grad, grad_final, name)
    for _ in range(100):
        again = kernels(family).forward(*arguments)
        gradients = kernels(family).backward(logits, values, initial, cu, hidden, grad, grad_final, name)
        for a, b in zip((hidden, final, *first), (*again, *gradients), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_equal_the_whole(family):
    arguments = problem(family, 4, 2, 60, 64, torch.float32)
    logits, values, state, _, name = arguments
    whole, final = kernels(family).forward(*arguments)
    cuts, pieces = [0, 1, 2, 30, 33, 60], []
    for a, b in itertools.pairwise(cuts):
        piece, state = kernels(family).forward(logits[:, a:b], values[:, a:b], state, None, name)
        pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(state, final, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family, m, batch, steps", [("bdlru", 2, 2, 100), ("hlru", 2, 1, 5000)])
def test_a_launch_can_be_captured_in_a_graph(family, m, batch, steps):
    arguments = problem(family, m, batch, steps, 64)
    expected, _ = kernels(family).forward(*arguments)
    graph = torch.cuda.CUDAGraph()
    torch.use_deterministic_algorithms(False)
    with torch.cuda.graph(graph):
        hidden, _ = kernels(family).forward(*arguments)
    for _ in range(3):
        hidden.fill_(float("nan"))
        graph.replay()
        assert torch.equal(hidden, expected)
