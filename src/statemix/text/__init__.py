"""Text: corpora as bytes, token shards with their tokenizers, windows and packing."""

from .compression import baselines
from .corpora import Corpus, open_corpus, standard_library, text_files
from .documents import ReadOptions, SourceError
from .packing import Packed, pack, permuted
from .preparation import PrepareOptions, prepare
from .shards import ShardError, TokenShards, TokenSplit
from .tokenizers import ByteTokenizer, FileTokenizer, Tokenizer, train_bpe
from .windows import parallel_rows, random_windows

__all__ = [
    "ByteTokenizer",
    "Corpus",
    "FileTokenizer",
    "Packed",
    "PrepareOptions",
    "ReadOptions",
    "ShardError",
    "SourceError",
    "TokenShards",
    "TokenSplit",
    "Tokenizer",
    "baselines",
    "open_corpus",
    "pack",
    "parallel_rows",
    "permuted",
    "prepare",
    "random_windows",
    "standard_library",
    "text_files",
    "train_bpe",
]
