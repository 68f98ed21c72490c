"""Relays in rows of 64 bytes, whose rows are read and written as matrices, in problems small enough to check."""

from dataclasses import replace

import pytest
import torch

from tests.kernels.cuda.gpu_checks import (
    FAMILIES,
    NEEDS_GPU,
    NORMALIZATIONS,
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
HALVES = (torch.bfloat16, torch.float16)


@pytest.fixture(params=[1, 3], ids=lambda count: f"{count} thread blocks")
def narrow(monkeypatch, request):
    """Every call runs the relay in rows of 64 bytes, with so many thread blocks for a tile."""
    force_shape(monkeypatch, "narrow", lambda candidate, *_: replace(candidate, cluster=request.param))


@pytest.mark.parametrize("steps", [1, 2, 7, 8, 9, 31, 100, 301])
@pytest.mark.parametrize("m", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("family", FAMILIES)
def test_lengths_that_end_inside_and_between_chunks(narrow, family, m, steps):
    check(family, m, 2, steps, 40)


@pytest.mark.parametrize("width", [1, 8, 32, 33, 64, 72, 200])
@pytest.mark.parametrize("family", FAMILIES)
def test_widths_that_fill_no_tile_or_begin_between_sectors(narrow, family, width):
    check(family, 4, 2, 150, width)


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_whose_rows_make_no_whole_matrices(monkeypatch, family, m, chunk):
    force_shape(monkeypatch, "narrow", lambda candidate, *_: replace(candidate, steps=chunk))
    check(family, m, 2, 100, 48)


@pytest.mark.parametrize("warps", [2, 10, 15])
@pytest.mark.parametrize("family", FAMILIES)
def test_rings_of_few_and_many_warps(monkeypatch, family, warps):
    force_shape(
        monkeypatch, "narrow", lambda candidate, *_: replace(candidate, steps=2, warps=warps, stages=2)
    )
    check(family, 3, 2, 200, 48)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_normalizations_broadcast_logits_and_wider_rows(narrow, family, normalization, dtype):
    check(family, 4, 2, 150, 40, dtype, normalization=normalization)
    check(family, 2, 2, 150, 40, dtype, normalization=normalization, logits_steps=1)
    check(family, 2, 2, 150, 40, dtype, normalization=normalization, logits_batch=1)
    check_parts(family, 2, 2, 150, 40, normalization)


@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("width", [40, 17])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_sequences_with_empty_ones(narrow, family, width, states):
    check(family, 4, 1, PACKED[-1], width, cu_seqlens=PACKED, states=states)


@pytest.mark.parametrize("family", FAMILIES)
def test_more_tiles_than_the_device_runs_at_once(narrow, family):
    check(family, 2, 40, 100, 264)


@pytest.mark.parametrize("family, m", [("bdlru", 2), ("bdlru", 4), ("hlru", 1), ("hlru", 4)])
def test_the_same_bits_in_every_run(narrow, family, m):
    arguments = problem(family, m, 4, 600, 256)
    hidden = check_forward(family, arguments)
    rest = (hidden, torch.randn_like(arguments[1]), None, arguments[4])
    forward, backward = kernels(family).forward, kernels(family).backward
    first = backward(*arguments[:4], *rest)
    for _ in range(30):
        assert torch.equal(forward(*arguments)[0], hidden)
        again = backward(*arguments[:4], *rest)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
