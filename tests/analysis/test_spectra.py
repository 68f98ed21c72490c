"""Spectra against matrices whose eigenvalues are known."""

import cmath
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from statemix import BDLRU, HLRU
from statemix.analysis import memory_lengths, record_inputs, summarize, transition_spectra

SATURATED = 60.0
"""A gap between logits at which softmax is exactly 0 or 1 in float32."""


def as_sorted(values):
    return sorted(values, key=lambda v: (round(v.real, 4), round(v.imag, 4)))


def assert_same_set(found, wanted, tolerance):
    for one, other in zip(as_sorted(found), as_sorted(wanted), strict=True):
        assert abs(one - other) < tolerance, (found, wanted)


def block_of(permutation):
    """A layer with one block that applies this permutation at every step, and ignores its input."""
    size = len(permutation)
    layer = BDLRU(4, num_blocks=1, block_size=size, selective=False)
    with torch.no_grad():
        layer.gate_logits.zero_()
        for row, column in enumerate(permutation):
            layer.gate_logits[row, column, 0] = SATURATED
    return layer


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_a_cycle_has_the_roots_of_unity(size):
    layer = block_of([(i + 1) % size for i in range(size)])
    spectrum = transition_spectra(layer, torch.randn(2, 3, 4))[""]
    wanted = [cmath.exp(2j * math.pi * k / size) for k in range(size)]
    assert_same_set(spectrum.eigenvalues.flatten().tolist(), wanted, 1e-6)


def test_a_swap_has_one_and_minus_one():
    spectrum = transition_spectra(block_of([1, 0]), torch.randn(1, 1, 4))[""]
    assert_same_set(spectrum.eigenvalues.flatten().tolist(), [1, -1], 1e-6)


@settings(max_examples=30)
@given(st.lists(st.floats(0.05, 1.0), min_size=2, max_size=6))
def test_a_channel_has_the_roots_of_its_polynomial(weights):
    """h_t = sum a_i h_{t-i}: x^m - a_1 x^(m-1) - ... - a_m. The coefficients are weights over their sum."""
    lags = np.array(weights[:-1]) / sum(weights)
    layer = HLRU(4, num_channels=1, order=len(lags), selective=False).double()
    with torch.no_grad():
        layer.gate_logits[:, 0] = torch.tensor(weights, dtype=torch.float64).log()
    spectrum = transition_spectra(layer, torch.zeros(1, 1, 4, dtype=torch.float64))[""]
    polynomial = np.concatenate([[1.0], -lags])
    for eigenvalue in spectrum.eigenvalues.flatten().tolist():
        assert abs(np.polyval(polynomial, eigenvalue)) < 1e-9
    total = sum(spectrum.eigenvalues.flatten().tolist())
    assert abs(total - lags[0]) < 1e-9


def test_every_layer_of_a_model_is_seen_on_its_own_input():
    torch.manual_seed(0)
    model = nn.Sequential(
        BDLRU(4, num_blocks=3, block_size=2), nn.Tanh(), HLRU(4, num_channels=5, order=3), nn.Linear(4, 1)
    )
    x = torch.randn(2, 7, 4)
    spectra = transition_spectra(model, x)
    assert {name: tuple(s.eigenvalues.shape) for name, s in spectra.items()} == {
        "0": (2, 7, 3, 2),
        "2": (2, 7, 5, 3),
    }
    between = torch.tanh(model[0](x))
    wanted = model[2].transition_spectrum(between)
    traces = spectra["2"].eigenvalues.sum(-1).real.float()
    assert torch.allclose(traces, wanted.sum(-1).real, atol=1e-5)


class Residual(nn.Module):
    """A model of a user's own, which adds to its stream in place and projects in the dtype of autocast."""

    def __init__(self):
        super().__init__()
        self.entry, self.layer = nn.Linear(4, 4), BDLRU(4, num_blocks=3, block_size=2, weight_init="fan-in")

    def forward(self, x, scale):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = self.entry(x) * scale
            x += self.layer(x=x)
        return x


def test_a_layer_is_recorded_as_it_was_called_whatever_the_model_does_around_it():
    torch.manual_seed(0)
    model, x = Residual(), torch.randn(2, 7, 4)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = (model.entry(x) * 3).float()
    recorded = record_inputs(model, x, scale=3)["layer"][1]
    assert recorded.dtype == torch.float32 and torch.equal(recorded, wanted)
    found = transition_spectra(model, x, scale=3)["layer"].eigenvalues.sum(-1).real
    traces = torch.einsum("...ii", model.layer.transition(wanted)).double()
    torch.testing.assert_close(found, traces, atol=1e-6, rtol=1e-5)


def test_a_call_that_a_layer_refuses_is_refused_by_the_layer():
    with pytest.raises(TypeError, match=r"x must be a torch\.Tensor"):
        record_inputs(BDLRU(4, num_blocks=3, block_size=2), [1.0])
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
        record_inputs(BDLRU(4, num_blocks=3, block_size=2))


def test_recording_leaves_no_hook_behind_even_after_an_error():
    layer = BDLRU(4, num_blocks=3, block_size=2)
    with pytest.raises(ValueError, match="x must be"):
        record_inputs(layer, torch.randn(2, 7, 5))
    record_inputs(layer, torch.randn(2, 7, 4))
    assert not layer._forward_pre_hooks


def test_what_is_no_module_is_refused_with_what_to_give():
    layer = BDLRU(4, num_blocks=3, block_size=2)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, .* got method: give the module"):
        transition_spectra(layer.step, torch.randn(2, 4))


def test_a_model_without_recurrent_layers_is_refused():
    with pytest.raises(ValueError, match="holds 0 recurrent layers"):
        transition_spectra(nn.Linear(4, 4), torch.randn(2, 4))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_transition_that_is_no_number_spoils_its_own_eigenvalues_alone(bad, capfd):
    torch.manual_seed(0)
    layer, x = BDLRU(8, num_blocks=2, block_size=3), torch.randn(1, 4, 8)
    wanted = layer.transition_spectrum(x)
    x[0, 1] = bad
    for found in (layer.transition_spectrum(x), transition_spectra(layer, x)[""].eigenvalues):
        assert found[0, 1].isnan().all()
        kept = torch.tensor([0, 2, 3])
        torch.testing.assert_close(found[0, kept].abs(), wanted[0, kept].abs(), check_dtype=False)
    assert "ERROR" not in "".join(capfd.readouterr())


def test_shares_count_blocks_not_eigenvalues():
    cycle = [1, cmath.exp(2j * math.pi / 3), cmath.exp(-2j * math.pi / 3)]
    swap = [1, -1, 1]
    fading = [0.5, 0.25, 0.1]
    still = [1, 1, 1]
    summary = summarize(torch.tensor([cycle, swap, fading, still]))
    assert summary.complex_share == 0.25
    assert summary.negative_share == 0.5
    assert summary.radius == pytest.approx(1)
    assert summary.mean_magnitude == pytest.approx((9 + 0.85) / 12)


def test_an_eigenvalue_that_rounding_made_complex_does_not_count():
    assert summarize(torch.tensor([[0.5 + 1e-5j, 0.5 - 1e-5j]])).complex_share == 0


def test_random_softmax_blocks_turn_as_often_as_is_known():
    """Shares from the mathematics of the model: 0, 27 and 60 % at sizes 2, 3 and 4."""
    torch.manual_seed(0)
    for size, share in ((2, 0.0), (3, 0.27), (4, 0.60)):
        blocks = torch.softmax(torch.randn(4000, size, size + 1, dtype=torch.float64), -1)[..., :size]
        found = summarize(torch.linalg.eigvals(blocks), tolerance=1e-9).complex_share
        assert found == pytest.approx(share, abs=0.025)


def test_eigenvalues_of_single_states_may_be_real():
    found = summarize(torch.tensor([[0.5], [-0.25]]))
    assert (found.complex_share, found.negative_share, found.radius) == (0.0, 0.5, 0.5)


def test_no_blocks_are_refused():
    for shape in ((0, 3), ()):
        with pytest.raises(ValueError, match="at least one block"):
            summarize(torch.zeros(shape, dtype=torch.complex128))


@given(st.floats(0.01, 0.999))
def test_after_its_memory_length_a_mode_has_fallen_to_one_over_e(magnitude):
    steps = memory_lengths(torch.tensor([magnitude], dtype=torch.float64)).item()
    assert magnitude**steps == pytest.approx(math.exp(-1))
