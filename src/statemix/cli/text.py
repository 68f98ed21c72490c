"""``statemix text``: prepare text for training, look at it, check it."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from statemix.ops.checks import check_size
from statemix.text import PrepareOptions, TokenShards, prepare

from . import MISUSED, STOPPED
from ._listing import listed


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Tokenise documents into memory-mapped shards; the same command goes on where it was stopped."""

    sources: tyro.conf.Positional[tuple[str, ...]]
    """Files, folders, or hf:NAME for a dataset of the Hugging Face hub. Plain text, JSON lines (.jsonl, also
    .gz and .zst), Parquet, and folders of save_to_disk."""

    out: Path
    """Folder of the shards."""

    options: Annotated[PrepareOptions, tyro.conf.arg(name="")] = field(default_factory=PrepareOptions)
    """How text becomes shards."""


@dataclass(frozen=True, kw_only=True)
class Info:
    """Say what a prepared folder holds, and show how a split begins."""

    folder: tyro.conf.Positional[Path]
    """Folder of shards."""

    show: int = 200
    """Tokens of the beginning that are shown as text."""

    def __post_init__(self) -> None:
        check_size("text", "--show", self.show, at_least=0)


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Take the checksum of every file of a prepared folder, and name the first that is damaged."""

    folder: tyro.conf.Positional[Path]
    """Folder of shards."""


ACTIONS = {"prepare": Prepare, "info": Info, "verify": Verify}


def main(argv: list[str]) -> int:
    """Prepare, show or check text."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0 if argv else MISUSED
    if argv[0] not in ACTIONS:
        print(f"statemix text: no action {argv[0]!r}\n\n{_usage()}", file=sys.stderr)
        return MISUSED
    action = tyro.cli(
        ACTIONS[argv[0]],
        args=argv[1:],
        prog=f"statemix text {argv[0]}",
        config=(tyro.conf.OmitArgPrefixes,),
    )
    try:
        return _run(action)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on where it was", file=sys.stderr)
        return STOPPED


def _run(action: Prepare | Info | Verify) -> int:
    if isinstance(action, Prepare):
        read = replace(action.options.read, separator=_unescaped(action.options.read.separator))
        shards = prepare(list(action.sources), action.out, replace(action.options, read=read))
        print(shards.describe())
        _say_left_out(shards)
        if all(split["tokens"] for split in shards.index["splits"].values()):
            print(f"to train on it: statemix train lm --data.path {shlex.quote(str(action.out))}")
    elif isinstance(action, Info):
        shards = TokenShards(action.folder, verify=False)
        print(shards.describe())
        for source in shards.index["made_from"]["sources"]:
            print(f"  from {source}")
        split = shards.split("train")
        print(shards.tokenizer().decode(split.read(0, min(action.show, len(split)))))
    else:
        print(f"{TokenShards(action.folder, verify=True).describe()}\nall checksums fit")
    return 0


def _unescaped(text: str) -> str:
    """Line ends as they are typed in a shell: \\n, \\r, \\t, and \\\\ for a backslash."""
    letters = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}
    return re.sub(r"\\([nrt\\])", lambda found: letters[found[1]], text)


def _say_left_out(shards: TokenShards) -> None:
    left_out = shards.index["left_out"]
    if left_out["empty"]:
        print(f"left out: {left_out['empty']:,} empty documents")
    if left_out["not_text"]:
        print(f"left out: {left_out['not_text']:,} that are no text, the first:")
        for line in left_out["named"]:
            print(f"  {line}")
    splits = shards.index["splits"]
    if not splits["validation"]["tokens"]:
        print(
            "no document fell into validation, which training needs: raise --validation-share, or cut files "
            "with --separator"
        )
    elif not splits["train"]["tokens"]:
        print("no document is left to train on: lower --validation-share, or cut files with --separator")


def _usage() -> str:
    return "\n".join(
        [
            "usage: statemix text ACTION [FLAGS]",
            "",
            *listed(ACTIONS, width=8),
            "",
            "statemix text prepare my-notes/ --out shards          a folder of plain text, byte by byte",
            "statemix text prepare a.jsonl.gz --out shards --tokenizer train-bpe --vocab-size 32000",
        ]
    )
