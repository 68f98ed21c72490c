"""Layers against their published equations, one token after the other in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from statemix.nn.baselines import (
    LRU,
    MLSTM,
    PDSSM,
    RGLRU,
    RWKV7,
    CausalAttention,
    Mamba,
    Mamba2,
    MinGRU,
    SelectiveLRU,
    pdssm,
)

from .published import convolved, drawn

WIDTH = 12


def outputs(layer, time=70, batch=2):
    """A layer with weights drawn anew, its input, and its output."""
    layer = drawn(layer)
    x = torch.randn(batch, time, WIDTH, dtype=torch.float64)
    return layer, x, layer(x)


def same(got, wanted):
    torch.testing.assert_close(got, torch.stack(wanted, 1), rtol=1e-9, atol=1e-10)


def test_an_lru_is_its_published_recurrence():
    layer, x, y = outputs(LRU(WIDTH, hidden_size=5))
    eigenvalue = torch.exp(torch.complex(-layer.log_rate.exp(), layer.phase))
    B_real, B_imaginary = layer.value.weight.chunk(2)
    C_real, C_imaginary = layer.output.weight.chunk(2, 1)
    # The imaginary part of h is weighted with +, that of C h with -: C is C_real - i C_imaginary.
    B, C = torch.complex(B_real, B_imaginary), torch.complex(C_real, -C_imaginary)
    h = torch.zeros(2, 5, dtype=torch.complex128)
    wanted = []
    for t in range(70):
        h = eigenvalue * h + layer.log_scale.exp() * (x[:, t].to(B.dtype) @ B.T)
        wanted.append((h @ C.T).real + layer.skip * x[:, t])
    same(y, wanted)


def test_an_lru_starts_on_its_ring_with_inputs_scaled_to_it():
    layer = LRU(WIDTH, hidden_size=1000)
    size = (-layer.log_rate.exp()).exp()
    assert 0.9 <= size.min() < 0.901
    assert 0.998 < size.max() <= 0.999
    torch.testing.assert_close(layer.log_scale.exp(), (1 - size**2).sqrt(), rtol=1e-3, atol=1e-5)
    # Uniform on the ring: |l|^2 is uniform.
    assert abs((size**2).mean() - (0.81 + 0.998) / 2) < 0.01


def test_a_selective_lru_is_its_published_recurrence():
    layer, x, y = outputs(SelectiveLRU(WIDTH, hidden_size=5))
    log_eigenvalue = torch.complex(-layer.log_rate.exp(), layer.phase)
    B = torch.complex(*layer.value.weight.chunk(2))
    C = torch.complex(layer.output.weight[:, :5], -layer.output.weight[:, 5:])
    h = torch.zeros(2, 5, dtype=torch.complex128)
    wanted = []
    for t in range(70):
        turn, entering = layer.gates(x[:, t]).sigmoid().chunk(2, 1)
        now = torch.exp(log_eigenvalue * 2 * turn)
        h = now * h + (1 - now.abs() ** 2).sqrt() * entering * (x[:, t].to(B.dtype) @ B.T)
        wanted.append((h @ C.T).real + layer.skip * x[:, t])
    same(y, wanted)


def test_a_selective_lru_at_half_open_gates_decays_as_the_lru():
    torch.manual_seed(0)
    plain, selective = LRU(WIDTH, hidden_size=5), SelectiveLRU(WIDTH, hidden_size=5)
    with torch.no_grad():
        selective.log_rate.copy_(plain.log_rate)
        selective.phase.copy_(plain.phase)
        selective.gates.weight.zero_()
    (one, other), _ = selective._transition(torch.randn(1, 1, WIDTH))
    (real, imaginary), _ = plain._transition(torch.randn(1, 1, WIDTH))
    torch.testing.assert_close(one, real)
    torch.testing.assert_close(other, imaginary)


@pytest.mark.parametrize("published", [True, False])
def test_rg_lru_is_its_published_recurrence(published):
    layer, x, y = outputs(RGLRU(WIDTH, hidden_size=5, convolution=published, output_gate=published))
    u = layer.value(x)
    if published:
        taps, bias = layer.convolution.weight.T[:, None], layer.convolution.bias
        u = F.conv1d(F.pad(u.mT, (3, 0)), taps, bias, groups=5).mT
    h, wanted = torch.zeros(2, 5, dtype=x.dtype), []
    for t in range(70):
        r, i = layer.gates(u[:, t]).sigmoid().chunk(2, 1)
        a = layer.retention.sigmoid() ** (8 * r)
        h = a * h + (1 - a**2).sqrt() * i * u[:, t]
        read = h * F.gelu(layer.output_gate(x[:, t])) if published else h
        wanted.append(layer.output(read))
    same(y, wanted)


def test_rg_lru_starts_by_keeping_nine_tenths_or_more():
    kept = RGLRU(WIDTH, hidden_size=1000).retention.sigmoid() ** 8
    assert 0.9 <= kept.min() < 0.901
    assert 0.998 < kept.max() <= 0.9991


@pytest.mark.parametrize("kind", [RGLRU, SelectiveLRU])
def test_gates_that_close_fully_keep_gradients_finite(kind):
    layer = kind(WIDTH, hidden_size=5)
    with torch.no_grad():
        # r = 0 to the last bit: |a| = 1, and nothing enters.
        layer.gates.bias[:5] = -200.0
    x = torch.randn(1, 9, WIDTH, requires_grad=True)
    layer(x).square().sum().backward()
    for tensor in (x, *layer.parameters()):
        assert torch.isfinite(tensor.grad).all()


def test_mingru_is_its_published_recurrence():
    layer, x, y = outputs(MinGRU(WIDTH, hidden_size=5))
    h, wanted = torch.zeros(2, 5, dtype=x.dtype), []
    for t in range(70):
        z = layer.gate(x[:, t]).sigmoid()
        h = (1 - z) * h + z * layer.value(x[:, t])
        wanted.append(layer.output(h))
    same(y, wanted)


@pytest.mark.parametrize("published", [True, False])
def test_mamba_is_its_published_recurrence(published):
    layer, x, y = outputs(Mamba(WIDTH, state_size=3, convolution=published, output_gate=published))
    u = layer.value(x)
    u = convolved(u, layer.convolution) if published else F.silu(u)
    h, wanted = torch.zeros(2, 24, 3, dtype=x.dtype), []
    for t in range(70):
        low, B, C = layer.selection(u[:, t]).split([1, 3, 3], 1)
        step = F.softplus(layer.step_size(low))
        h = torch.exp(step[..., None] * -layer.log_rate.exp()) * h
        h = h + step[..., None] * B[:, None] * u[:, t, :, None]
        read = (h * C[:, None]).sum(2) + layer.skip * u[:, t]
        wanted.append(layer.output(read * F.silu(layer.output_gate(x[:, t])) if published else read))
    same(y, wanted)


@pytest.mark.parametrize("published", [True, False])
def test_mamba2_is_its_published_recurrence(published):
    made = Mamba2(WIDTH, state_size=3, head_dim=8, convolution=published, output_gate=published)
    layer, x, y = outputs(made)
    mixed = layer.selection(x)
    mixed = convolved(mixed, layer.convolution) if published else F.silu(mixed)
    S, wanted = torch.zeros(2, 3, 3, 8, dtype=x.dtype), []
    for t in range(70):
        u, B, C = mixed[:, t].split([24, 3, 3], 1)
        u = u.view(2, 3, 8)
        step = F.softplus(layer.decay(x[:, t]) + layer.decay_bias)
        decay = torch.exp(-step * layer.decay_rate.exp())
        S = decay[:, :, None, None] * S + (step[..., None] * u)[:, :, None] * B[:, None, :, None]
        read = (torch.einsum("bhnp,bn->bhp", S, C) + layer.skip[:, None] * u).flatten(1)
        read = read * F.silu(layer.output_gate(x[:, t])) if published else read
        wanted.append(layer.output(read / (read.square().mean(1, True) + 1e-5).sqrt() * layer.norm.weight))
    same(y, wanted)


@pytest.mark.parametrize("gated", [True, False])
def test_mlstm_is_its_published_recurrence(gated):
    layer, x, y = outputs(MLSTM(WIDTH, num_heads=2, output_gate=gated))
    C, n = torch.zeros(2, 2, 6, 6, dtype=x.dtype), torch.zeros(2, 2, 6, dtype=x.dtype)
    wanted = []
    for t in range(70):
        q, k, v = layer.query_key_value(x[:, t]).view(2, 3, 2, 6).unbind(1)
        i, f = (15 * torch.tanh(layer.gates(x[:, t]) / 15)).chunk(2, 1)
        i, f = i.exp()[..., None], f.sigmoid()[..., None]
        C = f[..., None] * C + i[..., None] * v[..., :, None] * k[..., None, :]
        n = f * n + i * k
        q = q / math.sqrt(6)
        h = torch.einsum("bhvk,bhk->bhv", C, q) / (n * q).sum(2, True).abs().clamp(min=1)
        h = F.layer_norm(h, (6,), eps=1e-6).flatten(1) * layer.norm.weight + layer.norm.bias
        wanted.append(layer.output(h * layer.output_gate(x[:, t]).sigmoid() if gated else h))
    same(y, wanted)


def test_the_range_that_mlstm_takes_out_keeps_float32_finite():
    layer = MLSTM(WIDTH, num_heads=2)
    with torch.no_grad():
        # Input gates near exp(15), and states that forget nothing.
        layer.gates.bias.copy_(torch.tensor([200.0, 200.0, 100.0, 100.0]))
    x = torch.randn(1, 200, WIDTH, requires_grad=True)
    y, (memory, exponent) = layer(x, return_state=True)
    y.square().sum().backward()
    assert torch.isfinite(y).all() and torch.isfinite(memory).all() and torch.isfinite(x.grad).all()
    assert (exponent > 14.9).all()


def test_rwkv7_is_its_published_recurrence():
    layer, x, y = outputs(RWKV7(WIDTH, num_heads=2))
    S, wanted, before = torch.zeros(2, 2, 6, 6, dtype=x.dtype), [], torch.zeros(2, WIDTH, dtype=x.dtype)
    heads = lambda z: z.view(2, 2, 6)  # noqa: E731
    for t in range(70):
        now = x[:, t]
        r, w, k, v, a, g = (now + (before - now) * layer.shift[j] for j in range(6))
        r, k, v = heads(layer.receptance(r)), layer.key(k), heads(layer.value(v))
        d = layer.decay
        w = heads(torch.exp(-math.exp(-0.5) * (d.up(torch.tanh(d.down(w)))).sigmoid()))
        a = layer.rate.up(layer.rate.down(a)).sigmoid()
        g = layer.gate.up(layer.gate.down(g).sigmoid())
        removal = heads(k * layer.removal)
        removal = removal / removal.norm(dim=2, keepdim=True)
        k = heads(k * (1 + (a - 1) * layer.lean))
        # S has a row a value and a column a key, as the paper writes it.
        transition = torch.diag_embed(w) - removal[..., :, None] * (heads(a) * removal)[..., None, :]
        S = S @ transition + v[..., :, None] * k[..., None, :]
        read = F.group_norm((S @ r[..., None]).flatten(1), 2, layer.norm.weight, layer.norm.bias, 6e-5)
        read = read + ((r * layer.bonus * k).sum(2, True) * v).flatten(1)
        wanted.append(layer.output(read * g))
        before = now
    same(y, wanted)


def test_pd_ssm_is_its_published_recurrence():
    layer, x, y = outputs(PDSSM(WIDTH, hidden_size=5, dictionary_size=3))
    h = torch.zeros(2, 5, dtype=torch.complex128)
    h[:, 0] = 1
    B = torch.complex(*layer.value.weight.chunk(2))
    wanted = []
    for t in range(70):
        shares = layer.choice(x[:, t]).softmax(1)
        mixed = sum(shares[:, j, None, None] * layer.dictionary[j] for j in range(3))
        P = torch.zeros(2, 5, 5, dtype=torch.complex128)
        for row in range(2):
            for column in range(5):
                P[row, mixed[row, column].argmax(), column] = 1
        D = layer.magnitude(x[:, t]).sigmoid() * torch.exp(2j * math.pi * layer.phase(x[:, t]).sigmoid())
        h = (P @ (D * h)[..., None])[..., 0] + x[:, t].to(B.dtype) @ B.T
        read = layer.output(torch.cat([h.real, h.imag], 1)) + layer.skip * x[:, t]
        wanted.append(F.layer_norm(read, (WIDTH,), layer.norm.weight, layer.norm.bias))
    same(y, wanted)


def test_pd_ssm_learns_through_the_softmax_of_its_columns():
    layer, x, _ = outputs(PDSSM(WIDTH, hidden_size=4, dictionary_size=3))
    shares = layer.choice(x[:, :3]).softmax(-1)
    got = layer._one_hot(shares)
    assert ((got == 0) | (got == 1)).all() and (got.sum(-1) == 1).all()
    weights = torch.randn_like(got)
    (gradient,) = torch.autograd.grad((got * weights).sum(), [layer.dictionary], retain_graph=True)
    soft = torch.einsum("btk,kmn->btmn", shares, layer.dictionary).softmax(-1)
    (wanted,) = torch.autograd.grad((soft * weights).sum(), [layer.dictionary])
    torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("at_once", [1, 100, 250])
def test_pd_ssm_without_gradients_makes_its_matrices_piece_by_piece(at_once, monkeypatch):
    monkeypatch.setattr(pdssm, "_MATRICES_AT_ONCE", at_once)
    layer, x, _ = outputs(PDSSM(WIDTH, hidden_size=5, dictionary_size=3))
    mask = torch.arange(70) < torch.tensor([[70], [33]])
    wanted = layer(x, return_state=True, mask=mask)
    made, whole = [], layer._one_hot
    monkeypatch.setattr(layer, "_one_hot", lambda share: made.append(share.shape[1]) or whole(share))
    with torch.no_grad():
        y, state = layer(x, return_state=True, mask=mask)
    torch.testing.assert_close((y, state), wanted)
    assert sum(made) == 70 and max(made) == max(1, at_once // 50)


def test_rotary_attention_is_its_published_formula_at_far_places_too():
    layer, x, y = outputs(CausalAttention(WIDTH, num_heads=1, rotary=True), time=1000, batch=1)
    query, key, value = (x[0] @ layer.query_key_value.weight.T).chunk(3, 1)
    half = WIDTH // 2
    speeds = torch.tensor([10_000.0 ** (-i / half) for i in range(half)], dtype=torch.float64)
    turn = torch.polar(torch.ones(1, dtype=torch.float64), torch.arange(1000)[:, None] * speeds)
    query, key = (torch.complex(z[:, :half], z[:, half:]) * turn for z in (query, key))
    scores = (query @ key.conj().T).real / math.sqrt(WIDTH)
    seen = torch.ones(1000, 1000, dtype=torch.bool).tril()
    weights = scores.masked_fill(~seen, -math.inf).softmax(1)
    torch.testing.assert_close(y[0], weights @ value @ layer.output.weight.T, rtol=1e-9, atol=1e-10)
