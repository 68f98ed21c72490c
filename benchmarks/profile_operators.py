"""One forward and one backward of named operator shapes, for NVIDIA's profiler.

    ncu --section SpeedOfLight --section MemoryWorkloadAnalysis --section WarpStateStats \
        --kernel-name statemix_kernel python benchmarks/profile_operators.py long odd sigmoid
"""

import argparse

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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # With choices, argparse would refuse that no name is given.
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"{', '.join(CASES)}; default: all")
    named = parser.parse_args().cases
    unknown = [name for name in named if name not in CASES]
    if unknown:
        parser.error(f"no case {', '.join(unknown)}; there are {', '.join(CASES)}")
    if not torch.cuda.is_available():
        parser.error("these cases run on an NVIDIA GPU, and PyTorch sees none")
    for name in named or CASES:
        case = CASES[name]
        tensors = case.inputs("cuda", requires_grad=True)
        hidden, _ = case.run(tensors, None, "cuda")
        torch.autograd.grad(hidden, tensors, torch.randn_like(hidden))
        torch.cuda.synchronize()
        print(name, "forward and backward ran", flush=True)


if __name__ == "__main__":
    main()
