"""Tokens per second of training a language model, by its mixer: forward, backward and optimiser.

    python benchmarks/language_throughput.py [--only NAMES] [--seconds 240] [--whole] [--out FILE.csv]

Twelve layers of width 768 with SwiGLU and a vocabulary of 32,000 (134 M parameters), 16 rows of 2,048
tokens, bfloat16; every mixer has about as many parameters as attention. "gemm" is the same backbone with two
plain matrix products of as many parameters in a mixer's place: what no mixer can beat. Each is measured as it
is and compiled (block by block and loss; with --whole as one graph). Attention is measured first and last.
Peers of flash-linear-attention run in processes of their own; one that cannot run here, or not in time, is a
row that says so. A row is written as soon as it is there.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from statemix.bench.environment import describe
from statemix.experiments.language import LANGUAGE_MIXERS
from statemix.models import LanguageModel, MixerConfig, ModelConfig
from statemix.models.loss import linear_cross_entropy
from statemix.models.sizing import count_mixer_parameters, count_parameters, fit
from statemix.training import OptimizerConfig
from statemix.training.optimizer import make_optimizer

OURS = ("bdlru-1", "bdlru-2", "bdlru-4", "hlru-2", "hlru-4")
SECONDS_AT_ONCE = 0.7
COLUMNS = (
    "mixer", "compiled", "parameters", "milliseconds", "tokens_per_second", "of_attention", "of_gemm",
    "activation_bytes_per_token_and_layer", "peak_gib", "note",
)  # fmt: skip
PEERS: dict[str, tuple[str, Callable[[int], dict[str, Any]]]] = {
    "fla HGRN": ("HGRNAttention", lambda d: {"expand_ratio": 1, "use_short_conv": False}),
    "fla DeltaNet": ("DeltaNet", lambda d: {"num_heads": d // 128}),
    "fla Gated DeltaNet": (
        "GatedDeltaNet",
        lambda d: {"num_heads": 4 * d // 640, "head_dim": 128, "expand_v": 1},
    ),
    "fla Mamba-2": ("Mamba2", lambda d: {"expand": 1, "num_heads": d // 64, "head_dim": 64}),
}


class Gemm(nn.Module):
    """Two matrix products of as many parameters as a mixer, and nothing between them."""

    def __init__(self, d_model: int, parameters: int) -> None:
        super().__init__()
        # A multiple of 64, as products like it.
        inner = max(64, round(parameters / (2 * d_model) / 64) * 64)
        self.up = nn.Linear(d_model, inner, bias=False)
        self.down = nn.Linear(inner, d_model, bias=False)

    def forward(self, x: Tensor, state: Any = None, **options: Any) -> Tensor:
        return self.down(self.up(x))


class Peer(nn.Module):
    """A layer of flash-linear-attention behind the interface of a mixer."""

    def __init__(self, name: str, d_model: int) -> None:
        super().__init__()
        kind, options = PEERS[name]
        layer = getattr(importlib.import_module("fla.layers"), kind)
        self.layer = layer(hidden_size=d_model, **options(d_model))

    def forward(self, x: Tensor, state: Any = None, **options: Any) -> Tensor:
        found = self.layer(x)
        return found[0] if isinstance(found, tuple) else found


def make(name: str, arguments: argparse.Namespace) -> LanguageModel:
    """The backbone with the mixer of that name, at the parameters of attention."""
    heads = max(1, arguments.width // 64)
    base = ModelConfig(
        vocab_size=arguments.vocabulary,
        d_model=arguments.width,
        num_layers=arguments.layers,
        mixer=MixerConfig(name="attention", num_heads=heads),
    )
    if name in LANGUAGE_MIXERS and name != "attention":
        config = replace(base, mixer=MixerConfig(**LANGUAGE_MIXERS[name]))
        base = fit(config, parameters=count_parameters(base), multiple_of=8, tolerance=0.1).config
    with torch.device(arguments.device):
        model = LanguageModel(base)
        for block in model.blocks if name == "gemm" or name in PEERS else ():
            each = count_mixer_parameters(base) // base.num_layers
            block.mixer = Gemm(base.d_model, each) if name == "gemm" else Peer(name, base.d_model)
    return model


def measure(name: str, compiled: bool, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: a step's time, the median of three runs of ``SECONDS_AT_ONCE``."""
    device = torch.device(arguments.device)
    on_gpu = device.type == "cuda"
    torch.manual_seed(0)
    model = make(name, arguments)
    optimizer = make_optimizer(model, OptimizerConfig(learning_rate=1e-4))
    tokens = torch.randint(arguments.vocabulary, (arguments.batch, arguments.length + 1), device=device)
    loss_of: Callable[..., Any] = linear_cross_entropy

    def whole(x: Tensor, y: Tensor) -> Tensor:
        return loss_of(model(x, return_hidden=True), model.head_weight, y).mean

    run: Callable[[Tensor, Tensor], Tensor] = whole
    activations = _activation_bytes(model, arguments) if on_gpu else float("nan")
    if compiled and arguments.whole:
        run = torch.compile(whole)
    elif compiled:
        loss_of = torch.compile(linear_cross_entropy)
        for block in model.blocks:
            block.compile()

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = run(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def seconds_of(steps: int) -> float:
        """A step's mean over some that are waited for once, as training waits when it writes its log."""
        began = time.perf_counter()
        for _ in range(steps):
            step()
        if on_gpu:
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / steps

    seconds_of(3)  # kernels are compiled and memory is reserved from here on
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    at_once = max(4, math.ceil(SECONDS_AT_ONCE / seconds_of(4)))
    times = [seconds_of(at_once) for _ in range(3)]
    seconds = statistics.median(times)
    return {
        "mixer": name,
        "compiled": kind_of_compilation(compiled, arguments),
        "parameters": sum(p.numel() for p in model.parameters()),
        "milliseconds": round(1e3 * seconds, 2),
        "tokens_per_second": round(arguments.batch * arguments.length / seconds),
        "activation_bytes_per_token_and_layer": round(activations) if on_gpu else "",
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if on_gpu else "",
    }


def _activation_bytes(model: LanguageModel, arguments: argparse.Namespace) -> float:
    """What the blocks keep from forward to backward, for each token and layer, without casts of weights."""
    rows = max(1, arguments.batch // 4)
    x = torch.randn(rows, arguments.length, arguments.width, device=arguments.device, requires_grad=True)
    casts = sum(2 * p.numel() for name, p in model.blocks.named_parameters() if p.dim() >= 2)
    with torch.autocast("cuda", torch.bfloat16):
        model.blocks(x[:, :8])  # kernels and their plans are there from here on
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    with torch.autocast("cuda", torch.bfloat16):
        y = model.blocks(x)
        torch.cuda.synchronize()
        kept = torch.cuda.memory_allocated() - before - casts
    del y
    return kept / (x.shape[0] * x.shape[1] * arguments.layers)


def kind_of_compilation(compiled: bool, arguments: argparse.Namespace) -> str:
    return "no" if not compiled else "whole" if arguments.whole else "blocks"


def peer_row(name: str, compiled: bool, limit: float) -> dict[str, Any]:
    """A row from a process of its own, ended after ``limit`` seconds."""
    command = [sys.executable, __file__, *sys.argv[1:], "--row", name, "--compiled", str(int(compiled))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"note": f"not run: not ready after {limit:.0f} s"}
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:160]
        return {"note": f"not run: {reason}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", help="mixers by name; default: all")
    parser.add_argument("--seconds", type=float, default=240, help="begin no further row after these")
    parser.add_argument("--peer-seconds", type=float, default=45, help="limit of a peer's process")
    parser.add_argument("--whole", action="store_true", help="compile model and loss as one graph")
    parser.add_argument("--uncompiled-only", action="store_true")
    parser.add_argument("--out", type=Path, help="CSV; default: lines only")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--compiled", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(measure(arguments.row, bool(arguments.compiled), arguments)))
        return 0
    end = time.monotonic() + arguments.seconds
    first = {"attention": False, "gemm": False}
    names = [
        name for name in (*first, *OURS, *PEERS) if not arguments.only or name in (*first, *arguments.only)
    ]
    table = Table(arguments)
    passes = (False,) if arguments.uncompiled_only else (False, True)
    # Peers last: what they wait for while they tune is taken from none of the others.
    cases = [(name, compiled) for peers in (False, True) for compiled in passes for name in names
             if (name in PEERS) is peers]  # fmt: skip
    for name, compiled in cases:
        row: dict[str, Any] = {"mixer": name, "compiled": kind_of_compilation(compiled, arguments)}
        left = end - time.monotonic()
        if left <= 0:
            row["note"] = "not run: out of time"
        elif name in PEERS:
            row |= peer_row(name, compiled, min(arguments.peer_seconds, left))
        else:
            try:
                row |= measure(name, compiled, arguments)
            except Exception as error:  # a row that says so; the others go on
                row["note"] = f"not run: {type(error).__name__}: {error}"[:200]
        table.add(row, compiled)
        torch.compiler.reset()
    if time.monotonic() < end:
        row = measure("attention", False, arguments) | {"note": "measured again at the end"}
        table.add(row, False)
    return 0


class Table:
    """Rows with their ratios to attention and to plain products, printed and written as they come."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.out: Path | None = arguments.out
        self.base: dict[tuple[str, bool], float] = {}
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            head = describe(torch.device(arguments.device), " ".join(["python", *sys.argv]))
            self.out.with_suffix(".txt").write_text("\n".join(head) + "\n")
            with open(self.out, "w", newline="") as file:
                csv.DictWriter(file, COLUMNS).writeheader()

    def add(self, row: dict[str, Any], compiled: bool = False) -> None:
        rate = row.get("tokens_per_second")
        if rate:
            self.base.setdefault((row["mixer"], compiled), rate)
            for column, name in (("of_attention", "attention"), ("of_gemm", "gemm")):
                base = self.base.get((name, compiled))
                row[column] = round(rate / base, 3) if base else ""
        line = "  ".join(f"{name} {row[name]}" for name in COLUMNS if row.get(name, "") != "")
        print(line, flush=True)
        if self.out is not None:
            with open(self.out, "a", newline="") as file:
                csv.DictWriter(file, COLUMNS, restval="").writerow(row)


if __name__ == "__main__":
    sys.exit(main())
