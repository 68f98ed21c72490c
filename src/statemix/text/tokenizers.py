"""From text to token numbers: plain bytes, or any tokenizer.json of Hugging Face's ``tokenizers``."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from statemix.extras import import_extra
from statemix.files import write_whole

from .documents import TEXT_END, SourceError

TOKENIZER_FILE = "tokenizer.json"

# Every byte that UTF-8 has, but for the zero that no text holds.
_CODE_POINTS = (*range(1, 0x800), *range(0x800, 0xD800, 0x800), *range(0xE000, 0x110000, 0x800))
_ALL_BYTES = "".join(map(chr, _CODE_POINTS))

_END_TOKENS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "<|im_end|>", "[SEP]")


class Tokenizer(ABC):
    """Text to token numbers and back.

    vocab_size: token numbers lie below it. end_token: written behind every document, and what a model
    reads before the first token of one. end_text: how that token is spelled, if it is.
    """

    vocab_size: int
    end_token: int
    end_text: str | None

    @property
    @abstractmethod
    def identity(self) -> str:
        """The same for tokenizers that make the same tokens of every text."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest unsigned type that holds every token."""
        for kind in (np.uint8, np.uint16, np.uint32):
            if self.vocab_size - 1 <= np.iinfo(kind).max:
                return np.dtype(kind)
        raise ValueError(f"tokenizer: a vocabulary of {self.vocab_size} does not fit 32 bits")

    @abstractmethod
    def encode(self, texts: Sequence[bytes], *, spells_end: bool = False) -> list[np.ndarray]:
        """The tokens of each text (UTF-8), without the end token.

        Text that spells the end token is text like any other; ``spells_end`` takes it for the token.
        """

    @abstractmethod
    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text of tokens; the end token is left out, and bytes that are no UTF-8 become U+FFFD."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what :func:`open_tokenizer` reads."""


class ByteTokenizer(Tokenizer):
    """A token for every byte; zero, which no text holds, ends a document.

    Examples:
        >>> tokens = ByteTokenizer().encode(["né".encode()])[0]
        >>> tokens.tolist(), ByteTokenizer().decode(tokens)
        ([110, 195, 169], 'né')
    """

    vocab_size = 256
    end_token = TEXT_END
    end_text = chr(TEXT_END)

    @property
    def identity(self) -> str:
        return "bytes"

    def encode(self, texts: Sequence[bytes], *, spells_end: bool = False) -> list[np.ndarray]:
        return [np.frombuffer(text, dtype=np.uint8) for text in texts]

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        data = np.asarray(tokens, dtype=np.uint8)
        return data[data != self.end_token].tobytes().decode("utf-8", errors="replace")

    def save(self, folder: Path) -> None:
        pass


class FileTokenizer(Tokenizer):
    """A tokenizer.json, as ``tokenizers`` and ``transformers`` write it.

    Args:
        definition: what the file holds.
        end_token: the token that ends a document, or its number. Default: the first usual name that it knows.
        where: what errors call the file.

    Raises:
        SourceError: no tokenizer, or an end, or all of the usual names, that its vocabulary does not have.
        ModuleNotFoundError: ``tokenizers`` is not installed.
    """

    def __init__(
        self, definition: str, *, end_token: str | int | None = None, where: str = TOKENIZER_FILE
    ) -> None:
        self._definition = definition
        try:
            self._tokenizer = _tokenizers().Tokenizer.from_str(definition)
        except ModuleNotFoundError:
            raise
        except Exception as error:  # the library raises bare exceptions
            raise SourceError(f"tokenizer {where}: it is no tokenizer.json: {error}") from None
        # A file may cut or pad texts for its model; a corpus must come through whole.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        names = _END_TOKENS if end_token is None else (str(end_token),)
        if isinstance(end_token, int):
            if end_token < 0 or self._tokenizer.id_to_token(end_token) is None:
                raise SourceError(
                    f"tokenizer {where}: the end of a text must be a token of its vocabulary; got number "
                    f"{end_token}: correct it where the model's folder names it"
                )
            found = [end_token]
        else:
            known = [self._tokenizer.token_to_id(name) for name in names]
            found = [number for number in known if number is not None]
        if not found:
            raise SourceError(
                f"tokenizer {where}: a token must end each document, and its vocabulary holds none of "
                f"{', '.join(names)}; name one with --end-token"
            )
        self.end_token = found[0]
        # Numbers may have gaps: what counts is the largest.
        self.vocab_size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        self.end_text = self._tokenizer.id_to_token(self.end_token)

    @property
    def identity(self) -> str:
        """ "bytes" where tokens are bytes, else the checksum of what makes tokens of text.

        A file that was written again, as ``transformers`` does, may differ in all else.
        """
        if (self.vocab_size, self.end_token) == (ByteTokenizer.vocab_size, ByteTokenizer.end_token):
            every = _ALL_BYTES.encode()
            if self.encode([every])[0].tolist() == list(every):
                return "bytes"
        parts = json.loads(self._tokenizer.to_str())
        makes = {name: parts[name] for name in ("normalizer", "pre_tokenizer", "model")}
        makes["added_tokens"] = [(token["id"], token["content"]) for token in parts["added_tokens"]]
        makes["end_token"] = self.end_token
        return hashlib.sha256(json.dumps(makes, sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_file(cls, path: str | Path, *, end_token: str | int | None = None) -> FileTokenizer:
        """Read a tokenizer.json, or the one in a folder.

        Raises:
            FileNotFoundError: nothing there.
        """
        file = Path(path).expanduser()
        file = file / TOKENIZER_FILE if file.is_dir() else file
        if not file.is_file():
            raise FileNotFoundError(
                f"tokenizer: no file at {file}; give 'bytes', 'train-bpe' or the path of a tokenizer.json"
            )
        try:
            definition = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise SourceError(f"tokenizer {file}: it is not UTF-8 (byte {error.start})") from None
        return cls(definition, end_token=end_token, where=str(file))

    def encode(self, texts: Sequence[bytes], *, spells_end: bool = False) -> list[np.ndarray]:
        decoded = [text.decode("utf-8") for text in texts]
        encodings = self._tokenizer.encode_batch_fast(decoded, add_special_tokens=False)
        if self.end_text and not spells_end:
            for number, text in enumerate(decoded):
                if self.end_text in text:
                    encodings[number] = self._as_text(text)
        return [np.array(encoding.ids, dtype=self.dtype) for encoding in encodings]

    def _as_text(self, text: str) -> Any:
        """The encoding of a text whose special tokens are but letters."""
        self._tokenizer.encode_special_tokens = True
        try:
            return self._tokenizer.encode(text, add_special_tokens=False)
        finally:
            self._tokenizer.encode_special_tokens = False

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        numbers = [int(token) for token in tokens if token != self.end_token]
        return self._tokenizer.decode(numbers, skip_special_tokens=False)

    def save(self, folder: Path) -> None:
        write_whole(folder / TOKENIZER_FILE, self._definition.encode())


def check_learned_size(vocab_size: int) -> None:
    """Raise ValueError for a vocabulary that has no room for every byte and an end."""
    if not isinstance(vocab_size, int) or vocab_size < 257:
        raise ValueError(
            f"tokenizer: vocab_size must be an integer of at least 257 (bytes and an end); got {vocab_size!r}"
        )


def train_bpe(texts: Iterable[str], vocab_size: int) -> FileTokenizer:
    """A byte-level BPE learned from texts: any text can be encoded, and none is changed by it.

    Args:
        vocab_size: tokens at most: 256 bytes, the end token ``<|endoftext|>``, and merges.

    Raises:
        ValueError: a vocabulary below 257.
        ModuleNotFoundError: ``tokenizers`` is not installed.

    Source: Sennrich et al. 2016, arXiv 1508.07909; bytes as in GPT-2.
    """
    check_learned_size(vocab_size)
    library = _tokenizers()
    model = library.Tokenizer(library.models.BPE())
    model.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_END_TOKENS[0]],
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(texts, trainer)
    return FileTokenizer(model.to_str(), end_token=_END_TOKENS[0])


def open_tokenizer(kind: str, folder: Path, end_token: int) -> Tokenizer:
    """The tokenizer of a prepared folder: "bytes", or the tokenizer.json in it."""
    if kind == "bytes":
        return ByteTokenizer()
    return FileTokenizer.from_file(folder, end_token=end_token)


def _tokenizers() -> Any:
    return import_extra("tokenizers", "text: a tokenizer other than bytes")
