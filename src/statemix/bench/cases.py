"""What is measured: named shapes of the operators, and the bytes that no version can avoid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from statemix.kernels.precision import state_dtype
from statemix.ops import bdlru_scan, hlru_scan

OPERATORS = {"bdlru": bdlru_scan, "hlru": hlru_scan}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One operator at one shape; ``sequences`` > 1 packs that many into a batch of 1."""

    family: str
    B: int
    T: int
    M: int
    N: int
    dtype: torch.dtype = torch.float32
    normalization: str = "softmax"
    initial_state: bool = False
    sequences: int = 1

    @property
    def logits_shape(self) -> tuple[int, ...]:
        rows = (self.M, self.M + 1) if self.family == "bdlru" else (self.M + 1,)
        return (self.B, self.T, *rows, self.N)

    @property
    def values_shape(self) -> tuple[int, ...]:
        rows = (self.M,) if self.family == "bdlru" else ()
        return (self.B, self.T, *rows, self.N)

    def floor_bytes(self, direction: str) -> int:
        """Every input read once and every output written once."""
        size = self.dtype.itemsize
        logits = prod(self.logits_shape) * size
        values = prod(self.values_shape) * size
        forward = logits + 2 * values  # reads logits and values, writes hidden
        backward = 2 * logits + 4 * values  # and reads hidden and its gradient, writes two gradients
        return {"forward": forward, "backward": backward, "forward+backward": forward + backward}[direction]

    def inputs(
        self, device: torch.device | str, *, requires_grad: bool = False, seed: int = 0, offset: int = 0
    ) -> list[Tensor]:
        """Logits of scale 2 and values of scale 1; the initial state when the case has one.

        ``offset`` elements are left free before each tensor: where buffers lie relative to each other
        decides which memory banks they meet in.
        """
        generator = torch.Generator(device).manual_seed(seed)

        def draw(shape: tuple[int, ...], dtype: torch.dtype, scale: float = 1.0) -> Tensor:
            flat = torch.empty(prod(shape) + offset, device=device, dtype=dtype)
            x = flat[offset:].view(shape)
            return x.normal_(0, scale, generator=generator).requires_grad_(requires_grad)

        scale = 2.0 if self.normalization != "none" else 0.3
        tensors = [draw(self.logits_shape, self.dtype, scale), draw(self.values_shape, self.dtype)]
        if self.initial_state:
            tensors.append(draw((self.states, self.M, self.N), state_dtype(self.dtype)))
        return tensors

    @property
    def states(self) -> int:
        return self.B if self.sequences == 1 else self.sequences

    def cu_seqlens(self, device: torch.device | str) -> Tensor | None:
        """Bounds of sequences of unequal lengths."""
        if self.sequences == 1:
            return None
        cuts = torch.linspace(0, 1, self.sequences + 1).square() * self.T
        return cuts.round().to(torch.int32).to(device)

    def run(self, tensors: list[Tensor], cu_seqlens: Tensor | None, backend: str) -> tuple[Tensor, Tensor]:
        """Call the operator."""
        return OPERATORS[self.family](
            *tensors, normalization=self.normalization, cu_seqlens=cu_seqlens, backend=backend
        )

    def shortened(self, time: int) -> Case:
        """The same case over fewer steps and a batch of at most 2, for a check that is quick."""
        return replace(self, T=min(self.T, time), B=min(self.B, 2), sequences=min(self.sequences, 4))


def cpu_cases(orders: tuple[int, ...] = (1, 2, 4, 8, 16)) -> list[Case]:
    """B = 4, T = 1024, m * N = 1024 in float32."""
    return [
        Case(family=family, B=4, T=1024, M=m, N=1024 // m) for family in ("bdlru", "hlru") for m in orders
    ]


GROUPS = ("targets", "contract", "few-lanes")


def cuda_cases(groups: tuple[str, ...] = GROUPS[:1]) -> list[Case]:
    """Shapes that a GPU meets, in bfloat16 and softmax unless a case says otherwise.

    targets: what training runs meet. contract: every normalisation, dtype, state, packing and odd size
    at one shape. few-lanes: shapes that leave a large GPU little to do at once.
    """
    unknown = sorted(set(groups) - set(GROUPS))
    if unknown:
        raise ValueError(f"bench: no cases {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    makers = {"targets": _targets, "contract": _contract, "few-lanes": _few_lanes}
    return [case for group in groups for case in makers[group]()]


def _bf16(family: str, B: int, T: int, M: int, N: int) -> Case:
    return Case(family=family, B=B, T=T, M=M, N=N, dtype=torch.bfloat16)


def _targets() -> list[Case]:
    cases = []
    for family in ("bdlru", "hlru"):
        cases += [
            _bf16(family, B, T, m, state // m)
            for m in (1, 2, 4)
            for B, T in ((8, 4096), (64, 2048))
            for state in (1024, 4096)
        ]
    cases += [_bf16("bdlru", 8, 4096, m, 1024) for m in (3, 5, 6, 7, 8)]
    cases += [_bf16("bdlru", 8, 4096, 16, 512), _bf16("bdlru", 8, 4096, 8, 128)]
    cases += [_bf16("hlru", 8, 4096, m, 1024) for m in (3, 8, 16)]
    cases.append(_bf16("bdlru", 1, 65536, 4, 256))
    return cases


def _few_lanes() -> list[Case]:
    blocks = [(1, 65536, m, N) for m in (1, 2, 3, 4) for N in (256, 384, 512)]
    blocks += [
        (1, 16384, 2, 512),
        (1, 4096, 1, 256),
        (2, 16384, 4, 256),
        (2, 4096, 4, 256),
        (8, 4096, 16, 64),
    ]
    windows = [(8, 4096, m, 256) for m in (2, 4, 8)] + [(1, 65536, m, 256) for m in (1, 2, 3, 4, 8)]
    windows += [(1, 65536, m, 512) for m in (1, 2, 4)] + [(2, 4096, 4, 256), (1, 262144, 2, 64)]
    return [_bf16("bdlru", *shape) for shape in blocks] + [_bf16("hlru", *shape) for shape in windows]


def _contract() -> list[Case]:
    cases = []
    for family in ("bdlru", "hlru"):
        plain = _bf16(family, 8, 4096, 4, 1024)
        cases += [replace(plain, normalization=n) for n in ("sigmoid", "relu", "tanh", "linear", "none")]
        cases += [replace(plain, dtype=dtype) for dtype in (torch.float32, torch.float16)]
        cases.append(replace(plain, initial_state=True))
        cases += [replace(plain, B=1, T=8 * 4096, N=N, sequences=100) for N in (1024, 256)]
        cases += [replace(plain, T=4095, N=N) for N in (1024, 1000, 1023, 410)]
    return cases
