"""The command line: one file a command, imported when it is asked for."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from statemix.extras import EXTRA_OF, not_installed
from statemix.names import nearest

COMMANDS = {
    "demo": "train small models on this machine and write a report that shows what state mixing does",
    "text": "prepare text for training: token shards from files, folders, JSON lines, Parquet, datasets",
    "train": "train a recipe; every field of its config is a flag",
    "reproduce": "check the paper's claims on this machine: numbers, intervals, verdicts, a report",
    "sweep": "train a grid over a recipe, resumable, on all devices or a cluster, into one table",
    "generate": "write on from a prompt, with a model of yours or the small one that ships",
    "evaluate": "bits per byte and perplexity of a model on held-out text, by length of context",
    "inspect": "write a page about what the recurrent layers of a trained model do",
    "convert": "turn a run into a model of Transformers, or back",
    "bench": "measure operators and layers, after checking that they are right",
    "tasks": "list the generated tasks, and show samples of one",
    "doctor": "print versions, backends, caches and devices",
}


FAILED, MISUSED, STOPPED = 1, 2, 130
"""Exit statuses: files or runs that are not as they should be; arguments that mean nothing; Ctrl-C."""


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status; a closed pipe ends it with 141, as it ends other tools.

    What a command raises is told here, for all of them: errors of files and a lack of memory end with 1,
    other ValueErrors, which are of arguments, with 2.
    """
    output = cast("io.TextIOBase", _Output(sys.stdout or io.StringIO()))
    with contextlib.redirect_stdout(output), _warnings_as_sentences():
        try:
            status = _run(sys.argv[1:] if argv is None else argv)
        except SystemExit:  # of --help, which has printed too
            output.flush()
            raise
        output.flush()
    return status


@contextlib.contextmanager
def _warnings_as_sentences() -> Iterator[None]:
    """What statemix warns of, without the line of its code: that means nothing to who typed a command."""
    usual = warnings.formatwarning
    package = Path(__file__).parents[1]

    def sentence(message: Any, category: type[Warning], filename: str, *place: Any, **line: Any) -> str:
        if issubclass(category, RuntimeWarning) and Path(filename).is_relative_to(package):
            return f"statemix: {message}\n"
        return usual(message, category, filename, *place, **line)

    warnings.formatwarning = sentence
    try:
        yield
    finally:
        warnings.formatwarning = usual


class _Output:
    """The standard output as commands write to it.

    Its reader may leave, which is no error of files, which commands would report. What a terminal's encoding
    does not have is replaced: a model may write any character, and is not to be stopped by one.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        return self._unless_closed(self._stream.write, text.encode(encoding, "replace").decode(encoding))

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
        near = nearest(name, COMMANDS, most=1, cutoff=0.6)
        hint = f": did you mean {near[0]!r}?" if near else ""
        print(f"statemix: no command {name!r}{hint}\n\n{_usage()}", file=sys.stderr)
        return MISUSED
    try:
        # What is needed for some options only is imported when they are met.
        return importlib.import_module(f"statemix.cli.{name}").main(arguments[1:])
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return STOPPED
    except (ModuleNotFoundError, OSError, ValueError, RuntimeError, MemoryError) as error:
        status, said = _told(error)
        if status is None:
            raise
        print(f"statemix {name}: {said.removeprefix(f'{name}: ')}", file=sys.stderr)
        return status


def _told(error: Exception) -> tuple[int | None, str]:
    """The exit status that an error stands for, and what is said of it; None for an error of ours."""
    if isinstance(error, ModuleNotFoundError):
        if "pip install" in str(error):
            return MISUSED, str(error)
        package = (error.name or "").partition(".")[0]
        return (MISUSED if package in EXTRA_OF else None), f"needs {package}, but {not_installed(package)}"
    for module, name, status in _STATUS_OF:
        # What was not imported was not raised.
        kind = getattr(sys.modules.get(f"statemix.{module}"), name, None)
        if kind is not None and isinstance(error, kind):
            return status, str(error)
    if isinstance(error, OSError):
        return FAILED, str(error)
    if isinstance(error, MemoryError):
        return FAILED, f"there is not enough memory here: {error}"
    return (MISUSED if isinstance(error, ValueError) else None), str(error)


_STATUS_OF = (
    ("text.documents", "SourceError", FAILED),
    ("text.shards", "ShardError", FAILED),
    ("training.folder", "RunFolderError", FAILED),
    ("training.checkpoint", "CheckpointError", FAILED),
    ("training.workers", "WorkerLost", FAILED),
    ("cli._models", "ModelFileError", FAILED),
    ("bench.gate", "WrongResult", FAILED),
    ("experiments.sweep.store", "SweepFolderError", MISUSED),
)


def _usage() -> str:
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    head, foot = "usage: statemix COMMAND [OPTIONS]", "statemix COMMAND --help says more."
    return "\n".join([head, "", *rows, "", foot])
