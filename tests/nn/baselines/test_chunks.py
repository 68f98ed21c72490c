"""The chunked kernels of Mamba-2 and RWKV-7 against their recurrences: gradients, and float32 at the limits."""

import pytest
import torch
import torch.nn.functional as F

from statemix.nn.baselines._diagonal_plus_low_rank import diagonal_plus_low_rank
from statemix.nn.baselines._linear_attention import linear_attention


def linear_attention_loop(q, k, v, log_a, S):
    outputs = []
    for t in range(q.shape[1]):
        S = log_a[:, t, :, None, None].exp() * S + k[:, t, :, :, None] * v[:, t, :, None]
        outputs.append((q[:, t, :, None] @ S)[:, :, 0])
    return torch.stack(outputs, 1), S


def low_rank_loop(q, k, v, b, a, log_w, S):
    outputs = []
    for t in range(q.shape[1]):
        corrected = b[:, t, :, :, None] @ (a[:, t, :, None] @ S)
        S = log_w[:, t, :, :, None].exp() * S + corrected + k[:, t, :, :, None] * v[:, t, :, None]
        outputs.append((q[:, t, :, None] @ S)[:, :, 0])
    return torch.stack(outputs, 1), S


def attention_arguments(time, dtype, steepness):
    torch.manual_seed(time)
    q, k, v = (torch.randn(2, time, 2, n, dtype=dtype) for n in (5, 5, 4))
    return [q, k, v, -steepness * torch.rand(2, time, 2, dtype=dtype), torch.randn(2, 2, 5, 4, dtype=dtype)]


def low_rank_arguments(time, dtype, steepness):
    torch.manual_seed(time)
    q, k, v, b, a = (torch.randn(2, time, 2, n, dtype=dtype) for n in (5, 5, 4, 5, 5))
    a = F.normalize(a, dim=-1)
    # A removal along a, more or less of it in each channel, as RWKV-7 makes it.
    b = -a * b.sigmoid()
    log_w = -steepness * torch.rand(2, time, 2, 5, dtype=dtype)
    return [q, k, v, b, a, log_w, torch.randn(2, 2, 5, 4, dtype=dtype)]


KERNELS = {
    "linear attention": (linear_attention, linear_attention_loop, attention_arguments, 30.0),
    # e^-0.5 is the fastest decay of RWKV-7.
    "diagonal plus low rank": (diagonal_plus_low_rank, low_rank_loop, low_rank_arguments, 0.6066),
}


@pytest.mark.parametrize("time", [1, 31, 32, 33, 130])
@pytest.mark.parametrize("name", KERNELS)
def test_chunks_are_the_recurrence_and_so_are_their_gradients(name, time):
    kernel, loop, arguments, _ = KERNELS[name]
    given = [x.requires_grad_() for x in arguments(time, torch.float64, 0.5)]
    got, wanted = kernel(*given), loop(*given)
    cotangents = [torch.randn_like(x) for x in wanted]
    pairs = (torch.autograd.grad(out, given, cotangents) for out in (got, wanted))
    for one, other in zip((*got, *next(pairs)), (*wanted, *next(pairs)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", KERNELS)
def test_float32_holds_at_the_steepest_decay_and_without_any(name):
    kernel, loop, arguments, steepest = KERNELS[name]
    for steepness in (0.0, steepest):
        given = arguments(300, torch.float32, steepness)
        for got, wanted in zip(kernel(*given), loop(*(x.double() for x in given)), strict=True):
            assert (got.double() - wanted).norm() / wanted.norm() < 1e-5
