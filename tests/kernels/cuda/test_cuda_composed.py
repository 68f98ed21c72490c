"""Kernels that the rule would not choose for problems as small as these: composed maps, wide rings."""

from dataclasses import replace

import pytest
import torch

from statemix.kernels.cuda import launch, rule
from tests.kernels.cuda.gpu_checks import (
    NEEDS_GPU,
    NORMALIZATIONS,
    PACKED,
    check,
    check_parts,
    force,
    force_shape,
    kernels,
    outputs_start_as_nan,  # noqa: F401
    problem,
)

pytestmark = NEEDS_GPU


EXCHANGES = tuple(exchange for exchange in rule.COMPOSED if "long" not in exchange)
WINDOWS = [(exchange, m) for exchange in EXCHANGES for m in range(1, 9 if "ring" in exchange else 6)]


def composed(monkeypatch, exchange, count):
    """Warps compose maps in `count` thread blocks of a tile; by which exchange they travel."""

    def adapt(candidate, direction, batch, width, device):
        tiles = batch * -(-width // candidate.tile)
        room = device.multiprocessors // tiles - 1 if candidate.conducted else 8  # conducted, all run at once
        return replace(candidate, cluster=min(count, room))

    force_shape(monkeypatch, exchange, adapt)


@pytest.fixture(params=[1, 3, 7], ids=lambda count: f"{count} thread blocks")
def thread_blocks(request):
    return request.param


@pytest.mark.parametrize("exchange, m", WINDOWS)
def test_composed_windows_of_every_order(monkeypatch, thread_blocks, exchange, m):
    composed(monkeypatch, exchange, thread_blocks)
    for batch, steps, width, dtype in (
        (2, 1500 if m < 3 else 700, 33, torch.bfloat16),
        (1, 301, 16, torch.float32),
    ):
        check("hlru", m, batch, steps, width, dtype)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("exchange", EXCHANGES)
def test_composed_windows_of_every_normalization_and_dtype(
    monkeypatch, thread_blocks, exchange, normalization
):
    composed(monkeypatch, exchange, thread_blocks)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        check("bdlru", 1, 1, 700, 40, dtype, normalization=normalization)
        check("hlru", 4, 1, 700, 40, dtype, normalization=normalization)


@pytest.mark.parametrize("exchange, m", [(exchange, m) for exchange in EXCHANGES for m in (1, 2, 3, 4)])
def test_composed_windows_of_short_packed_and_broadcast_problems(monkeypatch, thread_blocks, exchange, m):
    composed(monkeypatch, exchange, thread_blocks)
    for width in (17, 24):  # whose results leave by elements, and as matrices
        for steps in (1, 2, 15, 48, 49):
            check("hlru", m, 1, steps, width)
        check("hlru", m, 1, PACKED[-1], width, cu_seqlens=PACKED, states=True)
    check("hlru", m, 2, 150, 24, logits_batch=1)
    check("hlru", m, 2, 150, 24, logits_steps=1)


@pytest.mark.parametrize("exchange, m", [(exchange, m) for exchange in EXCHANGES for m in (2, 3, 4)])
def test_composed_blocks_of_every_size(monkeypatch, thread_blocks, exchange, m):
    composed(monkeypatch, exchange, thread_blocks)
    check("bdlru", m, 2, 1000, 33)
    check("bdlru", m, 1, 301, 16, torch.float32)
    for width in (17, 24):  # whose results leave by elements, and as matrices
        for steps in (1, 2, 9, 23, 24, 25, 48, 49):  # ends inside and between chunks, pairs and teams
            check("bdlru", m, 1, steps, width)
        check("bdlru", m, 1, PACKED[-1], width, cu_seqlens=PACKED, states=True)
    check("bdlru", m, 2, 150, 24, logits_batch=1)
    check("bdlru", m, 2, 150, 24, logits_steps=1)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("exchange, m", [(exchange, m) for exchange in EXCHANGES for m in (2, 3, 4)])
def test_composed_blocks_of_every_normalization_and_dtype(monkeypatch, exchange, m, normalization):
    composed(monkeypatch, exchange, 3)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        check("bdlru", m, 1, 400, 40, dtype, normalization=normalization)


@pytest.mark.parametrize("family, m", [("bdlru", 3), ("hlru", 1), ("hlru", 4)])
@pytest.mark.parametrize("exchange", EXCHANGES)
def test_composed_maps_of_parts_of_wider_rows(monkeypatch, exchange, family, m):
    composed(monkeypatch, exchange, 3)
    check_parts(family, m, 2, 301, 40)


@pytest.mark.parametrize("family, m", [("bdlru", 4), ("hlru", 1), ("hlru", 5)])
def test_a_conductor_of_more_thread_blocks_than_it_has_warps(monkeypatch, family, m):
    composed(monkeypatch, "conducted halves", 32)
    check(family, m, 1, 9000, 32)
    check(family, m, 1, PACKED[-1], 20, cu_seqlens=PACKED, states=True)


@pytest.mark.parametrize("exchange", ["ring", "ring halves"])
@pytest.mark.parametrize("family, m", [("bdlru", 3), ("hlru", 2)])
def test_many_tiles_whose_neighbours_lie_apart(monkeypatch, thread_blocks, exchange, family, m):
    composed(monkeypatch, exchange, thread_blocks)
    check(family, m, 3, 200, 344, states=True)


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("family, m", [("bdlru", 2), ("bdlru", 4), ("hlru", 1), ("hlru", 2), ("hlru", 5)])
def test_composed_maps_give_the_same_bits_at_every_run(monkeypatch, exchange, family, m):
    composed(monkeypatch, exchange, 6)
    arguments = problem(family, m, 1, 9000, 256)
    forward, backward = kernels(family).forward, kernels(family).backward
    hidden, final = forward(*arguments)
    gradients = backward(*arguments[:4], hidden, hidden, final, arguments[4])
    for _ in range(30):
        assert torch.equal(forward(*arguments)[0], hidden)
        again = backward(*arguments[:4], hidden, hidden, final, arguments[4])
        assert all(torch.equal(a, b) for a, b in zip(again, gradients, strict=True))


@pytest.mark.parametrize("m", [1, 2, 4, 8, 16])
def test_windows_that_go_round_a_cluster(monkeypatch, m):
    def choose(family, direction, m, dtype, normalization, batch, *rest, **options):
        wide = rule.choose(family, direction, m, dtype, normalization, 64, *rest, **options)
        return replace(wide, cluster=3)

    force(monkeypatch, choose)
    check("hlru", m, 1, 1100, 64)


def test_thread_blocks_that_wait_for_each_other_do_so_on_many_streams_at_once():
    arguments = problem("hlru", 2, 1, 50_000, 128)
    device = launch.device_properties(0)
    chosen = rule.choose("hlru", "forward", 2, "bfloat16", "softmax", 1, 50_000, 128, device)
    assert chosen.conducted and 2 * chosen.thread_blocks(128 // chosen.tile) > device.multiprocessors
    expected, _ = kernels("hlru").forward(*arguments)
    streams = [torch.cuda.Stream() for _ in range(4)]
    torch.cuda.synchronize()
    results = []
    for turn in range(40):
        with torch.cuda.stream(streams[turn % 4]):
            results.append(kernels("hlru").forward(*arguments)[0])
    torch.cuda.synchronize()
    assert all(torch.equal(hidden, expected) for hidden in results)
