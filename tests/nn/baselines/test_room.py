"""Attention's cache with room behind it: states are what they were, and a step copies nothing of them."""

import copy
import threading

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from statemix.nn.baselines import CausalAttention, _room

WIDTH, HEADS = 12, 2


def layer(**options) -> CausalAttention:
    torch.manual_seed(0)
    made = CausalAttention(WIDTH, num_heads=HEADS, **options)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return made


def concatenated(attention: CausalAttention, x, state) -> tuple:
    """Steps as they are with gradients: every state is a new concatenation."""
    outputs = []
    with torch.enable_grad():
        for token in x.unbind(1):
            y, state = attention.step(token, state)
            outputs.append(y)
    return torch.stack(outputs, 1), state


def same(one, other) -> None:
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "options", [{}, {"rotary": True}, {"initial_state": "learned"}, {"head_dim": 3}], ids=str
)
@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_states_and_outputs_are_those_of_concatenation(options, padded):
    attention, x = layer(**options).double(), torch.randn(3, 40, WIDTH).double()
    mask = torch.arange(5) >= torch.tensor([[0], [2], [4]]) if padded else None
    _, start = attention(x[:, :5], return_state=True, mask=mask)
    wanted, wanted_end = concatenated(attention, x[:, 5:], start)
    found, state = [], start
    for token in x[:, 5:20].unbind(1):
        y, state = attention.step(token, state)
        found.append(y[:, None])
    for piece in (x[:, 20:21], x[:, 21:28], x[:, 28:28], x[:, 28:]):  # as generate and chunked prefill read
        y, state = attention(piece, state, return_state=True)
        found.append(y)
    torch.testing.assert_close(torch.cat(found, 1), wanted)
    for a, b in zip(state, wanted_end, strict=True):
        torch.testing.assert_close(a, b)


class Copies(TorchDispatchMode):
    """The elements of everything that was copied or concatenated, each time."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.copy_, torch.ops.aten.cat, torch.ops.aten.clone):
            self.sizes.append(found.numel())
        return found


@torch.no_grad()
def test_a_step_writes_its_own_place_and_the_cache_moves_once_in_many():
    attention = layer()
    _, state = attention(torch.randn(2, 700, WIDTH), return_state=True)
    moves, states = 0, []
    for _ in range(600):
        with Copies() as copies:
            _, state = attention.step(torch.randn(2, WIDTH), state)
        moves += max(copies.sizes) > 2 * WIDTH
        states.append(state)  # all are kept, so that no address is used twice
    buffers = {state[0].data_ptr() for state in states}
    assert moves == len(buffers) == 3  # 256 places each
    with Copies() as copies, torch.enable_grad():
        attention.step(torch.randn(2, WIDTH), state)
    assert max(copies.sizes) == 2 * WIDTH * 1301  # what is counted does see a concatenation
    _, state = attention(torch.randn(2, 1, WIDTH), return_state=True)
    rooms = {attention.step(torch.randn(2, WIDTH), state)[1][0].untyped_storage().nbytes()}
    assert rooms == {4 * 2 * WIDTH * 4}  # short caches double


@torch.no_grad()
def test_a_state_may_be_gone_on_from_many_times():
    attention, x = layer(), torch.randn(2, 12, WIDTH)
    _, state = attention(x[:, :4], return_state=True)
    _, state = attention.step(x[:, 4], state)
    before = [tensor.clone() for tensor in state]
    branches = []
    for token in range(5, 9):
        branches.append(attention.step(x[:, token], state)[1])
    for round in range(3):
        branches = [attention.step(x[:, 9 + round], branch)[1] for branch in branches]
    same(state, before)
    for token, branch in zip(range(5, 9), branches, strict=True):
        way = torch.cat([x[:, :5], x[:, token, None], x[:, 9:]], 1)
        for a, b in zip(branch, attention(way, return_state=True)[1], strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_a_state_that_was_put_together_takes_no_room_of_another():
    attention, x = layer(), torch.randn(2, 8, WIDTH)
    states = []
    for scale in (1, 2):
        _, state = attention(scale * x[:, :4], return_state=True)
        states.append(attention.step(scale * x[:, 4], state)[1])
    one, other = states
    for mixed in (
        (one[0], other[1], one[2]),
        (one[0], one[1], torch.zeros_like(one[2])),
        tuple(tensor.flip(0) for tensor in one),
        copy.deepcopy(one),
        tuple(tensor[:1] for tensor in one),
    ):
        token = x[: len(mixed[0]), 5]
        wanted, wanted_end = concatenated(attention, token[:, None], mixed)
        y, end = attention.step(token, mixed)
        torch.testing.assert_close(y, wanted[:, 0], atol=1e-6, rtol=1e-5)
        for a, b in zip(end, wanted_end, strict=True):
            torch.testing.assert_close(a, b)
    with pytest.raises(ValueError, match="state must be"):
        attention.step(x[:1, 5], other)


def test_inference_mode_gradients_and_dtypes_may_change_on_the_way():
    attention, x = layer(), torch.randn(2, 9, WIDTH)
    with torch.inference_mode():
        _, state = attention(x[:, :3], return_state=True)
        _, state = attention.step(x[:, 3], state)
    with torch.no_grad():
        _, state = attention.step(x[:, 4], state)
    with torch.inference_mode():
        _, state = attention.step(x[:, 5], state)
    with torch.no_grad():
        _, state = attention.step(x[:, 6], state)
    y, state = attention.step(x[:, 7], state)
    y.sum().backward()
    assert attention.query_key_value.weight.grad.abs().sum() > 0
    with torch.no_grad():
        last, state = attention.step(x[:, 8], state)
        torch.testing.assert_close(last, attention(x)[:, -1], atol=1e-6, rtol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            y, state = attention.step(x[:, 8], state)
        assert state[0].dtype == torch.bfloat16
        assert attention.step(x[:, 8], state)[1][0].dtype == torch.float32


@torch.no_grad()
def test_a_buffer_lives_as_long_as_its_states():
    attention = layer()
    _, state = attention(torch.randn(2, 3, WIDTH), return_state=True)
    rooms = len(_room._ROOMS)
    for _ in range(20):
        _, state = attention.step(torch.randn(2, WIDTH), state)
        assert len(_room._ROOMS) == rooms + 1
    del state
    assert len(_room._ROOMS) == rooms


@torch.no_grad()
def test_threads_that_share_a_beginning_stay_apart():
    attention, x = layer(), torch.randn(8, 2, 12, WIDTH)
    x[:, :, :5] = x[0, :, :5]
    _, shared = attention(x[0, :, :4], return_state=True)
    _, shared = attention.step(x[0, :, 4], shared)
    found = {}

    @torch.no_grad()
    def go_on(thread: int) -> None:
        state = shared
        for token in x[thread, :, 5:].unbind(1):
            found[thread], state = attention.step(token, state)

    threads = [threading.Thread(target=go_on, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for thread in range(8):
        torch.testing.assert_close(found[thread], attention(x[thread])[:, -1], atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_a_traced_step_holds_no_state_of_its_trace():
    from torch.fx.experimental.proxy_tensor import make_fx

    attention, x = layer(), torch.randn(2, 6, WIDTH)
    states = []
    for scale in (1, 2):
        _, state = attention(scale * x[:, :4], return_state=True)
        states.append(attention.step(scale * x[:, 4], state)[1])
    traced = make_fx(lambda token, state: attention.step(token, state))(x[:, 5], states[0])
    y, state = traced(x[:, 5], states[1])
    wanted, wanted_end = attention.step(x[:, 5], states[1])
    assert torch.equal(y, wanted)
    same(state, wanted_end)
