"""Relays in rows of 256 bytes, four blocks a lane, in problems small enough to check."""

from dataclasses import replace

import pytest
import torch

from statemix.kernels.cuda import launch, rule
from tests.kernels.cuda.gpu_checks import (
    FAMILIES,
    NEEDS_GPU,
    PACKED,
    check,
    check_forward,
    check_parts,
    force_shape,
    kernels,
    outputs_start_as_nan,  # noqa: F401
    problem,
)

pytestmark = NEEDS_GPU


@pytest.fixture(
    params=[(1, 2, False), (3, 1, False), (2, 1, True)],
    ids=["one thread block", "three thread blocks", "two that keep pace"],
)
def broad(monkeypatch, request):
    """Every call runs the relay in rows of 256 bytes, with short chunks in six warps."""
    blocks, stages, paced = request.param

    def adapt(candidate, direction, *_):
        rows = 1 if candidate.one_row else candidate.block_size
        return replace(
            candidate,
            steps=2 if rows < 3 else 1,
            warps=6,
            stages=stages,
            cluster=blocks,
            paced=paced and direction == "backward",
        )

    force_shape(monkeypatch, "broad", adapt)


@pytest.mark.parametrize("steps", [1, 6, 7, 100])
@pytest.mark.parametrize("m", [1, 2, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_lengths_that_end_inside_and_between_chunks(broad, family, m, steps):
    check(family, m, 2, steps, 136)


@pytest.mark.parametrize("width", [1, 8, 33, 127, 129, 200, 264])
@pytest.mark.parametrize("family", FAMILIES)
def test_widths_that_fill_no_tile_or_begin_between_pieces(broad, family, width):
    check(family, 3, 2, 90, width)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("normalization", ["softmax", "relu", "linear", "none"])
@pytest.mark.parametrize("family", FAMILIES)
def test_normalizations_broadcast_logits_and_wider_rows(broad, family, normalization, dtype):
    check(family, 2, 2, 90, 136, dtype, normalization=normalization)
    check(family, 2, 2, 90, 136, dtype, normalization=normalization, logits_steps=1)
    check_parts(family, 2, 2, 90, 136, normalization)


@pytest.mark.parametrize("width", [136, 131])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_sequences_with_empty_ones(broad, family, width):
    check(family, 2, 1, PACKED[-1], width, cu_seqlens=PACKED)


@pytest.mark.parametrize("family, m", [("bdlru", 4), ("hlru", 4)])
def test_the_rule_takes_them_between_lines_with_the_same_bits_in_every_run(family, m):
    device = launch.device_properties(0)
    shape = (64, 200, 1000)
    tile = rule.choose(family, "backward", m, "bfloat16", "softmax", *shape, device)
    assert tile.tile == 128 and tile.cluster == 1
    arguments = problem(family, m, *shape, states=False)
    hidden = check_forward(family, arguments)
    rest = (hidden, torch.randn_like(arguments[1]), None, arguments[4])
    first = kernels(family).backward(*arguments[:4], *rest)
    for _ in range(20):
        assert torch.equal(kernels(family).forward(*arguments)[0], hidden)
        again = kernels(family).backward(*arguments[:4], *rest)
        assert all(torch.equal(a, b) for a, b in zip(first[:2], again[:2], strict=True))
