"""What rows of a tile can draw from memory: by their width, the thread blocks, and who reads beside whom.

    python benchmarks/narrow_rows.py --csv narrow_rows.csv

Loads and stores of a BD-LRU forward with blocks of 4 (B = 1, T = 65,536, N = 256, bfloat16) without its
arithmetic and without a state: every warp copies the rows of its steps into shared memory, looks at some of
them and stores as many rows as there are hidden states. A tile's warps keep within two turns of each other,
as a state makes them do. Share is the bytes over the time, in parts of a device copy in the same run.
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

STEPS, WIDTH, WARPS, ROWS = 65536, 256, 8, 24  # 20 rows of logits and 4 of values a step

SOURCE = """
#include "stage.cuh"
struct Problem {{ const char* logits; const char* values; char* hidden; int* progress; i64 steps, unused[{unused}]; }};
extern "C" __global__ void {dimensions}__launch_bounds__(32 * {warps}, 1) statemix_kernel(const __grid_constant__ Problem problem) {{
    constexpr int ROW = {row}, K = {cluster}, D = {stages}, S = {steps}, PITCH = 2 * {width};
    constexpr int TILES = PITCH / ROW, STAGE = {rows} * S * ROW, ALL = K * {warps}, PIECES = ROW / 16, R = 32 / PIECES;
    extern __shared__ __align__(128) char shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    constexpr int ABREAST = {abreast};
    const int tile = blockIdx.x / (K * ABREAST) * ABREAST + blockIdx.x % ABREAST;
    const int rank = blockIdx.x % (K * ABREAST) / ABREAST;
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


def source(row: int, cluster: int, stages: int, prefetch: int, abreast: int, clusters: bool) -> str:
    """The kernel whose tiles are `row` bytes wide; a warp always has as many bytes under way."""
    dimensions = f"__cluster_dims__({cluster * abreast}, 1, 1) " if clusters else ""
    return SOURCE.format(
        row=row, cluster=cluster, stages=stages, steps=512 // row, prefetch=prefetch, dimensions=dimensions,
        abreast=abreast, warps=WARPS, rows=ROWS, width=WIDTH, unused=len(launch.ARGUMENT_FIELDS) - 5,
    )  # fmt: skip


def milliseconds(row: int, cluster: int, stages: int, prefetch: int, abreast: int, clusters: bool) -> float:
    """The median time of a launch."""
    shared = WARPS * stages * ROWS * 512
    text = source(row, cluster, stages, prefetch, abreast, clusters)
    kernel = launch.Kernel(text, 0, threads=32 * WARPS, shared_bytes=shared)
    logits = torch.randn(STEPS, 20, WIDTH, device="cuda").bfloat16()
    values = torch.randn(STEPS, 4, WIDTH, device="cuda").bfloat16()
    hidden = torch.empty_like(values)
    progress = torch.zeros(32 * WIDTH, dtype=torch.int32, device="cuda")
    arguments = tuple(tensor.data_ptr() for tensor in (logits, values, hidden, progress))
    arguments += (STEPS, *[0] * (len(launch.ARGUMENT_FIELDS) - 5))
    times = []
    for _ in range(8):
        progress.zero_()
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        kernel.launch(2 * WIDTH // row * cluster, arguments)
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
    copy, moved = copy_gb_s(device), 2 * STEPS * WIDTH * (ROWS + 4)
    rows = []
    for (row, blocks), stages, prefetch, neighbours in itertools.product(
        ((32, 96), (32, 128), (64, 96), (64, 128), (128, 96), (128, 128)), (1, 2), (0, 128), (False, True)
    ):
        ms = milliseconds(row, blocks * row // (2 * WIDTH), stages, prefetch, neighbours)
        rows.append(
            {
                "row_bytes": row,
                "thread_blocks": blocks,
                "stages": stages,
                "prefetch_bytes": prefetch,
                "neighbours": "tiles" if neighbours else "of a tile",
                "ms": ms,
                "share_of_copy": moved / ms / 1e6 / copy,
            }
        )
        print(*rows[-1].values(), flush=True)
    if options.csv is not None:
        write_csv(options.csv, rows, describe(device, "python benchmarks/narrow_rows.py"))


if __name__ == "__main__":
    main()
