"""Trains language models cell by cell (size, mixer, seed) into one table that says what was not run yet.

    python benchmarks/language_models.py --data corpus.tar.xz --out table.csv --size lm-10m \
        --mixers bdlru-4 attention --seeds 0 --tokens 200000000

Every cell of a size has as many parameters, the same rows in the same order and the same number of tokens.
``--data`` is a folder of ``statemix text prepare``, or a .tar.xz of one. Rows are read without regard to
documents, so that every mixer runs on its fastest path. The table holds a row for each cell, "not
run" until it is; its curves, configs and conditions lie beside it. A cell that is there is not run again.
With ``--cell-seconds`` in place of ``--tokens`` a cell gets as many steps as fit, measured at its beginning.
With ``--rates`` every mixer is tuned alike: a short run at each rate, with a seed and a length of schedule of
its own; the lowest loss over its last tenth is taken, of tokens it had not seen before. Tuning is kept too.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import tarfile
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from statemix.bench.environment import describe
from statemix.experiments.language import LANGUAGE_MIXERS, SIZES, language_run
from statemix.training import Observer, RunConfig, TrainResult, to_json, train
from statemix.training.data import open_source
from statemix.training.shard_data import ShardSource
from statemix.training.text_scores import score_text

KEYS = ("size", "mixer", "seed")
COLUMNS = (
    *KEYS, "status", "parameters", "tokens", "learning_rate", "bits_per_byte", "perplexity",
    "bits_per_byte_last_half", "tokens_per_second", "seconds", "peak_gib", "corpus", "device",
)  # fmt: skip
NOT_RUN = "not run"


class Table:
    """The grid as a CSV, whole at every moment."""

    def __init__(self, path: Path, grid: list[tuple[str, str, int]]) -> None:
        self.path = path
        self.rows: dict[tuple[str, str, str], dict[str, Any]] = {}
        if path.is_file():
            with open(path, newline="") as file:
                self.rows = {_key(row): row for row in csv.DictReader(file)}
        for size, mixer, seed in grid:
            row = {"size": size, "mixer": mixer, "seed": seed, "status": NOT_RUN}
            self.rows.setdefault(_key(row), row)
        self.write()

    def has(self, size: str, mixer: str, seed: int) -> bool:
        row = self.rows.get((size, mixer, str(seed)))
        return row is not None and row["status"] == "finished"

    def put(self, row: dict[str, Any]) -> None:
        self.rows[_key(row)] = row
        self.write()

    def write(self) -> None:
        order = {name: place for place, name in enumerate([*SIZES, *LANGUAGE_MIXERS])}
        rows = sorted(self.rows.values(), key=lambda r: (order[r["size"]], order[r["mixer"]], int(r["seed"])))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.writing")
        with open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(temporary, self.path)


class Curve(Observer):
    """Rows of a learning curve, kept until the cell is done."""

    def __init__(self, config: RunConfig) -> None:
        self.points: list[tuple[int, int, float]] = []
        self.row_tokens = config.batch_size * config.data.trained_length

    def logged(self, row: dict[str, Any]) -> None:
        self.points.append((row["step"], row["step"] * self.row_tokens, row["loss"]))


def cell_config(size: str, mixer: str, seed: int, arguments: argparse.Namespace, data: str) -> RunConfig:
    """The recipe of a cell with what was asked for."""
    config = language_run(size, mixer, length=arguments.length)
    rows = max(1, (arguments.batch_tokens or SIZES[size].batch_tokens) // arguments.length)
    if arguments.learning_rate:
        config = _at_rate(config, arguments.learning_rate)
    return replace(
        config,
        name=f"{size}-{mixer}-{seed}",
        seed=seed,
        data=replace(
            config.data, path=data, reset_states=False, evaluation_tokens=arguments.evaluation_tokens
        ),
        batch_size=rows,
        accumulate=arguments.accumulate,
        steps=max(1, (arguments.tokens or SIZES[size].tokens) // (rows * arguments.length)),
        compile=arguments.compile,
        device=arguments.device,
        tensorboard=False,
    )


def steps_that_fit(config: RunConfig, seconds: float) -> int:
    """How many steps a cell makes in that time, judged by twenty of them after as many to warm up."""
    began = time.perf_counter()
    trial = train(replace(config, steps=40, log_every=20), progress=False)
    rate = trial.history[-1]["tokens_per_second"]
    left = seconds - (time.perf_counter() - began)
    return max(1, int(left * rate / (config.batch_size * config.data.trained_length)))


class Tuning:
    """The learning rate of each mixer, by short runs; kept beside the table, and not done twice."""

    SEED = 1000
    COLUMNS = ("size", "mixer", "learning_rate", "tokens", "loss")

    def __init__(self, path: Path, rates: list[float], tokens: int) -> None:
        self.path, self.rates, self.tokens = path, rates, tokens
        self.rows: list[dict[str, Any]] = []
        if path.is_file():
            with open(path, newline="") as file:
                self.rows = list(csv.DictReader(file))

    def tuned(self, config: RunConfig, size: str, mixer: str) -> RunConfig:
        """The config at the best of the rates."""
        losses = {rate: self._loss(config, size, mixer, rate) for rate in self.rates}
        return _at_rate(config, min(losses, key=lambda rate: losses[rate]))

    def _loss(self, config: RunConfig, size: str, mixer: str, rate: float) -> float:
        for row in self.rows:
            if (row["size"], row["mixer"], float(row["learning_rate"])) == (size, mixer, rate):
                return float(row["loss"])
        row_tokens = config.batch_size * config.data.trained_length
        steps = max(10, self.tokens // row_tokens)
        short = replace(_at_rate(config, rate), seed=self.SEED, steps=steps, log_every=max(1, steps // 10))
        loss = train(short, progress=False).history[-1]["loss"]
        row = {
            "size": size,
            "mixer": mixer,
            "learning_rate": rate,
            "tokens": steps * row_tokens,
            "loss": loss,
        }
        self.rows.append(row)
        with open(self.path, "w", newline="") as file:
            writer = csv.DictWriter(file, self.COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)
        print(row, flush=True)
        return loss


def _at_rate(config: RunConfig, rate: float) -> RunConfig:
    return replace(config, optimizer=replace(config.optimizer, learning_rate=rate))


def run_cell(config: RunConfig, folder: Path | None) -> tuple[TrainResult, Curve, float]:
    """Train a cell, or go on with it; its result, curve and peak of memory in GiB."""
    curve = Curve(config)
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    resume = folder is not None and (folder / "config.json").is_file()
    result = train(config, out=folder, resume=resume, observers=[curve], progress=True)
    if len(curve.points) < len(result.history):
        curve.points = [(r["step"], r["step"] * curve.row_tokens, r["loss"]) for r in result.history]
    return result, curve, torch.cuda.max_memory_allocated() / 2**30 if on_gpu else float("nan")


def row_of(result: TrainResult, peak: float, source: ShardSource) -> dict[str, Any]:
    """What a cell came to; the last half of a row is where a model has read as much as it can."""
    config, length = result.config, source.config.length
    device = next(result.model.parameters()).device
    bf16 = device.type == "cuda"
    result.model.eval()
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        scores = score_text(
            result.model, source.shards.split("validation"), length=length,
            tokens=source.config.evaluation_tokens,
        )  # fmt: skip
    last = [bucket for bucket in scores.buckets if bucket.start >= length // 2]
    return {
        "status": result.status,
        "parameters": sum(p.numel() for p in result.model.parameters()),
        "tokens": result.step * config.batch_size * length,
        "learning_rate": config.optimizer.learning_rate,
        "bits_per_byte": f"{scores.bits_per_byte:.4f}",
        "perplexity": f"{scores.total.perplexity:.4f}",
        "bits_per_byte_last_half": f"{scores.bits_per_byte_in(last[-1]):.4f}" if last else "",
        "tokens_per_second": round(result.tokens_per_second),
        "seconds": f"{result.seconds:.1f}",
        "peak_gib": f"{peak:.2f}",
        "corpus": source.shards.index["sha256"][:16],
        "device": torch.cuda.get_device_name() if bf16 else "CPU",
    }


def unpacked(data: str, folder: str) -> str:
    """The folder of shards in a .tar.xz, or the folder that was given."""
    if not data.endswith(".tar.xz"):
        return data
    with tarfile.open(data) as archive:
        archive.extractall(folder, filter="data")
    found = list(Path(folder).rglob("index.json"))
    if len(found) != 1:
        raise SystemExit(f"{data} must hold one folder of shards; it holds {len(found)}")
    return str(found[0].parent)


def write_beside(out: Path, config: RunConfig, curve: Curve, head: list[str]) -> None:
    """Curve, config and conditions of a cell, beside the table."""
    curves = out.with_name(f"{out.stem}_curves.csv")
    others = []
    if curves.exists():
        with open(curves, newline="") as file:  # a cell that went on has its curve once, and whole
            others = [row for row in list(csv.reader(file))[1:] if row[0] != config.name]
    with open(curves, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["cell", "step", "tokens", "loss"])
        writer.writerows(others)
        # About a hundred points: enough for a plot, small enough to be kept.
        every = max(1, len(curve.points) // 100)
        writer.writerows(
            [config.name, step, tokens, f"{loss:.5f}"] for step, tokens, loss in curve.points[::every]
        )
    configs = out.with_name(f"{out.stem}_configs.json")
    known = json.loads(configs.read_text()) if configs.exists() else {}
    known[config.name] = to_json(config)
    known[config.name]["data"]["path"] = "the corpus of the table"
    configs.write_text(json.dumps(known, indent=1) + "\n")
    conditions = out.with_suffix(".txt")
    before = conditions.read_text() if conditions.exists() else ""
    conditions.write_text(before + "\n".join([f"cell: {config.name}", *head, ""]) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", choices=SIZES, default="lm-10m")
    parser.add_argument("--mixers", nargs="+", choices=LANGUAGE_MIXERS, default=list(LANGUAGE_MIXERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--tokens", type=int, help="of training; default: the size's own")
    parser.add_argument("--cell-seconds", type=float, help="train for as long instead of for so many tokens")
    parser.add_argument("--seconds", type=float, default=560, help="begin no cell after these")
    parser.add_argument("--learning-rate", type=float, help="default: the size's own")
    parser.add_argument("--rates", nargs="+", type=float, help="tune over these learning rates")
    parser.add_argument("--tuning-tokens", type=int, default=25_000_000, help="of each run that tunes")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--batch-tokens", type=int)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--evaluation-tokens", type=int, default=2**21)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", type=Path, help="keep runs here and go on with those that are there")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    grid = [(arguments.size, mixer, seed) for seed in arguments.seeds for mixer in arguments.mixers]
    everything = [(arguments.size, mixer, seed) for seed in arguments.seeds for mixer in LANGUAGE_MIXERS]
    table = Table(arguments.out, everything)
    device = torch.device("cuda" if torch.cuda.is_available() and arguments.device != "cpu" else "cpu")
    head = describe(device, " ".join(["python", *sys.argv]))
    beside = arguments.out.with_name(f"{arguments.out.stem}_tuning.csv")
    tuning = Tuning(beside, arguments.rates, arguments.tuning_tokens) if arguments.rates else None
    with tempfile.TemporaryDirectory() as temporary:
        data = unpacked(arguments.data, temporary)
        for size, mixer, seed in grid:
            cell = dict(zip(KEYS, (size, mixer, seed), strict=True))
            if table.has(size, mixer, seed):
                print(f"{cell}: already there")
                continue
            if time.monotonic() > end:
                print(f"{cell}: not run, out of time")
                continue
            print(f"{cell}", flush=True)
            try:
                config = cell_config(size, mixer, seed, arguments, data)
                if tuning is not None:
                    config = tuning.tuned(config, size, mixer)
                if arguments.cell_seconds:
                    config = replace(config, steps=steps_that_fit(config, arguments.cell_seconds))
                folder = None if arguments.runs is None else arguments.runs / config.name
                result, curve, peak = run_cell(config, folder)
                source = open_source(config.data)
                assert isinstance(source, ShardSource)
                table.put({**cell, **row_of(result, peak, source)})
                write_beside(arguments.out, result.config, curve, head)
            except Exception as error:  # a cell that says so; the others go on
                reason = str(error).splitlines()[0][:160] if str(error) else ""
                table.put({**cell, "status": f"failed: {type(error).__name__}: {reason}"})
            if device.type == "cuda":
                torch.cuda.empty_cache()
            print(table.rows[_key(cell)], flush=True)
    return 0


def _key(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["size"], row["mixer"], str(row["seed"])


if __name__ == "__main__":
    sys.exit(main())
