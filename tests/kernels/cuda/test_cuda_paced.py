"""Tiles that wait for their neighbours, in problems smaller than those that the rule paces."""

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


@pytest.fixture(params=[1, 3], ids=lambda count: f"{count} thread blocks")
def paced(monkeypatch, request):
    """Backward runs the relay of whole lines, paced, with so many thread blocks for a tile."""

    def adapt(candidate, direction, batch, width, device):
        return replace(candidate, stages=1, cluster=request.param, paced=direction == "backward")

    force_shape(monkeypatch, "wide", adapt)


@pytest.mark.parametrize("width", [1, 64, 72, 129, 130, 1001])
@pytest.mark.parametrize("m", [1, 2, 4, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_neighbours_of_every_width(paced, family, m, width):
    check(family, m, 2, 300, width)


@pytest.mark.parametrize("steps", [1, 7, 16, 130])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_lengths_and_dtypes(paced, family, dtype, steps):
    check(family, 4, 3, steps, 200, dtype)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_normalizations_broadcast_logits_and_wider_rows(paced, family, normalization):
    check(family, 2, 2, 150, 136, normalization=normalization)
    check(family, 2, 2, 150, 131, normalization=normalization, logits_steps=1)
    check_parts(family, 2, 2, 150, 136, normalization)


@pytest.mark.parametrize("width", [136, 131])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_sequences_with_empty_ones(paced, family, width):
    check(family, 4, 1, PACKED[-1], width, cu_seqlens=PACKED)


@pytest.mark.parametrize("family", FAMILIES)
def test_more_tiles_than_the_device_runs_at_once(paced, family):
    check(family, 2, 80, 200, 520)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_bits_in_every_run_and_from_a_graph(paced, family):
    arguments = problem(family, 4, 4, 600, 520)
    hidden = check_forward(family, arguments)
    logits, values, initial, cu, name = arguments
    rest = (hidden, torch.randn_like(values), None, name)
    first = kernels(family).backward(logits, values, initial, cu, *rest)
    graph = torch.cuda.CUDAGraph()
    torch.use_deterministic_algorithms(False)
    with torch.cuda.graph(graph):
        captured = kernels(family).backward(logits, values, initial, cu, *rest)
    for _ in range(30):
        again = kernels(family).backward(logits, values, initial, cu, *rest)
        graph.replay()
        for one, other, replayed in zip(first, again, captured, strict=True):
            assert torch.equal(one, other) and torch.equal(one, replayed)


@pytest.mark.parametrize("family", FAMILIES)
def test_streams_at_once_do_not_wait_for_each_other(paced, family):
    arguments = problem(family, 2, 4, 400, 520)
    hidden = check_forward(family, arguments)
    logits, values, initial, cu, name = arguments
    rest = (hidden, torch.randn_like(values), None, name)
    expected = kernels(family).backward(logits, values, initial, cu, *rest)
    streams, found = [torch.cuda.Stream() for _ in range(6)], []
    torch.cuda.synchronize()
    for _ in range(5):
        for stream in streams:
            with torch.cuda.stream(stream):
                found.append(kernels(family).backward(logits, values, initial, cu, *rest))
    torch.cuda.synchronize()
    for gradients in found:
        for one, other in zip(gradients, expected, strict=True):
            assert torch.equal(one, other)
