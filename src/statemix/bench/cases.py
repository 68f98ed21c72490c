"""What is measured: named shapes of the operators, and the bytes that no version can avoid."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

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
        logits = _count(self.logits_shape) * size
        values = _count(self.values_shape) * size
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
            flat = torch.empty(_count(shape) + offset, device=device, dtype=dtype)
            x = flat[offset:].view(shape)
            return x.normal_(0, scale, generator=generator).requires_grad_(requires_grad)

        scale = 2.0 if self.normalization != "none" else 0.3
        tensors = [draw(self.logits_shape, self.dtype, scale), draw(self.values_shape, self.dtype)]
        if self.initial_state:
            wide = torch.promote_types(self.dtype, torch.float32)
            tensors.append(draw((self.states, self.M, self.N), wide))
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


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def cpu_cases(orders: tuple[int, ...] = (1, 2, 4, 8, 16)) -> list[Case]:
    """B = 4, T = 1024, m * N = 1024 in float32."""
    return [
        Case(family=family, B=4, T=1024, M=m, N=1024 // m) for family in ("bdlru", "hlru") for m in orders
    ]


def cuda_cases() -> list[Case]:
    """The shapes that a training run meets, in bfloat16, then variants of one of them."""
    cases = []
    for family in ("bdlru", "hlru"):
        cases += [
            Case(family=family, B=B, T=T, M=m, N=N, dtype=torch.bfloat16)
            for m in (1, 2, 4)
            for B, T, N in ((8, 4096, 1024 // m), (8, 4096, 4096 // m), (64, 2048, 1024 // m))
        ]
        cases += [
            Case(family=family, B=8, T=4096, M=m, N=N, dtype=torch.bfloat16)
            for m, N in ((3, 1024), (5, 1024), (6, 1024), (7, 1024), (8, 1024), (8, 128), (16, 64), (16, 512))
        ]
        cases.append(Case(family=family, B=1, T=65536, M=4, N=256, dtype=torch.bfloat16))
        plain = Case(family=family, B=8, T=4096, M=4, N=1024, dtype=torch.bfloat16)
        cases += [replace(plain, normalization=n) for n in ("sigmoid", "relu", "tanh", "linear", "none")]
        cases += [
            replace(plain, dtype=torch.float32),
            replace(plain, dtype=torch.float16),
            replace(plain, initial_state=True),
            replace(plain, N=1000, T=4001),
            replace(plain, B=1, T=8 * 4096, sequences=100),
        ]
    return cases
