"""The command line: one file a command, imported when it is asked for."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import os
import sys
from collections.abc import Callable
from typing import Any, cast

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
    """Run one command and return its exit status; a closed pipe ends it with 141, as it ends other tools."""
    output = cast("io.TextIOBase", _Output(sys.stdout or io.StringIO()))
    with contextlib.redirect_stdout(output):
        try:
            status = _run(sys.argv[1:] if argv is None else argv)
        except SystemExit:  # of --help, which has printed too
            output.flush()
            raise
        output.flush()
    return status


class _Output:
    """The standard output, whose reader may leave: that is no error of files, which commands would report."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._unless_closed(self._stream.write, text)

    def flush(self) -> None:
        self._unless_closed(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _unless_closed(self, act: Callable[..., Any], *arguments: str) -> Any:
        try:
            return act(*arguments)
        except BrokenPipeError:
            # What is left in the buffer is written when the interpreter ends.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            raise SystemExit(_CLOSED_PIPE) from None


_CLOSED_PIPE = 128 + 13
"""What a shell says of a tool that ended with SIGPIPE."""


def _run(arguments: list[str]) -> int:
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
