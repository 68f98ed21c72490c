"""What state mixing can learn, on one GPU, the most telling first: python benchmarks/studies.py --out FOLDER

Each study is a sweep of its own, its table written as groups of runs finish; of several studies each has a
limit on its time. The same command goes on with what is left; --only takes some studies, --list says what
there is. Every number is made on test data; where several learning rates or decays were tried, validation
scores choose.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from studies_changes import (
    exactly,
    fan_in,
    over,
    rising,
    sharpened,
    sharpenings,
    started,
    validated,
    with_model,
    with_options,
)

from statemix.bench.environment import write_csv
from statemix.experiments import recipe
from statemix.experiments.changes import with_data, with_mixer
from statemix.experiments.mad import TASKS, mad_recipe
from statemix.experiments.sweep import Launch, SweepFolder, Trial, run_sweep
from statemix.experiments.sweep.trials import MOST_REPLICAS
from statemix.models import MixerConfig
from statemix.training import RunConfig

TEST_EXAMPLES = 1024


def composition(name: str, steps: int) -> RunConfig:
    config = with_data(recipe(name), test_lengths=(32, 128, 512, 1024), test_examples=TEST_EXAMPLES)
    config = with_options(with_model(config, mlp="none"), block_dropout=0.0)
    return exactly(config, steps=steps)


def compositions_at_1024(seeds: int) -> Iterator[Trial]:
    """S3 and S4, one layer, trained at 32, tested up to 1,024: precision, steps, width, first weights."""
    s4 = with_options(composition("s4-composition", 3000), num_blocks=24)
    s3 = composition("s3-composition", 2000)
    wide = with_model(with_options(s3, num_blocks=32), d_model=128)
    wide_s4 = with_model(with_options(s4, num_blocks=48), d_model=256)
    for model, config in {
        "s4-composition": s4,
        "s3-composition": s3,
        "s3-composition, width 128": wide,
        "s4-composition, fan-in": fan_in(s4),
        "s4-composition, width 256": wide_s4,
        "s4-composition, width 256, fan-in": fan_in(wide_s4),
        "s3-composition, fan-in": fan_in(s3),
        "s3-composition, width 128, fan-in": fan_in(wide),
        "s4-composition, 3 x steps": replace(s4, steps=9000),
        "s3-composition, 3 x steps": replace(s3, steps=6000),
        "s3-composition, width 128, 3 x steps": replace(wide, steps=6000),
        "s4-composition, fan-in, 3 x steps": fan_in(replace(s4, steps=9000)),
        "s3-composition, width 128, fan-in, 3 x steps": fan_in(replace(wide, steps=6000)),
        "s4-composition, bfloat16": replace(s4, precision="auto"),
        "s3-composition, bfloat16": replace(s3, precision="auto"),
        **{f"s3-composition, {name}": changed for name, changed in sharpenings(s3).items()},
        **{f"s4-composition, {name}": changed for name, changed in sharpenings(s4).items()},
    }.items():
        yield from over(config, model, seeds=max(5, seeds), decays=(0.0,))
    for blocks, config in (("24", s4), ("48", with_options(s4, num_blocks=48))):
        for rate in (0.3, 0.5):
            dropped = validated(with_options(config, block_dropout=rate))
            yield from over(
                dropped, f"s4-composition, {blocks} blocks, block dropout {rate:g}, decay",
                seeds=max(10, seeds), decays=(0.01, 0.1),
            )  # fmt: skip


def what_helps_on_s4(seeds: int) -> Iterator[Trial]:
    """S4 with one thing changed: initial state, start token, embeddings, gates, normalization."""
    config = with_options(composition("s4-composition", 3000), num_blocks=24)
    zero = with_options(config, initial_state="zeros")
    for model, changed in {
        "zero initial state": zero,
        "zero initial state, start token": started(zero),
        "learned initial state, start token": started(config),
        "embeddings of 0.02": with_model(config, embedding_std=0.02),
        "gates start at identity": with_options(config, gate_init="identity"),
        "tanh": with_options(config, normalization="tanh"),
        "sigmoid": with_options(config, normalization="sigmoid"),
        "relu": with_options(config, normalization="relu"),
        "two layers": with_model(config, num_layers=2),
    }.items():
        yield from over(changed, f"s4-composition, {model}", seeds=seeds)


def large_group(name: str, seeds: int) -> Iterator[Trial]:
    made = exactly(with_data(recipe(name), test_lengths=(8, 16, 32, 64, 128), test_examples=TEST_EXAMPLES))
    config, few = (with_options(made, num_blocks=count, block_dropout=0.0) for count in (128, 48))
    halved = with_model(with_options(config, num_blocks=24), d_model=128)
    for model, changed in {
        "128 blocks, fan-in": config,
        "width 256": with_options(few, weight_init="paper"),
        "width 256, fan-in": few,
        "128 blocks, fan-in, batch 512": replace(config, batch_size=512),
        "128 blocks, fan-in, twice the steps": replace(config, steps=2 * config.steps),
        "128 blocks, twice the steps, gate noise rising to 1": rising(
            replace(config, steps=2 * config.steps), 1.0, 0.4, 0.6
        ),
        "128 blocks, twice the steps, gate noise rising to 1, sharpened gates": validated(
            rising(replace(config, steps=2 * config.steps), 1.0, 0.4, 0.6)
        ),
        "128 blocks, gate noise rising late to 1": rising(config, 1.0, 0.6, 0.9),
        "128 blocks, fan-in, half the steps": replace(config, steps=config.steps // 2),
        "128 blocks, fan-in, slowly growing": with_data(config, growing_share=0.9),
        "blocks of 8, fan-in": with_options(few, block_size=8),
        "128 blocks of 8, fan-in": with_options(config, block_size=8),
        "two layers, fan-in": with_model(few, num_layers=2),
        **{f"128 blocks, {name}": changed for name, changed in sharpenings(config).items()},
        **{f"48 blocks, {name}": changed for name, changed in sharpenings(few).items()},
        "width 128, fan-in": halved,
        "width 128, fan-in, two layers, gelu": with_model(
            halved, num_layers=2, mlp="gelu", mlp_init="fan-in"
        ),
    }.items():
        yield from over(changed, f"{name}, {model}", seeds=max(5, seeds), rates=(1e-3, 2e-3), decays=(0.0,))
    for model, changed in {
        "48 blocks": few,
        "128 blocks": config,
        "256 blocks": with_options(config, num_blocks=256),
        "128 blocks, batch 512": replace(config, batch_size=512),
        "128 blocks, two thirds of the steps": replace(config, steps=2 * config.steps // 3),
        "128 blocks, bfloat16": replace(config, precision="auto"),
        **{
            f"{blocks} blocks, block dropout {rate:g}{share}": with_options(
                replace(one, steps=steps), block_dropout=rate
            )
            for blocks, one in (("48", few), ("128", config))
            for share, steps in ((", half the steps", config.steps // 2), ("", config.steps))
            for rate in (0.3, 0.5)
        },
    }.items():
        yield from over(
            validated(changed), f"{name}, {model}, decay", seeds=max(5, seeds), decays=(0.0, 0.01, 0.1)
        )


def s5(seeds: int) -> Iterator[Trial]:
    """S5, lengths growing to 32, tested up to 128."""
    yield from large_group("s5-composition", seeds)


def a5(seeds: int) -> Iterator[Trial]:
    """A5, lengths growing to 32, tested up to 128."""
    yield from large_group("a5-composition", seeds)


REGULAR = ("regular-modular-arithmetic", "regular-cycle-navigation", "regular-parity", "regular-even-pairs")


def regular(seeds: int) -> Iterator[Trial]:
    """Four regular languages, one block size, trained up to 40, tested on 40 to 256; five seeds."""
    for name in REGULAR:
        config = exactly(with_data(recipe(name), test_examples=TEST_EXAMPLES))
        yield from over(config, name, seeds=max(5, seeds), decays=(0.0,))
        if name == "regular-modular-arithmetic":
            continue  # has a study of its own
        for model, changed in {
            f"{name}, five times the steps": replace(config, steps=5 * config.steps),
            f"{name}, lengths from 3 on": with_data(config, min_length=3),
            f"{name}, fan-in": fan_in(config),
            f"{name}, two layers, gelu": with_model(config, num_layers=2, mlp="gelu"),
        }.items():
            yield from over(changed, model, seeds=max(5, seeds), decays=(0.0,))


def modular_arithmetic(seeds: int) -> Iterator[Trial]:
    """What modular arithmetic needs: blocks, batches, widths, steps, learning rates, first weights."""
    made = with_data(recipe("regular-modular-arithmetic"), test_examples=TEST_EXAMPLES)
    base = with_options(
        exactly(made, steps=2500, gate_noise_rise=(0.0, 0.0)), gate_noise=0.0, block_dropout=0.0
    )
    wide = with_model(with_options(replace(base, batch_size=256), num_blocks=64), d_model=128)
    many = with_options(replace(base, batch_size=256), num_blocks=48)
    for model, changed in {
        "24 blocks": base,
        "48 blocks, batch 256": many,
        **{f"48 blocks, batch 256, {name}": changed for name, changed in sharpenings(many).items()},
        **{
            f"{kind}, {times}, gate noise rising to {noise:g}": rising(
                replace(one, steps=steps), noise, 0.4, 0.6 if noise == 1 else 0.8
            )
            for kind, one in (("24 blocks", base), ("48 blocks, batch 256", many))
            for times, steps in (("twice the steps", 5000), ("four times the steps", 10_000))
            for noise in (1.0, 2.0)
        },
        "24 blocks, four times the steps, gate noise rising to 1, sharpened gates": validated(
            rising(replace(base, steps=10_000), 1.0, 0.4, 0.6)
        ),
        "24 blocks, batch 128, four times the steps, gate noise rising to 1, sharpened gates": validated(
            rising(replace(base, steps=10_000, batch_size=128), 1.0, 0.4, 0.6)
        ),
        **{
            f"24 blocks, four times the steps, gate noise rising to 1, block dropout {rate:g}": with_options(
                rising(replace(base, steps=10_000), 1.0, 0.4, 0.6), block_dropout=rate
            )
            for rate in (0.2, 0.5)
        },
        "48 blocks, batch 256, twice the steps, gate noise rising to 1, block dropout 0.5": with_options(
            rising(replace(many, steps=5000), 1.0, 0.4, 0.6), block_dropout=0.5
        ),
        "32 blocks, batch 256, gate noise rising to 1, sharpened gates": validated(
            rising(with_options(many, num_blocks=32), 1.0, 0.4, 0.6)
        ),
        "48 blocks, batch 256, twice the steps": replace(many, steps=5000),
        "48 blocks, batch 256, twice the steps, gate noise rising early to 1": rising(
            replace(many, steps=5000), 1.0, 0.2, 0.4
        ),
        "48 blocks, batch 256, twice the steps, gate noise 1": sharpened(replace(many, steps=5000), 1.0),
        "48 blocks, batch 256, twice the steps, gate noise 2": sharpened(replace(many, steps=5000), 2.0),
        "48 blocks, batch 256, twice the steps, closed, gate noise 1": sharpened(
            replace(many, steps=5000), 1.0, closed=True
        ),
        "48 blocks, batch 256, four times the steps, gate noise 1": sharpened(
            replace(many, steps=10_000), 1.0
        ),
        "48 blocks, batch 256, four times the steps, gate noise 0.5": sharpened(
            replace(many, steps=10_000), 0.5
        ),
        "48 blocks, batch 256, three layers, gate noise 1": sharpened(with_model(many, num_layers=3), 1.0),
        "48 blocks, batch 256, three layers, twice the steps, gate noise 1": sharpened(
            with_model(replace(many, steps=5000), num_layers=3), 1.0
        ),
        "96 blocks, batch 256, twice the steps, gate noise 1": sharpened(
            with_options(replace(many, steps=5000), num_blocks=96), 1.0
        ),
        "width 128, 64 blocks, batch 256": wide,
        "width 128, 64 blocks, batch 256, rate 2.5e-3": replace(
            wide, optimizer=replace(wide.optimizer, learning_rate=2.5e-3)
        ),
        "width 128, 64 blocks, batch 256, 1500 steps": replace(wide, steps=1500),
        "width 128, 64 blocks, batch 256, lengths that grow": with_data(wide, start_length=3),
        "1500 steps": replace(base, steps=1500),
        "batch 256": replace(base, batch_size=256),
        "three layers": with_model(base, num_layers=3),
        "blocks of 5": with_options(base, block_size=5, num_blocks=38),
        "lengths that grow": with_data(base, start_length=3),
        "first weights of the paper": with_model(with_options(base, weight_init="paper"), mlp_init="paper"),
    }.items():
        yield from over(changed, f"modular-arithmetic, {model}", seeds=max(5, seeds), decays=(0.0,))
    yield from over(
        rising(replace(base, steps=10_000), 1.0, 0.4, 0.6),
        "modular-arithmetic, 24 blocks, four times the steps, gate noise rising to 1, decay",
        seeds=max(5, seeds),
        decays=(0.01, 0.1),
    )


def generators(seeds: int) -> Iterator[Trial]:
    """Words over a few generators of A5 and S5, trained up to 40, tested on 40 to 256."""
    for group, counts in (("S5", (32, 4)), ("A5", (4, 12))):
        for count in counts:
            config = recipe(f"{group.lower()}-generators")
            task = replace(config.data.task, num_generators=count)
            config = exactly(with_data(config, task=task, test_examples=TEST_EXAMPLES))
            config = with_options(config, block_dropout=0.0)
            paper = with_options(config, weight_init="paper")
            dropped = with_options(config, block_dropout=0.5)
            for model, changed in {
                "": config,
                ", first weights of the paper": paper,
                ", block dropout 0.5": dropped,
            }.items():
                name = f"{group}, {count} generators{model}"
                yield from over(changed, name, seeds=max(5, seeds), decays=(0.0,))


COMPARED = {
    "LSTM": MixerConfig(name="lstm", block_size=1),
    "GRU": MixerConfig(name="gru", block_size=1),
    "attention": MixerConfig(name="attention", block_size=1),
    "BD-LRU m=1": MixerConfig(name="bdlru", block_size=1),
    "H-LRU m=5": MixerConfig(name="hlru", block_size=5),
    "Mamba-2": MixerConfig(name="mamba2"),
    "Gated DeltaNet": MixerConfig(name="gated-deltanet", negative_eigenvalues=False),
    "Gated DeltaNet [-1, 1]": MixerConfig(name="gated-deltanet", negative_eigenvalues=True),
    "DeltaProduct": MixerConfig(name="deltaproduct", householder_steps=4),
    "PD-SSM": MixerConfig(name="pd-ssm"),
}
"""The baselines."""


def baselines(seeds: int) -> Iterator[Trial]:
    """The baselines on A5, S5 and S3, with the same curriculum and each help that BD-LRU has, or none."""
    groups = {name: recipe(name) for name in ("a5-composition", "s5-composition")}
    groups["s3-composition"] = exactly(recipe("s3-composition"), steps=3000)
    for help_ in ("start token", "no start token", "learned initial state"):
        for name, config in groups.items():
            config = with_data(config, test_lengths=(8, 32, 128), test_examples=TEST_EXAMPLES)
            config = replace(started(config) if help_ == "start token" else config, threads=0)
            first = "learned" if help_ == "learned initial state" else "zeros"
            for kind, mixer in COMPARED.items():
                changed = with_mixer(config, replace(mixer, initial_state=first))
                yield from over(changed, f"{name}, {kind}, {help_}", seeds=seeds, rates=(1e-3, 2e-3))


def mad(seeds: int, epochs: int = 40) -> Iterator[Trial]:
    """The six MAD tasks in a fifth of their epochs: BD-LRU by block size beside baselines."""
    mixers = {f"BD-LRU m={m}": MixerConfig(block_size=m, num_blocks=128 // m) for m in (1, 2, 4, 8)}
    mixers |= {
        f"BD-LRU m={m}, convolution": MixerConfig(block_size=m, num_blocks=128 // m, convolution=True)
        for m in (2, 4)
    }
    mixers |= {"H-LRU m=4": MixerConfig(name="hlru", block_size=4, num_blocks=32)}
    # Of other sizes of state: BD-LRU of 128 numbers and Gated DeltaNet of 8,192 differ in size and in kind.
    mixers |= {
        f"BD-LRU m=4, {4 * blocks} states": MixerConfig(block_size=4, num_blocks=blocks)
        for blocks in (256, 1024)
    }
    mixers |= {
        f"Gated DeltaNet, {heads * width**2} states": replace(
            COMPARED["Gated DeltaNet"], num_heads=heads, head_dim=width
        )
        for heads, width in ((8, 4), (16, 8))
    }
    mixers |= {"attention": MixerConfig(name="attention", num_heads=8)}
    mixers |= {name: COMPARED[name] for name in ("Mamba-2", "Gated DeltaNet", "LSTM")}
    mixers |= {
        f"{name}, no convolution": replace(COMPARED[name], convolution=False)
        for name in ("Mamba-2", "Gated DeltaNet")
    }
    for task in TASKS:
        config = replace(
            mad_recipe(task, epochs=EPOCHS_OF_MEMORIZATION if task == "memorization" else epochs)
        )
        for model, mixer in mixers.items():
            yield from over(
                with_mixer(config, mixer), f"{task}, {model}", seeds=1, rates=(5e-4, 1e-3), decays=(0.0, 0.1)
            )


EPOCHS_OF_MEMORIZATION = 400

STUDIES: dict[str, tuple[Callable[[int], Iterator[Trial]], float]] = {
    "compositions-at-1024": (compositions_at_1024, 1.5),
    "s5": (s5, 2.5),
    "a5": (a5, 2.5),
    "regular": (regular, 2.0),
    "generators": (generators, 1.5),
    "what-helps-on-s4": (what_helps_on_s4, 1.0),
    "modular-arithmetic": (modular_arithmetic, 3.0),
    "mad": (mad, 9.0),
    "baselines": (baselines, 9.0),
}
"""What there is, and minutes that each may take."""


def best(rows: Sequence[dict]) -> list[dict]:
    """For each model, the runs with the setting whose mean validation score is the highest."""
    chosen = []
    for model in dict.fromkeys(row["model"] for row in rows):
        settings: dict[tuple, list[dict]] = {}
        for row in rows:
            if row["model"] == model:
                settings.setdefault(tuple(row["settings"].items()), []).append(row)

        def mean_validation(some: list[dict]) -> float:
            scores = [
                sum(r.get("validation", {}).values()) / max(len(r.get("validation", {})), 1) for r in some
            ]
            return sum(scores) / len(scores)

        chosen += max(settings.values(), key=mean_validation)
    return chosen


def write_best(folder: SweepFolder, path: Path) -> None:
    """The scores of the best setting of each model, a row a run; no file where nothing is done yet."""
    rows = [
        {
            "model": r["model"],
            **r["settings"],
            "seed": r["seed"],
            "status": r["status"],
            **r.get("scores", {}),
        }
        for r in best(folder.results())
    ]
    if rows:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        rows = [{key: row.get(key, "") for key in columns} for row in rows]
        write_csv(path, rows, [f"command: {folder.command}"])


def shortened(trial: Trial, share: float) -> Trial:
    """The trial over a share of its steps, to try things out."""
    if share == 1:
        return trial
    return replace(trial, config=replace(trial.config, steps=max(1, int(trial.config.steps * share))))


def main() -> int:
    parser = argparse.ArgumentParser(description="Run studies of state tracking, the most telling first.")
    parser.add_argument("--out", type=Path, default=Path("studies"), help="folder; what is there goes on")
    parser.add_argument("--only", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--models", nargs="+", default=[""], help="only those whose name holds one of these")
    parser.add_argument("--rates", nargs="+", type=float, help="only these learning rates")
    parser.add_argument("--decays", nargs="+", type=float, help="only these weight decays")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only-seeds", nargs="+", type=int, help="only these of them, as parts of a study")
    parser.add_argument("--minutes", type=float, default=9.5, help="for all studies together")
    parser.add_argument(
        "--replicas", type=int, default=MOST_REPLICAS,
        help="runs trained as one; 1 suits layers that have fast kernels of their own",
    )  # fmt: skip
    parser.add_argument("--share", type=float, default=1.0, help="of the steps, to try things out")
    parser.add_argument("--list", action="store_true", help="say what there is and run nothing")
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.minutes
    for name in arguments.only:
        study, minutes = STUDIES[name]
        trials = [
            shortened(trial, arguments.share)
            for trial in study(arguments.seeds)
            if any(part in trial.model for part in arguments.models)
            and (arguments.only_seeds is None or trial.config.seed in arguments.only_seeds)
            and (not arguments.rates or trial.settings["rate"] in arguments.rates)
            and (not arguments.decays or trial.settings["decay"] in arguments.decays)
        ]
        left = (end - time.monotonic()) / 60
        if len(arguments.only) > 1:
            left = min(minutes, left)
        print(f"== {name}: {(study.__doc__ or '').strip()} {len(trials)} trials, at most {left:.1f} minutes")
        if arguments.list:
            continue
        if left <= 0:
            print("no time is left; the same command goes on")
            return 1
        folder = SweepFolder.begin(
            arguments.out / name, trials, " ".join(["python", *sys.argv]), most_replicas=arguments.replicas
        )
        launch = Launch(launcher="inline", minutes_at_most=left)
        run_sweep(folder, launch, lambda line: print(f"{time.strftime('%H:%M:%S')} {line}", flush=True))
        write_best(folder, arguments.out / f"{name}_best.csv")
    return 0


if __name__ == "__main__":
    sys.exit(main())
