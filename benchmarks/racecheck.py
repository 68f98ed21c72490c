"""Runs every hand-over of the CUDA kernels once on small tensors, for NVIDIA's compute-sanitizer.

    compute-sanitizer --tool memcheck python benchmarks/racecheck.py
    compute-sanitizer --tool racecheck python benchmarks/racecheck.py
    compute-sanitizer --tool racecheck python benchmarks/racecheck.py --sync

A warp hands its state to the next with ``bar.arrive`` and does not wait; the next waits with ``bar.sync``.
racecheck knows of ``bar.sync`` alone. ``--sync`` compiles the same kernels with ``bar.sync`` on both sides,
which orders the same accesses: what racecheck reports without it and not with it is no race.
"""

import argparse
import os
import tempfile

os.environ["STATEMIX_CACHE_DIR"] = tempfile.mkdtemp()

import torch

from statemix.kernels.cuda import compiler, scan

CASES = (
    ("bdlru", 4, 2, 200, 64),  # a relay in one thread block
    ("bdlru", 1, 1, 2000, 32),  # composed maps
    ("bdlru", 8, 2, 100, 32),  # two lanes a block
    ("hlru", 4, 2, 300, 64),
    ("bdlru", 5, 1, 600, 64),  # a cluster
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sync", action="store_true", help="compile with bar.sync on both sides")
    options = parser.parse_args()
    if options.sync:
        files = compiler.headers()
        files["relay.cuh"] = files["relay.cuh"].replace("bar.arrive %0, 64;", "bar.sync %0, 64;")
        assert "bar.arrive %0" not in files["relay.cuh"]
    for family, m, batch, steps, width in CASES:
        rows = (m,) if family == "bdlru" else ()
        logits = torch.randn(batch, steps, *rows, m + 1, width, device="cuda").bfloat16()
        values = torch.randn(batch, steps, *rows, width, device="cuda").bfloat16()
        hidden, _ = scan.forward(family, logits, values, None, None, "softmax")
        scan.backward(family, logits, values, None, None, hidden, hidden, None, "softmax")
        torch.cuda.synchronize()
        print(family, m, batch, steps, width, "ran", flush=True)


if __name__ == "__main__":
    main()
