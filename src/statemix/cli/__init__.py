"""The command line: one file a command, imported when it is asked for."""

from __future__ import annotations

import difflib
import importlib
import sys

COMMANDS = {
    "demo": "train small models on this machine and write a report that shows what state mixing does",
    "text": "prepare text for training: token shards from files, folders, JSON lines, Parquet, datasets",
    "train": "train a recipe; every field of its config is a flag",
    "reproduce": "check the paper's claims on this machine: numbers, intervals, verdicts, a report",
    "sweep": "train a grid over a recipe, resumable, on all devices or a cluster, into one table",
    "generate": "write on from a prompt, with a model of yours or the small one that ships",
    "evaluate": "bits per byte and perplexity of a model on held-out text, by length of context",
    "convert": "turn a run into a model of Transformers, or back",
    "bench": "measure operators and layers, after checking that they are right",
    "tasks": "list the generated tasks, and show samples of one",
    "doctor": "print versions, backends, caches and devices",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(_usage())
        return 0
    if name == "--version":
        from statemix import __version__

        print(f"statemix {__version__}")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f": did you mean {near[0]!r}?" if near else ""
        print(f"statemix: no command {name!r}{hint}\n\n{_usage()}", file=sys.stderr)
        return 2
    try:
        # What is needed for some options only is imported when they are met.
        return importlib.import_module(f"statemix.cli.{name}").main(arguments[1:])
    except ModuleNotFoundError as missing:
        extra = _EXTRA_OF.get((missing.name or "").partition(".")[0])
        if extra is None:
            raise
        print(
            f"statemix {name}: needs {missing.name}, which a bare install leaves out; "
            f"pip install 'statemix[{extra}]'",
            file=sys.stderr,
        )
        return 2


_EXTRA_OF = {"tyro": "train", "rich": "train", "tensorboard": "train"}
_EXTRA_OF |= {"transformers": "hf", "tokenizers": "hf", "accelerate": "hf"}


def _usage() -> str:
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    head, foot = "usage: statemix COMMAND [OPTIONS]", "statemix COMMAND --help says more."
    return "\n".join([head, "", *rows, "", foot])
