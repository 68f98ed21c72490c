"""``statemix text prepare``: any text into token shards, gone on with where it was stopped."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from statemix.files import LOCK, locked, write_json

from .documents import Part, ReadOptions, SourceError, list_parts, names_of, read_part
from .journal import (
    Journal,
    LeftOut,
    check_free,
    check_same,
    digest_of_parts,
    identity,
    nothing_done,
    read_journal,
)
from .shards import FORMAT, INDEX, JOURNAL, SPLITS, ShardError, TokenShards, digest, read_index, sha256_of
from .splitting import Splitter
from .tokenizers import (
    TOKENIZER_FILE,
    ByteTokenizer,
    FileTokenizer,
    Tokenizer,
    check_learned_size,
    train_bpe,
)
from .writing import SplitWriter

_BATCH_BYTES = 2**21
_SECONDS_BETWEEN_JOURNALS = 2.0
_NAMED = 20


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """How text becomes shards."""

    tokenizer: str = "bytes"
    """"bytes", "train-bpe" to learn one from these sources, or the path of a tokenizer.json."""

    vocab_size: int = 32_000
    """Tokens that train-bpe learns, at most."""

    training_bytes: int = 100_000_000
    """Bytes of text from the beginning that train-bpe learns from, at most."""

    end_token: str = ""
    """The token of a tokenizer.json that ends documents. Default: the first of the usual ones it has."""

    validation_share: float = 0.02
    """Share of documents, chosen by their content's hash, that are held out."""

    shard_tokens: int = 2**27
    """Tokens of a shard at most; a document is never cut, and may be longer."""

    read: ReadOptions = field(default_factory=ReadOptions)
    """How sources become documents."""

    def __post_init__(self) -> None:
        if not isinstance(self.tokenizer, str):
            hint = f": write {str(self.tokenizer)!r}" if isinstance(self.tokenizer, os.PathLike) else ""
            raise TypeError(
                f"text: tokenizer must be 'bytes', 'train-bpe' or the path of a tokenizer.json as text; got "
                f"{self.tokenizer!r}{hint}"
            )
        if not 0 <= self.validation_share < 1:
            raise ValueError(f"text: validation_share must lie in [0, 1); got {self.validation_share}")
        if self.end_token and self.tokenizer in ("bytes", "train-bpe"):
            raise ValueError(
                f"text: end_token names the end in a tokenizer.json, and {self.tokenizer!r} has its own; got "
                f"{self.end_token!r}: leave it out"
            )
        if self.tokenizer == "train-bpe":
            check_learned_size(self.vocab_size)
        for name in ("shard_tokens", "training_bytes"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"text: {name} must be an integer of at least 1; got {value!r}")


def prepare(
    sources: Sequence[str | os.PathLike[str]],
    out: str | Path,
    options: PrepareOptions | None = None,
    *,
    progress: bool | Callable[[str], None] = True,
) -> TokenShards:
    """Tokenise documents into shards; one that was stopped goes on, one that is done is opened.

    Documents come in the order of ``sources``, a folder's sorted by path. The same sources and options
    give the same bytes, stopped in between or not.

    Args:
        sources: files, folders, or ``hf:NAME`` for a dataset of the Hugging Face hub. Plain text, JSON
            lines (.jsonl, also .gz and .zst), Parquet, and folders of ``save_to_disk``.
        out: folder of the shards.
        progress: lines to standard error, or where else to.

    Raises:
        SourceError: something is no text, with its file and place; what was prepared is kept.
        ShardError: the folder holds something else, another process prepares text there, or the tokenizer's
            file has changed since.
        FileNotFoundError: a source is not there.
        TypeError: sources that are no list of names, such as a dataset itself.

    Examples:
        >>> _ = Path("a.txt").write_text("to be or not to be")
        >>> shards = prepare(["a.txt"], "shards", progress=False)
        >>> shards.tokenizer().decode(shards.split("train").read(0, 5))
        'to be'
    """
    say = progress if callable(progress) else _to_stderr if progress else (lambda line: None)
    options = options or PrepareOptions()
    folder = Path(out)
    names = names_of(sources)
    parts = _outside(folder, names, list_parts(names, options.read))
    made_from = identity(names, asdict(options), parts)
    if (folder / INDEX).is_file():
        return _already(folder, options, made_from, say)
    if read_journal(folder) is None:
        check_free(folder)
    folder.mkdir(parents=True, exist_ok=True)
    refusal = (
        f"shards {folder}: another process prepares text there now; wait for it (the same command then goes "
        f"on, or opens what is done), stop it, or choose another --out"
    )
    with locked(folder / LOCK, ShardError(refusal)):
        if (folder / INDEX).is_file():  # another process has finished it since
            return _already(folder, options, made_from, say)
        job = _Job(folder, parts, options, made_from, say)
        try:
            job.run()
        finally:
            job.close()
    return TokenShards(folder, verify=False)


def _already(
    folder: Path, options: PrepareOptions, made_from: dict[str, Any], say: Callable[[str], None]
) -> TokenShards:
    """The shards of a preparation that is done, if it is the one that is asked for."""
    if read_index(folder)["made_from"] != made_from:
        raise ShardError(
            f"shards {folder}: it holds text prepared from other sources or options; choose another --out"
        )
    shards = TokenShards(folder)
    if _tokenizer_differs(folder, options):
        raise _other_tokenizer(folder, options)
    (folder / JOURNAL).unlink(missing_ok=True)
    say(f"{folder}: already prepared")
    return shards


class _Job:
    """A preparation between two documents.

    Only :meth:`_write` moves the position, and it does so after the documents before it are written: the
    journal then holds how long each file was at that position, and all that follows can be cut off.
    """

    def __init__(
        self,
        folder: Path,
        parts: list[Part],
        options: PrepareOptions,
        made_from: dict[str, Any],
        say: Callable[[str], None],
    ) -> None:
        self.folder, self.parts, self.options = folder, parts, options
        self.made_from, self.say = made_from, say
        journal = _journal_of_the_same(folder, parts, options, made_from)
        self.splitter = Splitter(parts, options.validation_share, options.read.separator)
        # The part that is read and how many of its documents are done.
        self.position: tuple[int, int] = (0, 0)
        self.left_out: LeftOut = _nothing_left_out()
        self.tokenizer = self._make_tokenizer(anew=journal is None)
        self.writers = {
            name: SplitWriter(folder, name, self.tokenizer.dtype, options.shard_tokens) for name in SPLITS
        }
        self._began = self._said = self._journaled = time.monotonic()
        if journal is None:
            # Learning a vocabulary left its own count.
            self.left_out = _nothing_left_out()
            self._write_journal()
        else:
            part, document = journal["position"]
            self.position = part, document
            self.left_out = journal["left_out"]
            for name, writer in self.writers.items():
                writer.restore(journal["splits"][name])
            say(f"{folder}: going on after {self._total('documents'):,} documents")
        self._bytes_before = self._total("bytes")

    def run(self) -> None:
        batch: list[tuple[bytes, str]] = []
        size, after = 0, self.position
        try:
            for documents, after in self._documents():
                batch += documents
                size += sum(len(data) for data, _ in documents)
                if size >= _BATCH_BYTES:
                    self._write(batch, after)
                    batch, size = [], 0
        except SourceError as error:
            # What came before it is good: the next run begins with what was wrong.
            self._write(batch, after, journal=True)
            raise SourceError(
                f"{error} (what was prepared before it is kept; the same command goes on)"
            ) from None
        self._write(batch, after, journal=True)
        self._finish()

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()

    def _documents(self) -> Iterator[tuple[list[tuple[bytes, str]], tuple[int, int]]]:
        """Texts with their splits from the position on, each list with the position after it."""
        first, done = self.position
        for number, part in enumerate(self.parts[first:], first):
            start = done if number == first else 0
            try:
                for index, found in enumerate(read_part(part, self.options.read, start), start + 1):
                    yield self._split(part, found), (number, index)
            except SourceError as error:
                self._leave_out(error)
            yield [], (number + 1, 0)

    def _split(self, part: Part, found: bytes | SourceError) -> list[tuple[bytes, str]]:
        """What was found, with the split that it falls into; nothing for what is left out."""
        if isinstance(found, SourceError):
            self._leave_out(found)
            return []
        if not found:
            if part.given and self.splitter.is_whole_file(part):
                raise SourceError(f"text: {part.name} is empty; leave it out")
            self.left_out["empty"] += 1
            return []
        return self.splitter.split(part, found)

    def _leave_out(self, error: SourceError) -> None:
        if not self.options.read.skip_errors:
            raise error
        self.left_out["not_text"] += 1
        if len(self.left_out["named"]) < _NAMED:
            self.left_out["named"].append(str(error))

    def _write(self, batch: list[tuple[bytes, str]], after: tuple[int, int], journal: bool = False) -> None:
        end = np.array([self.tokenizer.end_token], dtype=self.tokenizer.dtype)
        encoded = self.tokenizer.encode([data for data, _ in batch]) if batch else []
        for (data, split), tokens in zip(batch, encoded, strict=True):
            self.writers[split].add(np.concatenate([tokens, end]), len(data) + 1)
        self.position = after
        if journal or time.monotonic() - self._journaled > _SECONDS_BETWEEN_JOURNALS:
            self._write_journal()
        if time.monotonic() - self._said > _SECONDS_BETWEEN_JOURNALS:
            self.say(self._progress())
            self._said = time.monotonic()

    def _write_journal(self) -> None:
        part, document = self.position
        journal: Journal = {
            "made_from": self.made_from,
            "position": self.position,
            "parts_before": digest_of_parts(self.parts[: part + (document > 0)]),
            "left_out": self.left_out,
            "splits": {name: writer.sync() for name, writer in self.writers.items()},
        }
        write_json(self.folder / JOURNAL, journal)
        self._journaled = time.monotonic()

    def _finish(self) -> None:
        if not self._total("documents"):
            named = "".join(f"; {line}" for line in self.left_out["named"][:3])
            raise SourceError(f"text: the sources hold no text at all{named}")
        for writer in self.writers.values():
            writer.finish()
        files = {name: entry for w in self.writers.values() for name, entry in w.files.items()}
        if (self.folder / TOKENIZER_FILE).is_file():
            file = self.folder / TOKENIZER_FILE
            files[TOKENIZER_FILE] = {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
        index: dict[str, Any] = {
            "format": FORMAT,
            "tokenizer": "bytes" if self.tokenizer.identity == "bytes" else TOKENIZER_FILE,
            "vocab_size": self.tokenizer.vocab_size,
            "end_token": self.tokenizer.end_token,
            "splits": {
                name: {"tokens": w.tokens, "documents": w.documents, "bytes": w.bytes, "shards": w.shards}
                for name, w in self.writers.items()
            },
            "files": files,
            "left_out": self.left_out,
            "made_from": self.made_from,
        }
        index["sha256"] = digest(index)
        write_json(self.folder / INDEX, index)
        # Who opens it from now on takes the journal away too.
        (self.folder / JOURNAL).unlink(missing_ok=True)

    def _make_tokenizer(self, *, anew: bool) -> Tokenizer:
        options = self.options
        if options.tokenizer == "bytes":
            return ByteTokenizer()
        end_token = options.end_token or None
        if not anew:
            return FileTokenizer.from_file(self.folder, end_token=end_token)
        if options.tokenizer == "train-bpe":
            self.say(f"learning a vocabulary of {options.vocab_size:,}")
            tokenizer = train_bpe(self._texts(), options.vocab_size)
        else:
            tokenizer = FileTokenizer.from_file(options.tokenizer, end_token=end_token)
        tokenizer.save(self.folder)
        return tokenizer

    def _texts(self) -> Iterator[str]:
        """Documents to learn a vocabulary from: none that is held out."""
        size = 0
        for documents, _ in self._documents():
            for data, _ in (pair for pair in documents if pair[1] == "train"):
                yield data.decode("utf-8")
                size += len(data)
            if size >= self.options.training_bytes:
                break

    def _total(self, what: str) -> int:
        return sum(getattr(writer, what) for writer in self.writers.values())

    def _progress(self) -> str:
        seconds = time.monotonic() - self._began
        done = self._total("bytes")
        rate = (done - self._bytes_before) / seconds
        whole = sum(part.size for part in self.parts)
        plain = all(part.size >= 0 and part.kind == "text" for part in self.parts)
        left = f", {max(0, whole - done) / rate:.0f} s left" if plain and rate else ""
        return (
            f"{self._total('documents'):,} documents, {done / 1e6:,.1f} MB, "
            f"{self._total('tokens'):,} tokens, {rate / 1e6:.1f} MB/s{left}"
        )


def _journal_of_the_same(
    folder: Path, parts: list[Part], options: PrepareOptions, made_from: dict[str, Any]
) -> Journal | None:
    """The journal of a preparation to go on with; None where one begins, also in place of one without text.

    Raises:
        ShardError: a preparation that has some text already was begun otherwise.
    """
    journal = read_journal(folder)
    if journal is None:
        return None
    if nothing_done(journal) and (journal["made_from"] != made_from or _tokenizer_differs(folder, options)):
        if options.tokenizer == "bytes":
            (folder / TOKENIZER_FILE).unlink(missing_ok=True)
        return None
    check_same(folder, journal, made_from, parts)
    if _tokenizer_differs(folder, options):
        raise _other_tokenizer(folder, options)
    return journal


def _tokenizer_differs(folder: Path, options: PrepareOptions) -> bool:
    """Whether the file that is named as the tokenizer makes other tokens now than the one that is kept."""
    if options.tokenizer in ("bytes", "train-bpe") or not Path(options.tokenizer).expanduser().exists():
        return False
    named, kept = (
        FileTokenizer.from_file(path, end_token=options.end_token or None)
        for path in (options.tokenizer, folder)
    )
    return named.identity != kept.identity


def _other_tokenizer(folder: Path, options: PrepareOptions) -> ShardError:
    return ShardError(
        f"shards {folder}: it was prepared with another tokenizer than {options.tokenizer} is now; put back "
        f"the one that is kept as {folder / TOKENIZER_FILE}, or choose another --out"
    )


def _nothing_left_out() -> LeftOut:
    return {"empty": 0, "not_text": 0, "named": []}


def _outside(folder: Path, names: list[str], parts: list[Part]) -> list[Part]:
    """The parts without what lies in the folder of the shards, where that is within a folder of sources."""
    inside = os.path.join(os.path.abspath(folder), "")
    if any(os.path.abspath(os.path.expanduser(name)).startswith(inside) for name in names):
        return parts  # it was asked for by its own name
    return [part for part in parts if part.given or not os.path.abspath(part.name).startswith(inside)]


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
