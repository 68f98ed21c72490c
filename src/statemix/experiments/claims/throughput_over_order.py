"""Claim: throughput stays near a diagonal layer's for moderate m, and falls beyond 16."""

from __future__ import annotations

from typing import Any

import torch

from statemix.bench.timing import milliseconds
from statemix.models import MixerConfig, ModelConfig, make_mixer
from statemix.models.sizing import fit
from statemix.training.devices import choose_device

from .claim import Budget, Comparison, MeasuredClaim, Tell, Values, at_least, exceeds

NEAR = 0.7
"""Share of the diagonal layer's throughput that counts as near it."""

ORDERS = (1, 2, 4, 8, 16, 32)
_FAMILIES = {"BD-LRU": "bdlru", "H-LRU": "hlru"}
_ROUNDS: dict[Budget, int] = {"minutes": 3, "hour": 5, "paper": 9}


def measure(budget: Budget, device: str | None, tell: Tell) -> Values:
    """Tokens per second, forward and backward, over those of m = 1 in the same round, at equal parameters."""
    where = choose_device(device or "auto")
    gpu = where.type == "cuda"
    width, parameters, shape = (1024, 4_200_000, (8, 4096)) if gpu else (128, 290_000, (2, 512))
    dtype = torch.bfloat16 if gpu else torch.float32
    runs = {}
    for family, kind in _FAMILIES.items():
        for m in ORDERS:
            config = ModelConfig(vocab_size=2, d_model=width, mixer=MixerConfig(name=kind, block_size=m))
            mixer = fit(config, mixer_parameters=parameters, tolerance=0.5).config.mixer
            torch.manual_seed(0)
            runs[family, m] = _step(make_mixer(mixer, width).to(where, dtype), (*shape, width), dtype)
    for run in runs.values():
        run()
    values: Values = {}
    seconds = 0.15 if budget == "minutes" else 0.5
    for number in range(_ROUNDS[budget]):
        times = {key: milliseconds(run, where, budget_s=seconds) for key, run in runs.items()}
        for family in _FAMILIES:
            for m in ORDERS[1:]:
                values.setdefault(f"{family} m={m}", []).append(times[family, 1] / times[family, m])
        told = ", ".join(f"{family} m={m} {time:.2f} ms" for (family, m), time in times.items())
        tell(f"round {number + 1} of {_ROUNDS[budget]}: {told}")
    return values


def _step(layer: torch.nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
    x = torch.randn(shape, device=next(layer.parameters()).device, dtype=dtype, requires_grad=True)
    wanted = [x, *layer.parameters()]

    def run() -> object:
        return torch.autograd.grad(layer(x).float().square().mean(), wanted)

    return run


def planned(budget: Budget) -> list[dict[str, Any]]:
    names = [f"{family} m={m}" for family in _FAMILIES for m in ORDERS]
    return [{"model": name, "trials": _ROUNDS[budget], "steps": 0, "tokens": 0} for name in names]


def judge(values: Values) -> list[Comparison]:
    near = [at_least(values, f"{family} m={m}", NEAR) for family in _FAMILIES for m in (2, 4, 8)]
    return [*near, *(exceeds(values, f"{family} m=16", f"{family} m=32") for family in _FAMILIES)]


CLAIM = MeasuredClaim(
    name="throughput-over-order",
    statement="Throughput stays near a diagonal layer's for moderate m and falls beyond 16.",
    metric="tokens per second of a layer, forward and backward, over those of m = 1 at equal parameters",
    reason="A block of m does m multiplications a state where a diagonal layer does one, but reads and "
    f"writes about as much for its parameters. Near is at least {NEAR:g} of the diagonal layer's "
    "throughput for m of 2, 4 and 8; the numbers are rounds of measurement, not seeds.",
    judge=judge,
    measure=measure,
    planned=planned,
)
