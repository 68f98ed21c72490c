"""What state tracking needs, in small runs on one CPU core: python benchmarks/findings.py --out FOLDER

    initial-state   a start token, a learned initial state, both or neither; a drawn state that stays
    relu-gates      how gates of each normalization learn, looked at while they do; remedies for ReLU
    mixed-blocks    one block size against three side by side, at equal parameters
    sharper-gates   what a factor on the gate logits of a trained model does to it
    whole-rules     how many blocks hold the whole rule of S4: weight decay, blocks left out of what is read

The seeds of a model are trained as one; a table is written anew after each model. No score chooses anything.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import findings_layers as tried
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statemix import BDLRU
from statemix.analysis import contrast_left, record_inputs, running_products, summarize
from statemix.bench.environment import describe, write_csv
from statemix.experiments import recipe
from statemix.models import MixerConfig, make_mixer, make_model
from statemix.models.sizing import fit
from statemix.nn import sharpen_gates
from statemix.tasks import CycleNavigation
from statemix.training import RunConfig, TaskData, evaluate, open_source, train_replicas
from statemix.training.replica_batches import stacked_batches
from statemix.training.stacked import StackedModels

Case = tuple[str, RunConfig]
Rows = Iterator[dict[str, Any]]
BDLRU_MIXER = recipe("s3-composition").model.mixer
FACTORS = (1.0, 1.25, 1.5, 2.0, 3.0, 5.0)


def s3(mixer: MixerConfig, *, start_token: bool = False) -> RunConfig:
    """The recipe of S3 with another mixer, and perhaps a start token."""
    config = recipe("s3-composition")
    data = replace(config.data, task=replace(config.data.task, start_token=start_token), test_examples=256)
    return replace(config, tensorboard=False, data=data, model=replace(config.model, mixer=mixer))


def cycle(mixer: MixerConfig, *, start_token: bool) -> RunConfig:
    """Cycle navigation in one layer, answers at every step of lengths 3 to 40."""
    task = CycleNavigation(start_token=start_token)
    data = TaskData(task=task, min_length=3, labels="every", test_lengths=(40, 128, 256), test_examples=512)
    return replace(s3(mixer), data=data, steps=600)


def s4() -> RunConfig:
    """The recipe of S4 with 24 blocks in 500 steps, all of them read and their gates as trained."""
    config = recipe("s4-composition")
    model = replace(config.model, mixer=replace(config.model.mixer, num_blocks=24, block_dropout=0.0))
    return replace(config, model=model, steps=500, sharpen_gates=(), tensorboard=False)


def initial_state() -> Iterator[Case]:
    """What stands in the state before it is permuted."""
    mixers = {
        "S3, BD-LRU m=3": BDLRU_MIXER,
        "cycle navigation, BD-LRU m=5": replace(BDLRU_MIXER, block_size=5, num_blocks=10),
        "S3, LSTM": MixerConfig(name="lstm", block_size=1, num_blocks=48),
        "S3, GRU": MixerConfig(name="gru", block_size=1, num_blocks=48),
    }
    for kind in ("drawn, fixed", "learned from zero"):
        yield f"S3, BD-LRU m=3, {kind}", s3(tried.variant(kind, tried.OtherStart, kind=kind))
    for model, mixer in mixers.items():
        for state, with_state in (("zeros", "no state"), ("learned", "learned state")):
            for token, with_token in ((False, "no token"), (True, "start token")):
                start = cycle if model.startswith("cycle") else s3
                config = start(replace(mixer, initial_state=state), start_token=token)
                yield f"{model}, {with_state}, {with_token}", config


def relu_gates() -> Iterator[Case]:
    """S3 with gates of each normalization, and remedies for ReLU."""
    gates: dict[str, dict[str, Any]] = {
        **{name: {} for name in ("softmax", "sigmoid", "tanh", "linear", "relu", "none")},
        **{f"relu, bias {bias}": {"bias": bias} for bias in (1, 3)},
        "relu, epsilon 0.1": {"phi": F.relu, "epsilon": 0.1},
        "relu, gradient of the identity": {"phi": tried.identity_gradient},
        "relu + 0.01": {"phi": tried.with_floor},
        "relu + 0.01 softplus": {"phi": tried.leaky},
        "softplus": {"phi": F.softplus},
    }
    for name, options in gates.items():
        normalization = "none" if "phi" in options else name.partition(",")[0]
        mixer = tried.variant(f"gates {name}", tried.OtherGates, **options)
        yield name, s3(replace(mixer, normalization=normalization))


def mixed_blocks() -> Iterator[Case]:
    """Three tasks in one model, then each alone: half of 60 channels in blocks of 2, a quarter of 3, of 5."""
    sides = tried.variant("side by side", tried.SideBySide, blocks=((2, 15), (3, 5), (5, 3)))
    wanted = sum(p.numel() for p in make_mixer(sides, s3(sides).model.d_model).parameters())
    for name, task in {"one of three": tried.OneOfThree(), **tried.SINGLE_TASKS}.items():
        config = replace(s3(sides), data=replace(s3(sides).data, task=task)).resolved()
        config = replace(config, steps=1200) if name == "one of three" else config
        yield f"{name}, blocks of 2, 3 and 5", config
        for m in (2, 3, 5, 8):
            single = replace(config.model, mixer=replace(BDLRU_MIXER, block_size=m))
            yield f"{name}, blocks of {m}", replace(config, model=fit(single, mixer_parameters=wanted).config)


def sharper_gates() -> Iterator[Case]:
    """Rules that one source a row solves, learned and half learned, and one that mixes on the way."""
    base = s3(BDLRU_MIXER)
    long = replace(base.data, test_lengths=(32, 128, 512, 1024))
    yield (
        "S3, 2,000 steps",
        replace(base, data=long, steps=2000, model=replace(base.model, mlp="none"), precision="float32"),
    )
    yield "S4, 500 steps", replace(s4(), data=replace(long, task=s4().data.task))
    arithmetic = recipe("regular-modular-arithmetic")
    quiet = replace(arithmetic, gate_noise_rise=(0.0, 0.0), steps=1500, tensorboard=False)
    mixer = replace(quiet.model.mixer, gate_noise=0.0, block_dropout=0.0)
    yield "modular arithmetic, 1,500 steps", replace(quiet, model=replace(quiet.model, mixer=mixer))


def whole_rules() -> Iterator[Case]:
    """S4 by weight decay and block dropout, before all of the steps of its recipe."""
    base = s4()
    for dropout, decay in ((0.0, 0.0), (0.0, 0.5), (0.3, 0.01), (0.5, 0.01)):
        model = replace(base.model, mixer=replace(base.model.mixer, block_dropout=dropout))
        optimizer = replace(base.optimizer, weight_decay=decay)
        yield (
            f"block dropout {dropout:g}, weight decay {decay:g}",
            replace(base, model=model, optimizer=optimizer),
        )


def transitions(model: nn.Module, inputs: Tensor) -> dict[str, float]:
    """What transitions after the first token do: spectra, and what the best block keeps for 31 steps."""
    layer, x = next(iter(record_inputs(model, inputs).values()))
    transition = layer.transition(x)[:, 1:]
    found = summarize(torch.linalg.eigvals(transition.double()))
    left = contrast_left(running_products(transition[:, :31])[:, -1]).amax(-1).mean().item()
    return {"complex_share": found.complex_share, "radius": found.radius, "contrast_left": left}


def trained(model: str, configs: list[RunConfig]) -> Rows:
    """A row for each seed."""
    for result in train_replicas(configs, progress=False):
        row: dict[str, Any] = {"model": model, "seed": result.config.seed, "status": result.status}
        row |= {"parameters": sum(p.numel() for p in result.model.parameters()), **result.scores}
        if isinstance(result.model.blocks[0].mixer, BDLRU) and result.status == "finished":
            inputs, _ = result.config.data.task.with_length(32).sample(32, split="validation")
            row |= transitions(result.model, inputs)
        yield row


def sharpened(model: str, configs: list[RunConfig]) -> Rows:
    """Scores of each seed with its gates as trained, and times a factor."""
    source = open_source(configs[0].resolved().data)
    for result in train_replicas(configs, progress=False):
        for factor in FACTORS:
            trial = copy.deepcopy(result.model)
            sharpen_gates(trial, factor)
            yield {"model": model, "seed": result.config.seed, "factor": factor, **evaluate(trial, source)}


def rules(model: Any, symbols: int) -> dict[str, float]:
    """Of a layer whose tokens are all permutations: which of its blocks permute by every one of them."""
    layer, x = next(iter(record_inputs(model, torch.arange(symbols)[:, None]).values()))
    transition = layer.transition(x)[:, 0]  # (symbols, N, M, M)
    largest, source = transition.max(-1)
    # A row that takes most of what enters moves no state, whichever it takes the rest from.
    permutes = (source.sort(-1).values == torch.arange(layer.block_size)).all(-1) & (largest > 0.5).all(-1)
    counts = permutes.sum(0)
    whole = counts == symbols
    read = layer.output.weight.unflatten(1, (layer.block_size, -1)).square().sum((0, 1))
    return {
        "most_permutations": counts.max().item(),
        "whole_blocks": whole.sum().item(),
        "read_from_whole_blocks": (read[whole].sum() / read.sum()).item(),
        "least_gate_of_the_best": largest[:, counts.argmax()].min().item(),
    }


def ruled(model: str, configs: list[RunConfig]) -> Rows:
    """Scores of each seed, and what its blocks hold."""
    symbols = configs[0].resolved().model.vocab_size
    for result in train_replicas(configs, progress=False):
        result.model.eval()
        found = rules(result.model, symbols)
        yield {"model": model, "seed": result.config.seed, **result.scores, **found}


def watched(model: str, configs: list[RunConfig]) -> Rows:
    """A row for each look at each seed while all are trained; scores stand in the last."""
    configs = [config.resolved() for config in configs]
    models = []
    for config in configs:
        torch.manual_seed(config.seed)
        models.append(make_model(config.model))
    state, source = StackedModels(models, configs), open_source(configs[0].data)
    before, steps = 0, configs[0].steps
    one_more = [replace(config, steps=steps + 1) for config in configs]
    for step, (inputs, targets) in enumerate(stacked_batches(one_more, 0, torch.device("cpu"))):
        if step / steps in (0, 0.05, 0.125, 0.25, 0.5, 1):
            sums, before = state.take_sums() / max(step - before, 1), step
            for i, config in enumerate(configs):
                row = {"model": model, "seed": config.seed, "step": step, "alive": bool(state.alive[i])}
                row |= {"loss": sums[i, 0].item(), "gradient_norm": sums[i, 3].item()}
                models[i].load_state_dict(state.replica(i))
                if row["alive"]:
                    row |= look(models[i], inputs[i], targets[i].long())
                    row |= evaluate(models[i], source) if step == steps else {}
                yield row
        if step < steps:
            state.update(inputs, targets)


def look(model: Any, inputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Of one batch: rows and logits that are shut, gradients of the gates, what transitions keep."""
    layer = model.blocks[0].mixer
    answers, (state,) = model(inputs, return_states=True)
    layer.logits.retain_grad()
    model.zero_grad()
    F.cross_entropy(answers.flatten(0, 1), targets.flatten()).backward()
    return {
        "no_logit_above_0": (layer.logits <= 0).all(-2).double().mean().item(),
        "logits_without_gradient": (layer.logits.grad == 0).double().mean().item(),
        "gate_gradient": layer.gate.weight.grad.norm().item(),
        "largest_gradient_of_a_logit": layer.logits.grad.abs().max().item(),
        "final_state": state.abs().max().item(),
        **transitions(model, inputs),
    }


STUDIES: dict[str, tuple[Callable[[], Iterator[Case]], Callable[[str, list[RunConfig]], Rows]]] = {
    "initial-state": (initial_state, trained),
    "relu-gates": (relu_gates, watched),
    "mixed-blocks": (mixed_blocks, trained),
    "sharper-gates": (sharper_gates, sharpened),
    "whole-rules": (whole_rules, ruled),
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Small studies of state tracking, on one CPU core.")
    parser.add_argument("--out", type=Path, default=Path("findings"), help="folder for the tables")
    parser.add_argument("--only", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--models", nargs="+", default=[""], help="only those whose name holds one of these")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="in place of each study's own, to try things out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    head = describe(torch.device("cpu"), " ".join(["python", *sys.argv]))
    for name in arguments.only:
        study, measure = STUDIES[name]
        rows: list[dict[str, Any]] = []
        for model, config in study():
            if not any(part in model for part in arguments.models):
                continue
            steps = arguments.steps or config.steps
            rows += measure(model, [replace(config, steps=steps, seed=n) for n in range(arguments.seeds)])
            print(name, rows[-1], flush=True)
            columns = dict.fromkeys(key for row in rows for key in row)
            table = ({key: row.get(key, "") for key in columns} for row in rows)
            write_csv(arguments.out / f"{name.replace('-', '_')}.csv", table, head)
    return 0


if __name__ == "__main__":
    sys.exit(main())
