"""One forward and one backward of named operator shapes, for NVIDIA's profiler.

    ncu --section SpeedOfLight --section MemoryWorkloadAnalysis --section WarpStateStats \
        --kernel-name statemix_kernel python benchmarks/profile_operators.py long odd sigmoid
"""

import sys

import torch

from statemix.bench.cases import Case

BF16 = torch.bfloat16
CASES = {
    "plain": Case(family="bdlru", B=8, T=4096, M=4, N=1024, dtype=BF16),
    "long": Case(family="bdlru", B=1, T=65536, M=4, N=256, dtype=BF16),
    "odd": Case(family="bdlru", B=8, T=4096, M=4, N=1000, dtype=BF16),
    "narrow": Case(family="bdlru", B=8, T=4096, M=16, N=64, dtype=BF16),
    "sigmoid": Case(family="hlru", B=8, T=4096, M=4, N=1024, dtype=BF16, normalization="sigmoid"),
}


def main() -> None:
    for name in sys.argv[1:] or CASES:
        case = CASES[name]
        tensors = case.inputs("cuda", requires_grad=True)
        hidden, _ = case.run(tensors, None, "cuda")
        torch.autograd.grad(hidden, tensors, torch.randn_like(hidden))
        torch.cuda.synchronize()
        print(name, "forward and backward ran", flush=True)


if __name__ == "__main__":
    main()
