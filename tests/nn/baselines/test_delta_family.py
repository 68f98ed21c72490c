"""DeltaNet, Gated DeltaNet and DeltaProduct against their published equations, step by step in float64."""

import pytest
import torch
import torch.nn.functional as F

from statemix.nn.baselines import DeltaNet, GatedDeltaNet, GatedDeltaProduct
from statemix.nn.baselines._delta_rule import delta_rule

from .published import convolved, drawn, head_norm

LENGTHS = [1, 63, 64, 65, 130]


def recurrence(q, k, v, b, log_a, S):
    """S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T, row by row as written."""
    outputs, identity = [], torch.eye(q.shape[-1], dtype=q.dtype)
    for t in range(q.shape[1]):
        key = k[:, t, :, :, None]
        strength, a = b[:, t, :, None, None], log_a[:, t, :, None, None].exp()
        S = a * ((identity - strength * key @ key.mT) @ S) + strength * key @ v[:, t, :, None]
        outputs.append((q[:, t, :, None] @ S)[:, :, 0])
    return torch.stack(outputs, 1), S


def arguments(time, dtype=torch.float64, steepness=1.0):
    torch.manual_seed(time)
    q, k = (torch.randn(2, time, 3, 5, dtype=dtype) for _ in range(2))
    v = torch.randn(2, time, 3, 4, dtype=dtype)
    b = 2 * torch.rand(2, time, 3, dtype=dtype)
    log_a = -steepness * torch.rand(2, time, 3, dtype=dtype)
    return [q, F.normalize(k, dim=-1), v, b, log_a, torch.randn(2, 3, 5, 4, dtype=dtype)]


@pytest.mark.parametrize("time", LENGTHS)
def test_chunks_are_the_recurrence_and_so_are_their_gradients(time):
    given = [x.requires_grad_() for x in arguments(time)]
    got, wanted = delta_rule(*given), recurrence(*given)
    cotangents = [torch.randn_like(x) for x in wanted]
    gradients = [torch.autograd.grad(out, given, cotangents) for out in (got, wanted)]
    for one, other in zip((*got, *gradients[0]), (*wanted, *gradients[1]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_states_that_vanish_within_a_chunk_neither_overflow_nor_lose_digits():
    given = arguments(100, torch.float32, steepness=30.0)
    wanted = recurrence(*(x.double() for x in given))
    for one, other in zip(delta_rule(*given), wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)


def test_reflections_in_float32_keep_their_length():
    q, k, v, _, _, S = arguments(512, torch.float32)
    b, log_a = torch.full(q.shape[:3], 2.0), torch.zeros(q.shape[:3])
    _, end = delta_rule(q, k, torch.zeros_like(v), b, log_a, S)
    torch.testing.assert_close(end.norm(dim=2), S.norm(dim=2), rtol=1e-4, atol=1e-4)


def layer_by_equations(layer, x):
    """The whole layer, one token after the other."""
    H, n = layer.num_heads, layer.householder_steps
    inner = H * layer.head_dim
    mixed = x @ layer.query_key_value.weight.T
    mixed = F.silu(mixed) if layer.convolution is None else convolved(mixed, layer.convolution)
    query, key, value = mixed.split([inner, n * inner, n * inner], -1)
    unit = lambda z: z / (z.square().sum(-1, keepdim=True) + 1e-6).sqrt()  # noqa: E731
    b = layer.strongest * (x @ layer.strength.weight.T).sigmoid()
    S = x.new_zeros(x.shape[0], H, layer.head_dim, layer.head_dim)
    if layer.initial_state is not None:
        S = S + layer.initial_state[0]
    outputs = []
    for t in range(x.shape[1]):
        if layer.decay is not None:
            rate = layer.decay_rate.exp() * F.softplus(x[:, t] @ layer.decay.weight.T + layer.decay_bias)
            S = (-rate).exp()[:, :, None, None] * S
        for j in range(n):
            part = slice(j * inner, (j + 1) * inner)
            k = unit(key[:, t, part].unflatten(-1, (H, -1)))[..., None]
            v = value[:, t, part].unflatten(-1, (H, -1))[..., None]
            strength = b[:, t, j * H : (j + 1) * H, None, None]
            S = S - strength * k @ (k.mT @ S) + strength * k @ v.mT
        q = unit(query[:, t].unflatten(-1, (H, -1))) / layer.head_dim**0.5
        gate = None if layer.gate is None else (x[:, t] @ layer.gate.weight.T).unflatten(-1, (H, -1))
        read = head_norm((q[:, :, None] @ S)[:, :, 0], layer.norm, gate)
        outputs.append(read.flatten(1) @ layer.output.weight.T)
    return torch.stack(outputs, 1)


LAYERS = {
    "deltanet": lambda: DeltaNet(12, head_dim=4),
    "deltanet [-1, 1], no convolution, gated output": lambda: DeltaNet(
        12, num_heads=2, negative_eigenvalues=True, convolution=False, output_gate=True
    ),
    "gated deltanet": lambda: GatedDeltaNet(12, num_heads=3, initial_state="learned"),
    "gated deltanet, bare": lambda: GatedDeltaNet(12, convolution=False, output_gate=False),
    "deltaproduct": lambda: GatedDeltaProduct(12, num_heads=2),
    "deltaproduct of three in (0, 1)": lambda: GatedDeltaProduct(
        12, num_heads=3, householder_steps=3, negative_eigenvalues=False
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_its_equations(name):
    layer = drawn(LAYERS[name]())
    x = torch.randn(2, 70, 12, dtype=torch.float64)
    torch.testing.assert_close(layer(x), layer_by_equations(layer, x), rtol=1e-9, atol=1e-10)


def test_deltaproduct_of_one_factor_is_gated_deltanet():
    product = drawn(GatedDeltaProduct(12, num_heads=2, householder_steps=1, negative_eigenvalues=False))
    single = GatedDeltaNet(12, num_heads=2).double()
    single.load_state_dict(product.state_dict())
    x = torch.randn(1, 9, 12, dtype=torch.float64)
    torch.testing.assert_close(product(x), single(x))


def test_negative_eigenvalues_solve_what_positive_ones_cannot():
    """Parity: x = 1 must flip the sign of the state, which needs the eigenvalue -1 along k."""
    for negative in (True, False):
        k = torch.zeros(1, 8, 1, 4, dtype=torch.float64)
        k[..., 0] = 1
        strength = (2.0 if negative else 1.0) * torch.ones(1, 8, 1, dtype=torch.float64)
        S = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
        S[..., 0, 0] = 1
        read, _ = delta_rule(k, k, torch.zeros_like(k), strength, torch.zeros_like(strength), S)
        flips = torch.tensor([-1.0, 1.0] * 4, dtype=torch.float64)
        assert torch.allclose(read[0, :, 0, 0], flips) == negative


def test_fla_that_cannot_run_says_why():
    layer = DeltaNet(8, backend="fla")
    with pytest.raises(ValueError, match="backend 'fla' cannot run: "):
        layer(torch.randn(1, 3, 8))
