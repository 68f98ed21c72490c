"""Runs every hand-over of the CUDA kernels once on small tensors, for NVIDIA's compute-sanitizer.

    compute-sanitizer --report-api-errors no --tool memcheck python benchmarks/racecheck.py kernels
    compute-sanitizer --tool synccheck python benchmarks/racecheck.py kernels
    compute-sanitizer --tool racecheck python benchmarks/racecheck.py kernels | kernels-sync
    compute-sanitizer --tool racecheck python benchmarks/racecheck.py arrive | sync | fresh
    compute-sanitizer --tool racecheck python benchmarks/racecheck.py copies | fresh-copies

racecheck reports races in the kernels' hand-over. The other words show what it can follow. ``arrive`` is
the hand-over alone, in a ring of four warps (or ``--warps``) that pass a number on, as the kernels do it: the
sender signals with ``bar.arrive`` and goes on. ``sync`` is the same ring with ``bar.sync`` on both sides,
``fresh`` has a new slot for every turn too, so that nothing is ever overwritten. In ``copies`` and
``fresh-copies`` each warp of these copies 512 bytes in every turn to a place that no other warp touches, as
the kernels do with their inputs. ``kernels-sync`` compiles the kernels with ``bar.sync`` on both sides and
keeps each ring in one thread block: the order of accesses is the same, and full barriers alone make it.
"""

import argparse
import os
import tempfile
from dataclasses import replace

os.environ["STATEMIX_CACHE_DIR"] = tempfile.mkdtemp()

import torch

from statemix.kernels.cuda import compiler, launch, scan

CASES = (
    ("bdlru", 4, 64, 100, 128),  # a relay in one thread block
    ("hlru", 2, 2, 1500, 512),  # maps that go round a ring
    ("hlru", 8, 1, 2000, 32),  # the same in halves
    ("bdlru", 3, 1, 2000, 32),  # maps that are conducted
    ("hlru", 2, 1, 6000, 32),
    ("bdlru", 8, 2, 100, 32),  # two lanes a block
    ("hlru", 4, 2, 300, 64),
    ("bdlru", 5, 1, 600, 64),  # a cluster
    ("bdlru", 2, 16, 100, 256),  # a relay that reads matrices
    ("hlru", 2, 64, 60, 1000),  # rows of two lines
    ("bdlru", 4, 8, 100, 1000),  # the same in a cluster, tiles that keep pace
    ("bdlru", 4, 4, 400, 520),
)
#: File, what stands there, what takes its place. Once the loaders of a conductor wait for its first warp,
#: nobody has to say that maps were read: they are written again two turns later.
FULL_BARRIERS = (
    ("relay.cuh", "bar.arrive %0,", "bar.sync %0,"),
    ("conduct.cuh", "arrive_before_warps(FULL + odd, W);", "synchronize_warps(FULL + odd, W);"),
    ("conduct.cuh", "if (t > 1) synchronize_warps(EMPTY + odd, W);", ""),
    ("conduct.cuh", "if (t + 2 < turns) arrive_before_warps(EMPTY + odd, W);", ""),
)
TURNS = 64

RING = """
struct Arguments {{ float* out; const char* given; long long rest[{fields} - 2]; }};
extern "C" __global__ void statemix_kernel(const __grid_constant__ Arguments arguments) {{
    extern __shared__ __align__(16) float slots[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float* const own = slots + 32 * ({turns} + 1) + warp * 128;  // where the warp copies to
    auto copy = [&](int turn) {{
        const unsigned to = (unsigned)__cvta_generic_to_shared(own + lane * 4);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\\ncp.async.commit_group;" ::"r"(to),
                     "l"(arguments.given + turn * 512 + lane * 16) : "memory");
    }};
    if ({copies}) copy(warp);
    if (warp == {warps} - 1) {{  // the first state comes from the last warp
        slots[lane] = 0.f;
        asm volatile("{signal} 1, 64;" ::: "memory");
    }}
    for (int turn = warp; turn < {turns}; turn += {warps}) {{
        float zero = 0.f;
        if ({copies}) {{
            asm volatile("cp.async.wait_group 0;" ::: "memory");
            __syncwarp();
            zero = own[(lane + 1) % 32 * 4];
            __syncwarp();
            if (turn + {warps} < {turns}) copy(turn + {warps});
        }}
        asm volatile("bar.sync %0, 64;" ::"r"(warp + 1) : "memory");
        const float state = slots[{read} * 32 + lane] + 1.f + zero;
        const int next = (warp + 1) % {warps};
        if (turn + 1 == {turns}) {{
            arguments.out[lane] = state;
        }} else {{
            slots[{write} * 32 + lane] = state;
            asm volatile("{signal} %0, 64;" ::"r"(next + 1) : "memory");
        }}
    }}
}}
"""


def run_kernels(*, full_barriers: bool) -> None:
    compiler._OPTIONS = (*compiler._OPTIONS, "--generate-line-info")
    if full_barriers:
        files = compiler.headers()
        for name, form, full in FULL_BARRIERS:
            assert form in files[name], f"{name} no longer has {form}"
            files[name] = files[name].replace(form, full)
        choose = scan.choose
        scan.choose = lambda *given, **named: replace(choose(*given, **named), cluster=1)
    for family, m, batch, steps, width in CASES:
        rows = (m,) if family == "bdlru" else ()
        logits = torch.randn(batch, steps, *rows, m + 1, width, device="cuda").bfloat16()
        values = torch.randn(batch, steps, *rows, width, device="cuda").bfloat16()
        hidden, _ = scan.forward(family, logits, values, None, None, "softmax")
        scan.backward(family, logits, values, None, None, hidden, hidden, None, "softmax")
        torch.cuda.synchronize()
        print(family, m, batch, steps, width, "ran", flush=True)


def run_ring(kind: str, warps: int) -> None:
    fresh, copies = "fresh" in kind, "copies" in kind
    fields = len(launch.ARGUMENT_FIELDS)
    source = RING.format(
        fields=fields, warps=warps, turns=TURNS, copies=int(copies),
        signal="bar.arrive" if kind == "arrive" else "bar.sync",
        read="turn" if fresh else "warp",
        write="(turn + 1)" if fresh else "next",
    )  # fmt: skip
    shared_bytes = 128 * (TURNS + 1) + 512 * warps
    kernel = launch.Kernel(source, 0, threads=32 * warps, shared_bytes=shared_bytes)
    out, given = torch.zeros(32, device="cuda"), torch.zeros(128 * TURNS, device="cuda")
    kernel.launch(1, (out.data_ptr(), given.data_ptr(), *[0] * (fields - 2)))
    torch.cuda.synchronize()
    assert (out == TURNS).all(), out
    print(kind, "ring ran: every turn counted", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    rings = ("arrive", "sync", "fresh", "copies", "fresh-copies")
    parser.add_argument("what", choices=("kernels", "kernels-sync", *rings))
    parser.add_argument("--warps", type=int, default=4, help="of the ring alone")
    options = parser.parse_args()
    if options.what.startswith("kernels"):
        run_kernels(full_barriers=options.what == "kernels-sync")
    else:
        run_ring(options.what, options.warps)


if __name__ == "__main__":
    main()
