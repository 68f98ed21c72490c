"""Text as bytes: corpora, windows, and what compressors make of the same files."""

from .compression import baselines
from .corpora import Corpus, open_corpus, standard_library, text_files
from .windows import parallel_rows, random_windows

__all__ = [
    "Corpus",
    "baselines",
    "open_corpus",
    "parallel_rows",
    "random_windows",
    "standard_library",
    "text_files",
]
