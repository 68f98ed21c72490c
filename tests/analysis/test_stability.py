"""Long runs against what is known in closed form."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from statemix import BDLRU, HLRU
from statemix.analysis import StateBound, contrast_left, gradient_reach, running_products, state_bound
from statemix.nn.baselines import LRU

CYCLE = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])


@settings(max_examples=20)
@given(
    st.sampled_from(["softmax", "sigmoid", "relu", "tanh", "linear"]),
    st.sampled_from([BDLRU, HLRU]),
    st.integers(1, 4),
    st.floats(0.1, 30),
    st.integers(0, 1000),
)
def test_no_state_passes_its_bound(normalization, family, size, scale, seed):
    torch.manual_seed(seed)
    sizes = {"num_blocks": 3, "block_size": size} if family is BDLRU else {"num_channels": 3, "order": size}
    layer = family(4, normalization=normalization, initial_state="learned", **sizes)
    bound = state_bound(layer, scale * torch.randn(2, 60, 4))
    assert bound.holds, bound


def test_a_bound_allows_for_the_rounding_of_a_run_and_for_nothing_else():
    assert StateBound(peak=1.0 + 2.0**-20, bound=1.0, steps=60).holds
    assert not StateBound(peak=1.001, bound=1.0, steps=60).holds
    assert not StateBound(peak=1.0 + 2.0**-19, bound=1.0, steps=1).holds


def test_an_unbounded_layer_is_found_out():
    layer = BDLRU(4, num_blocks=1, block_size=1, normalization="none", selective=False)
    with torch.no_grad():
        layer.gate_logits[0, :, 0] = torch.tensor([1.1, 1.0])
    bound = state_bound(layer, torch.ones(1, 50, 4))
    assert not bound.holds
    v = layer.value.weight.sum().abs().item()
    assert bound.bound == pytest.approx(v)
    assert bound.peak == pytest.approx(v * (1.1**50 - 1) / 0.1, rel=1e-4)


def test_the_peak_may_lie_in_the_middle_of_a_run():
    layer = BDLRU(2, num_blocks=1, block_size=1, normalization="none", selective=False)
    with torch.no_grad():
        layer.gate_logits[0, :, 0] = torch.tensor([0.5, 1.0])
        layer.value.weight.copy_(torch.tensor([[1.0, 0.0]]))
    x = torch.zeros(1, 9, 2)
    x[0, 4, 0] = 3.0
    assert state_bound(layer, x).peak == pytest.approx(3.0)


def test_a_run_of_no_steps_is_refused():
    for batch, time in ((2, 0), (0, 2)):
        with pytest.raises(ValueError, match="at least one sequence and step"):
            state_bound(BDLRU(4, num_blocks=1, block_size=2), torch.zeros(batch, time, 4))


def test_a_run_that_is_none_of_a_layer_with_a_bound_is_refused():
    with pytest.raises(TypeError, match=r"must be a BDLRU or an HLRU, .* got LRU"):
        state_bound(LRU(4, hidden_size=2), torch.zeros(2, 3, 4))
    layer = BDLRU(4, num_blocks=1, block_size=2)
    for x, error, says in (
        (torch.zeros(3, 4), ValueError, r"\(B, T, D\) with D = d_model = 4; got \(3, 4\): a batch of one"),
        (torch.zeros(2, 3, 5), ValueError, r"\(B, T, D\) with D = d_model = 4; got \(2, 3, 5\): project it"),
        (
            torch.zeros(2, 3, 4).double(),
            TypeError,
            "the layer's dtype torch.float32; got torch.float64: cast",
        ),
        ("noise", TypeError, "a torch.Tensor; got str"),
    ):
        with pytest.raises(error, match=f"state_bound: x must (be|have) {says}"):
            state_bound(layer, x)


@pytest.mark.parametrize("family", [BDLRU, HLRU])
def test_a_state_that_is_no_number_is_in_no_bound(family):
    sizes = {"num_blocks": 2, "block_size": 2} if family is BDLRU else {"num_channels": 2, "order": 2}
    layer, x = family(4, **sizes), torch.randn(1, 6, 4)
    x[0, 3, 1] = math.nan
    bound = state_bound(layer, x, torch.ones(1, 2, 2))
    assert math.isnan(bound.peak) and not bound.holds


def test_a_running_product_says_what_becomes_of_a_state():
    torch.manual_seed(0)
    layer = BDLRU(5, num_blocks=4, block_size=3)
    x = torch.randn(2, 20, 5)
    one, other = torch.randn(2, 2, 3, 4)
    with torch.no_grad():
        _, from_one = layer(x, one, return_state=True)
        _, from_other = layer(x, other, return_state=True)
        last = running_products(layer.transition(x))[:, -1]
    wanted = torch.einsum("bnij,bjn->bin", last, (one - other).double())
    assert torch.allclose((from_one - from_other).double(), wanted, atol=1e-7)


def test_the_product_of_a_cycle_comes_round():
    products = running_products(CYCLE.expand(1, 6, 1, 3, 3))[0, :, 0]
    assert torch.equal(products[2], torch.eye(3, dtype=torch.float64))
    assert torch.equal(products[3], CYCLE.double())


def test_a_permutation_keeps_every_contrast_and_averaging_none():
    assert contrast_left(CYCLE).item() == pytest.approx(1)
    assert contrast_left(torch.full((4, 4), 0.25)).item() == pytest.approx(0, abs=1e-6)


def test_a_block_that_keeps_only_its_mean_has_forgotten():
    """Rows that sum to one keep a constant for ever, and the norm of the product says nothing of that."""
    blurred = 0.9 * torch.full((3, 3), 1 / 3) + 0.1 * torch.eye(3)
    product = running_products(blurred.expand(1, 10, 1, 3, 3))[0, -1, 0]
    assert torch.linalg.matrix_norm(product, 2).item() == pytest.approx(1)
    assert contrast_left(product).item() == pytest.approx(0.1**10, rel=1e-4)


def test_the_contrast_of_single_states_is_their_gain():
    products = running_products(torch.full((1, 7, 1, 1, 1), 0.5))
    assert contrast_left(products)[0, :, 0].tolist() == [0.5**t for t in range(1, 8)]


def test_a_product_that_is_no_number_leaves_the_others_their_contrast():
    products = torch.stack([CYCLE, CYCLE * math.nan, CYCLE * math.inf])
    left = contrast_left(products)
    assert left[0].item() == pytest.approx(1.0) and left[1:].isnan().all()


@pytest.mark.parametrize("shape", [(3,), (4, 2, 3)])
def test_what_is_no_square_has_no_contrast(shape):
    with pytest.raises(ValueError, match=r"contrast_left: products must be \(\.\.\., M, M\)"):
        contrast_left(torch.zeros(shape))


def test_products_run_over_the_time_of_a_batch():
    with pytest.raises(ValueError, match=r"transitions must be \(B, T, N, M, M\); got \(5, 2, 2\)"):
        running_products(torch.zeros(5, 2, 2))


def test_gradients_of_a_scalar_recurrence_fade_as_its_gain():
    gain = 0.8
    layer = BDLRU(1, num_blocks=1, block_size=1, selective=False)
    with torch.no_grad():
        layer.gate_logits[0, :, 0] = torch.tensor([math.log(gain / (1 - gain)), 0.0])
    reach = gradient_reach(layer, torch.randn(3, 12, 1))
    ratios = reach[:-1] / reach[1:]
    assert torch.allclose(ratios, torch.full_like(ratios, gain), rtol=1e-4)


@pytest.mark.parametrize("inference", [False, True])
def test_gradients_that_fade_below_single_precision_squared_are_still_told(inference):
    with torch.inference_mode(inference):
        reach = gradient_reach(lambda x: 1e-30 * x.cumsum(1), torch.randn(3, 4, 2))
    alike = gradient_reach(lambda x: x.cumsum(1), torch.randn(20_000, 4, 2))
    assert (reach > 0).all()
    # The expected squared norm of a random direction of two numbers is two.
    assert alike.tolist() == pytest.approx([2**0.5] * 4, rel=0.02)


def test_an_output_has_no_gradient_from_later_inputs():
    torch.manual_seed(0)
    layer = HLRU(3, num_channels=4, order=2)
    reach = gradient_reach(layer, torch.randn(2, 10, 3), step=6)
    assert (reach[:7] > 0).all()
    assert (reach[7:] == 0).all()


def test_gradients_come_again_with_the_same_generator_and_under_no_grad():
    x = torch.randn(2, 5, 3)
    layer = BDLRU(3, num_blocks=2, block_size=2)
    one = gradient_reach(layer, x, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        other = gradient_reach(layer, x, generator=torch.Generator().manual_seed(3))
    assert torch.equal(one, other)


@pytest.mark.parametrize(("time", "step"), [(5, 5), (5, -6), (0, -1), (5, 1.0), (5, "last")])
def test_a_step_that_is_not_there_is_refused(time, step):
    with pytest.raises(
        ValueError, match=rf"step must be one of those of x .* = \(2, {time}, 3\); got {step!r}"
    ):
        gradient_reach(lambda x: x, torch.randn(2, time, 3), step=step)


def test_a_function_that_forgets_its_input_is_refused():
    with pytest.raises(ValueError, match="function must depend on x"):
        gradient_reach(torch.zeros_like, torch.randn(2, 5, 3))


@pytest.mark.parametrize(
    ("function", "x", "error", "says"),
    [
        (lambda x: nn.Linear(3, 3)(torch.zeros_like(x)), torch.ones(2, 5, 3), ValueError, "must depend on x"),
        (lambda x: (x, None), torch.ones(2, 5, 3), TypeError, r"return one tensor .* got tuple: choose"),
        (lambda x: x, torch.ones(2, 5, 3, dtype=torch.int64), TypeError, "got torch.int64: embed tokens"),
        (lambda x: x, torch.ones(0, 5, 3), ValueError, "at least one sequence"),
        (lambda x: x, [[1.0]], TypeError, "must be a torch.Tensor; got list: make it one"),
    ],
    ids=["other tensors", "tuple", "tokens", "empty", "list"],
)
def test_what_has_no_gradient_by_its_input_is_refused_with_what_to_do(function, x, error, says):
    with pytest.raises(error, match=says):
        gradient_reach(function, x)


def test_a_function_that_changes_the_length_is_refused():
    with pytest.raises(ValueError, match="must keep batch and time"):
        gradient_reach(lambda x: x[:, 1:], torch.randn(2, 5, 3))
