"""The configuration rule: a pure function, checked without a GPU."""

import itertools
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from statemix.kernels import cuda
from statemix.kernels.cuda import check, costs, rule, tiles
from statemix.kernels.cuda.configurations import ELEMENT_BYTES, LARGEST, NORMALIZATIONS
from statemix.kernels.cuda.rule import candidates, choose

H100 = check.DEVICES["sm_90"]
(H200,) = check.OTHERS["sm_90"]


@given(
    target=st.sampled_from(sorted(check.DEVICES)),
    family=st.sampled_from(["bdlru", "hlru"]),
    direction=st.sampled_from(["forward", "backward"]),
    size=st.integers(1, 32),
    dtype=st.sampled_from(sorted(ELEMENT_BYTES)),
    normalization=st.sampled_from(NORMALIZATIONS),
    batch=st.integers(1, 512),
    steps=st.integers(1, 100_000),
    width=st.integers(1, 8192),
    rows=st.sampled_from(["packed", "stepped", "strided", "unaligned"]),
    time_broadcast=st.booleans(),
)
def test_every_problem_gets_a_configuration_that_fits_the_device(
    target, family, direction, size, dtype, normalization, batch, steps, width, rows, time_broadcast
):
    device = check.DEVICES[target]
    size = min(size, LARGEST[family])
    chosen = choose(
        family, direction, size, dtype, normalization, batch, steps, width, device,
        rows=rows, time_broadcast=time_broadcast,
    )  # fmt: skip
    assert chosen.shared_bytes <= device.shared_memory
    assert chosen.cluster == 1 or chosen.conducted or device.clusters
    if chosen.conducted:  # all thread blocks are on the device at once
        assert chosen.thread_blocks(batch * -(-width // chosen.tile)) <= device.multiprocessors
    if chosen.composes:  # in teams of two, or in groups
        assert chosen.warps % (chosen.groups or 2) == 0 and (chosen.conducted or chosen.warps >= 4)
    assert 2 <= chosen.warps <= (16 if chosen.composes else 15)  # a named barrier each, or for two
    assert chosen.coefficient_registers <= 200
    assert chosen.block_size == size and chosen.dtype == dtype and chosen.rows == rows


@pytest.mark.parametrize(
    "problem, kernel, tile, cluster",
    [
        ((8, 4096, 1024), "bdlru_forward", 64, 1),
        ((64, 2048, 256), "bdlru_forward", 64, 1),
        ((8, 4096, 256), "bdlru_forward", 32, 2),
        ((1, 65536, 512), "composed_bdlru_forward", 32, 6),
        ((2, 16384, 512), "composed_bdlru_forward", 32, 3),
        ((1, 65536, 256), "composed_bdlru_forward", 32, 15),
        ((1, 65536, 64), "composed_bdlru_forward", 16, 32),
    ],
)
def test_the_measured_shapes_get_what_was_measured_to_be_best(problem, kernel, tile, cluster):
    chosen = choose("bdlru", "forward", 4, "bfloat16", "softmax", *problem, H100)
    assert (chosen.kernel, chosen.tile, chosen.cluster) == (kernel, tile, cluster)


@pytest.mark.parametrize(
    "family, direction, m, problem, kernel, tile, cluster",
    [
        ("hlru", "forward", 4, (8, 4096, 304), "relay", 32, 1),  # few thread blocks with much in flight
        ("hlru", "backward", 4, (8, 4096, 112), "ring", 32, 3),
        ("bdlru", "forward", 2, (16, 2048, 304), "relay", 64, 1),
        ("bdlru", "forward", 3, (16, 2048, 304), "relay", 64, 1),
        ("bdlru", "backward", 3, (16, 2048, 160), "relay", 32, 1),
        ("hlru", "forward", 8, (16, 2048, 160), "relay", 32, 1),
        ("bdlru", "backward", 3, (8, 4096, 64), "ring", 32, 6),
        ("bdlru", "backward", 8, (8, 4096, 256), "relay", 64, 3),
    ],
)
def test_training_shapes_get_what_was_measured_fastest_by_far(
    family, direction, m, problem, kernel, tile, cluster
):
    """Of benchmarks/results/kernel_choice_training_h100_2026-11-28.csv, some that the rule gets right.

    What it gets wrong by more than ten points of a copy is counted in docs/gpu.md.
    """
    chosen = choose(family, direction, m, "bfloat16", "softmax", *problem, H100)
    assert chosen.kernel == ("composed_" if kernel == "ring" else "") + f"{family}_{direction}"
    assert (chosen.conducted, chosen.tile, chosen.cluster) == (False, tile, cluster)


@pytest.mark.parametrize(
    "device, family, direction, m, problem, kernel, tile, cluster",
    [
        (H100, "hlru", "backward", 6, (1, 65536, 256), "ring", 16, 6),
        (H100, "bdlru", "forward", 4, (2, 16384, 512), "relay", 32, 2),
        (H100, "bdlru", "forward", 8, (8, 4096, 64), "relay", 16, 2),  # three thread blocks: 59 for 91 %
        (H100, "bdlru", "backward", 8, (8, 4096, 1000), "relay", 32, 1),
        (H200, "bdlru", "forward", 2, (1, 65536, 1024), "ring", 32, 3),
        (H200, "bdlru", "backward", 3, (8, 4096, 1000), "relay", 32, 1),
        (H200, "hlru", "forward", 1, (8, 4096, 64), "ring", 16, 3),
    ],
)
def test_float32_gets_what_was_measured_faster_by_far_than_with_tiles_of_half_precision(
    device, family, direction, m, problem, kernel, tile, cluster
):
    """Of benchmarks/results/kernel_choice_*-float32_*_2026-11-28.csv, some that the rule gets right."""
    chosen = choose(family, direction, m, "float32", "softmax", *problem, device)
    assert chosen.kernel == ("composed_" if kernel == "ring" else "") + f"{family}_{direction}"
    assert (chosen.conducted, chosen.tile, chosen.cluster) == (False, tile, cluster)


@pytest.mark.parametrize("device", [H100, H200], ids=["H100", "H200"])
@pytest.mark.parametrize("direction", [0, 1], ids=["forward", "backward"])
def test_what_is_under_way_costs_from_what_l2_keeps_to_all_that_it_can_cost(direction, device):
    crowding = costs.FLOAT32_CROWDING[True][direction]
    name = ("forward", "backward")[direction]
    ring = next(
        tile
        for _, tile in candidates("hlru", name, 2, "float32", "softmax", 2, 16384, 512, device)
        if tile.composes and not tile.conducted and tile.chunks == 1
    )
    one = replace(ring, cluster=1, warps=4, stages=1)
    slower = [crowding.slower(replace(one, steps=steps), 32, device) for steps in range(1, 2000)]
    assert slower[0] == 1 and slower == sorted(slower)
    assert slower[-1] == pytest.approx(1 + crowding.cost[device.fast_memory])
    kept = crowding.bytes[device.fast_memory] / (32 * 4 * one.step_bytes)  # steps
    assert slower[int(kept) - 2] == 1 < slower[int(kept) + 1] < slower[-1]


def _relay_of_whole_lines(family, direction, m, steps, width, device):
    rows = "unaligned" if width % 8 else "packed"
    found = candidates(family, direction, m, "bfloat16", "softmax", 8, steps, width, device, rows=rows)
    return next(c for _, c in found if not c.composes and c.tile == 64 and c.cluster == 1)


@pytest.mark.parametrize("device", [H100, H200], ids=["H100", "H200"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("family, m", [("bdlru", 1), ("bdlru", 2), *(("hlru", m) for m in (1, 2, 3, 4, 8))])
def test_less_is_under_way_the_smaller_the_pieces_are_that_rows_begin_at(family, m, direction, device):
    relays = [
        _relay_of_whole_lines(family, direction, m, 4096, width, device) for width in (1008, 1000, 1023)
    ]
    under_way = [relay.steps * relay.warps * relay.stages * relay.step_bytes for relay in relays]
    assert under_way == sorted(under_way, reverse=True)
    for relay, size, name in zip(relays, under_way, ("sectors", "pieces", "elements"), strict=True):
        assert size == pytest.approx(tiles.UNDER_WAY[direction][name][device.fast_memory], rel=0.15)
        assert not relay.paced


@pytest.mark.parametrize("device", [H100, H200], ids=["H100", "H200"])
def test_backward_keeps_pace_where_a_step_is_large_tiles_share_sectors_and_there_is_time_to_drift(device):
    assert all(
        _relay_of_whole_lines("bdlru", "backward", m, 4096, width, device).paced
        for m, width in itertools.product((4, 6, 8), (1000, 1023))
    )
    assert not any(
        _relay_of_whole_lines("bdlru", "backward", 4, steps, 1000, device).paced for steps in (1, 60)
    )
    assert not any(
        _relay_of_whole_lines("bdlru", "forward", 4, 4096, width, device).paced for width in (1000, 1023)
    )
    assert not any(
        _relay_of_whole_lines("bdlru", "backward", 4, 4096, width, device).paced for width in (1024, 4096)
    )


@given(
    family=st.sampled_from(["bdlru", "hlru"]),
    direction=st.sampled_from(["forward", "backward"]),
    m=st.integers(1, 12),
    dtype=st.sampled_from(sorted(ELEMENT_BYTES)),
    normalization=st.sampled_from(NORMALIZATIONS),
    width=st.integers(1, 1100),
    device=st.sampled_from([H100, H200]),
)
def test_rows_of_256_bytes_are_for_half_precision_between_lines(
    family, direction, m, dtype, normalization, width, device
):
    found = candidates(family, direction, m, dtype, normalization, 8, 4096, width, device)
    broad = [tile for _, tile in found if tile.tile * tile.element_bytes == 256]
    between_lines = ELEMENT_BYTES[dtype] == 2 and width % 64 != 0
    measured = m <= rule.LARGEST_BROAD[family] and normalization not in rule.FUNCTIONS
    assert bool(broad) == (between_lines and measured)
    assert all(costs.fits_registers(tile) for tile in broad)


@pytest.mark.parametrize("device", [H100, H200], ids=["H100", "H200"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("family, m", [("bdlru", 1), ("bdlru", 2), ("hlru", 1), ("hlru", 4)])
def test_rows_of_256_bytes_run_where_all_thread_blocks_have_them_and_lines_are_shared(
    family, m, direction, device
):
    for width, tile in ((1000, 128), (1024, 64)):
        chosen = choose(family, direction, m, "bfloat16", "softmax", 64, 512, width, device)
        assert chosen.tile == tile and chosen.cluster == 1


@pytest.mark.parametrize("device", [H100, H200], ids=["H100", "H200"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("family, m", [("bdlru", 1), ("bdlru", 3), ("hlru", 2), ("hlru", 4), ("hlru", 8)])
def test_the_whole_device_has_as_much_under_way_with_fewer_thread_blocks(family, m, direction, device):
    under_way = []
    for width in (512, 304):  # 128 and 80 tiles of 32 blocks
        found = candidates(family, direction, m, "bfloat16", "softmax", 8, 4096, width, device)
        relay = next(c for _, c in found if not c.composes and c.tile == 32 and c.cluster == 1)
        under_way.append(relay.steps * relay.warps * relay.stages * relay.step_bytes * 8 * -(-width // 32))
    assert under_way[1] == pytest.approx(under_way[0], rel=0.35)


@given(
    st.sampled_from(["bdlru", "hlru"]),
    st.sampled_from(["forward", "backward"]),
    st.integers(1, 16),
    st.integers(1, 16),
    st.integers(1, 1100),
)
def test_longer_chunks_of_fewer_thread_blocks_fit_registers_and_shared_memory(
    family, direction, m, batch, width
):
    for _, tile in candidates(family, direction, m, "bfloat16", "softmax", batch, 4096, width, H200):
        assert tile.shared_bytes <= H200.shared_memory
        if not tile.composes and tile.tile == 32 and not tile.paced:
            tables = [half for shape, (_, half, _) in rule.RELAYS.items() if shape.startswith("narrow")]
            measured = [table.sizes(family, m, direction, fast_memory=True) for table in tables]
            assert tile.steps in {sizes[0] for sizes in measured if sizes} or costs.fits_registers(tile)


def test_thread_blocks_share_a_multiprocessor_only_with_few_registers_and_little_in_flight():
    found = candidates("bdlru", "forward", 2, "bfloat16", "softmax", 16, 2048, 128, H100)
    relay = next(c for _, c in found if not c.composes and c.tile == 32)
    short = replace(relay, steps=8, warps=8, stages=1)
    assert costs._thread_blocks_at_once(short, H100) == 2
    assert costs._thread_blocks_at_once(replace(short, steps=12), H100) == 1  # registers
    assert costs._thread_blocks_at_once(replace(short, stages=2), H100) == 1  # what is in flight


@pytest.mark.parametrize("family, m", [("bdlru", 1), ("hlru", 1), ("hlru", 2), ("hlru", 4), ("hlru", 8)])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_one_long_sequence_composes_maps(family, m, direction):
    chosen = choose(family, direction, m, "bfloat16", "softmax", 1, 65536, 256, H100)
    assert chosen.kernel == f"composed_hlru_{direction}"
    assert chosen.conducted == (m < (8 if direction == "forward" else 4))
    assert 90 <= chosen.thread_blocks(256 // chosen.tile) <= H100.multiprocessors
    assert not choose(family, direction, m, "bfloat16", "softmax", 8, 4096, 1024, H100).composes


def test_where_memory_is_slower_rings_have_one_stage_and_let_gradients_leave_first():
    problem = ("bdlru", "backward", 3, "bfloat16", "softmax", 1, 65536, 1024)
    slower, faster = choose(*problem, H100), choose(*problem, H200)
    assert slower.kernel == faster.kernel == "composed_bdlru_backward"
    assert not slower.conducted and not faster.conducted
    assert (slower.stages, faster.stages) == (1, 2)
    assert (slower.streams, faster.streams) == (True, False)


@pytest.mark.parametrize("target", ["sm_80", "sm_86", "sm_89", "sm_120"])
def test_a_device_without_clusters_gets_none(target):
    device = check.DEVICES[target]
    many = choose("bdlru", "forward", 4, "bfloat16", "softmax", 8, 65536, 512, device)
    few = choose("bdlru", "forward", 4, "bfloat16", "softmax", 1, 65536, 64, device)
    assert many.cluster == 1
    assert few.conducted and "__cluster_dims__" not in few.source()


def test_kernel_for_names_the_kernel_of_every_size():
    assert cuda.kernel_for("bdlru", 4) == "relay"
    assert cuda.kernel_for("bdlru", 16) == "relay with two lanes a block"
    assert cuda.kernel_for("hlru", 32) == "relay"
    assert cuda.kernel_for("bdlru", 17) == cuda.kernel_for("hlru", 33) == "none"


@pytest.mark.parametrize(
    "device, size, dtype, word",
    [
        ("cpu", 4, torch.float32, "cuda"),
        ("cuda", 4, torch.float64, "float64"),
        ("cuda", 99, torch.float32, "99"),
        ("cuda", 0, torch.float32, "block_size"),
    ],
)
def test_unavailable_reason_says_what_is_missing(device, size, dtype, word):
    reason = cuda.unavailable_reason(device, family="bdlru", order_or_block_size=size, dtype=dtype)
    assert reason is not None and word in reason


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_without_a_gpu_the_reason_names_it():
    reason = cuda.unavailable_reason("cuda", family="hlru", order_or_block_size=2, dtype=torch.bfloat16)
    assert reason is not None and "NVIDIA GPU" in reason


def test_importing_the_package_loads_no_cuda_binding():
    code = """
import sys, torch
before = set(sys.modules)  # torch may load the binding itself
import statemix.kernels.cuda
print([name for name in set(sys.modules) - before if name.split(".")[0] == "cuda"])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
