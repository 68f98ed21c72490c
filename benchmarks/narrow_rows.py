"""What rows of a tile can draw from memory: by their width, the thread blocks, and who reads beside whom.

    python benchmarks/narrow_rows.py --csv narrow_rows.csv

Loads and stores of a BD-LRU forward with blocks of 4 (B = 1, T = 65,536, bfloat16) without its arithmetic
and without a state: every warp copies the rows of its steps into shared memory, looks at some of them and
stores as many rows as there are hidden states. A tile's warps keep within two turns of each other, as a
state makes them do. Share is the bytes over the time, in parts of a device copy in the same run.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from pathlib import Path

import torch

from statemix.bench.environment import describe, write_csv
from statemix.bench.timing import copy_gb_s
from statemix.kernels.cuda import launch

STEPS, WARPS, ROWS = 65536, 8, 24  # 20 rows of logits and 4 of values a step

# Which tile a thread block has, and its place there; and whether those of a tile are a cluster.
ORDERS = {
    "of a tile": ("blockIdx.x / K", "blockIdx.x % K", False),
    "neighbouring tiles": ("blockIdx.x % TILES", "blockIdx.x / TILES", False),
    "clusters": ("blockIdx.x / K", "blockIdx.x % K", True),
    # Hardware deals clusters to the eight parts of the chip in turn.
    "clusters, neighbours in a part": (
        "cluster % 8 * (TILES / 8) + min(cluster % 8, TILES % 8) + cluster / 8", "blockIdx.x % K", True
    ),
}  # fmt: skip

SOURCE = """
#include "stage.cuh"
struct Problem {{ const char* logits; const char* values; char* hidden; int* progress; i64 steps, unused[{unused}]; }};
extern "C" __global__ void {dimensions}__launch_bounds__(32 * {warps}, 1) statemix_kernel(const __grid_constant__ Problem problem) {{
    constexpr int ROW = {row}, K = {cluster}, D = {stages}, S = {steps}, PITCH = 2 * {width};
    constexpr int TILES = PITCH / ROW, STAGE = {rows} * S * ROW, ALL = K * {warps}, PIECES = ROW / 16, R = 32 / PIECES;
    extern __shared__ __align__(128) char shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    [[maybe_unused]] const int cluster = blockIdx.x / K;
    const int tile = {tile}, rank = {rank};
    char* const stages = shared + warp * D * STAGE;
    const int chunks = (int)(problem.steps / S), row0 = lane / PIECES, place = lane % PIECES * 16;
    auto copy = [&](int chunk, int stage) {{
        const char* logits = fixed(problem.logits + ((i64)chunk * S * 20 + row0) * PITCH + tile * ROW + place);
        const char* values = fixed(problem.values + ((i64)chunk * S * 4 + row0) * PITCH + tile * ROW + place);
        const u32 to = shared_address(stages) + stage * STAGE + lane * 16;
#pragma unroll
        for (int i = 0; i < 20 * S; i += R)
            if (i + row0 < 20 * S) copy_16_bytes<{prefetch}>(to + i * ROW, logits + (i64)i * PITCH);
#pragma unroll
        for (int i = 0; i < 4 * S; i += R)
            if (i + row0 < 4 * S) copy_16_bytes<{prefetch}>(to + (20 * S + i) * ROW, values + (i64)i * PITCH);
    }};
    const int first = rank * {warps} + warp;
#pragma unroll
    for (int d = 0; d < D; d++) {{
        if (first + d * ALL < chunks) copy(first + d * ALL, d);
        commit_copies();
    }}
    int stage = 0, turn = 0;
    for (int chunk = first; chunk < chunks; chunk += ALL, turn++) {{
        wait_for_copies<D - 1>();
        __syncwarp();
        u32 seen = 0;
#pragma unroll
        for (int i = 0; i < 4 * S; i++) seen ^= *(u32*)(stages + stage * STAGE + i * 5 % ({rows} * S - 8) * ROW + lane * 4);
        __syncwarp();
        if (lane == 0) {{
            atomicAdd(problem.progress + tile * 32, 1);
            const int wanted = min((turn - 1) * ALL, chunks);
            int done;
            do asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(done) : "l"(problem.progress + tile * 32) : "memory");
            while (done < wanted);
        }}
        __syncwarp();
        if (chunk + D * ALL < chunks) copy(chunk + D * ALL, stage);
        commit_copies();
        stage = stage + 1 == D ? 0 : stage + 1;
        constexpr int LANES = ROW / 2 < 32 ? ROW / 2 : 32, BYTES = ROW / LANES, TOGETHER = 32 / LANES;
        char* const out = fixed(problem.hidden + ((i64)chunk * S * 4 + lane / LANES) * PITCH + tile * ROW + lane % LANES * BYTES);
#pragma unroll
        for (int i = 0; i < 4 * S; i += TOGETHER) {{
            if constexpr (BYTES == 2) *(u16*)(out + (i64)i * PITCH) = (u16)(seen + i);
            else *(u32*)(out + (i64)i * PITCH) = seen + i;
        }}
    }}
}}
"""  # noqa: E501


def source(width: int, row: int, cluster: int, stages: int, prefetch: int, order: str) -> str:
    """The kernel whose tiles are `row` bytes wide; a warp always has as many bytes under way."""
    tile, rank, clusters = ORDERS[order]
    return SOURCE.format(
        row=row, cluster=cluster, stages=stages, steps=512 // row, prefetch=prefetch, tile=tile, rank=rank,
        dimensions=f"__cluster_dims__({cluster}, 1, 1) " if clusters else "", warps=WARPS, rows=ROWS,
        width=width, unused=len(launch.ARGUMENT_FIELDS) - 5,
    )  # fmt: skip


def milliseconds(width: int, row: int, cluster: int, stages: int, prefetch: int, order: str) -> float:
    """The median time of a launch."""
    shared = WARPS * stages * ROWS * 512
    text = source(width, row, cluster, stages, prefetch, order)
    kernel = launch.Kernel(text, 0, threads=32 * WARPS, shared_bytes=shared)
    logits = torch.randn(STEPS, 20, width, device="cuda").bfloat16()
    values = torch.randn(STEPS, 4, width, device="cuda").bfloat16()
    hidden = torch.empty_like(values)
    progress = torch.zeros(32 * width, dtype=torch.int32, device="cuda")
    arguments = tuple(tensor.data_ptr() for tensor in (logits, values, hidden, progress))
    arguments += (STEPS, *[0] * (len(launch.ARGUMENT_FIELDS) - 5))
    times = []
    for _ in range(8):
        progress.zero_()
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        kernel.launch(2 * width // row * cluster, arguments)
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop))
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("rows need a CUDA device, and there is none here")
    device = torch.device("cuda", torch.cuda.current_device())
    copy, rows = copy_gb_s(device), []
    for (width, row, blocks), stages, order in itertools.product(
        ((256, 32, 96), (256, 32, 128), (512, 32, 96), (512, 32, 128), (256, 64, 96), (256, 128, 96)),
        (1, 2),
        ORDERS,
    ):
        cluster, prefetch = blocks * row // (2 * width), 0 if row == 128 else 128
        if cluster > 8 and ORDERS[order][2]:
            continue  # more than every device can hold in a cluster
        ms = milliseconds(width, row, cluster, stages, prefetch, order)
        moved = 2 * STEPS * width * (ROWS + 4)
        rows.append(
            {
                "N": width,
                "row_bytes": row,
                "thread_blocks": blocks,
                "of_a_tile": cluster,
                "stages": stages,
                "order": order,
                "ms": ms,
                "share_of_copy": moved / ms / 1e6 / copy,
            }
        )
        print(*rows[-1].values(), flush=True)
    if options.csv is not None:
        write_csv(options.csv, rows, describe(device, "python benchmarks/narrow_rows.py"))


if __name__ == "__main__":
    main()
