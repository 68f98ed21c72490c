"""``statemix generate``: text from a model, byte by byte or token by token."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from statemix.models import Decoder
from statemix.models.sampling import Sampler
from statemix.ops.checks import check_size
from statemix.text import Tokenizer
from statemix.training.devices import cpu_threads

from ._models import OpenedModel, open_model

DEFAULT_PROMPT = "And it came to pass"

SMALL = 8_000_000
"""Parameters below which one thread is taken."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write on from a prompt. Without a model, the small one that ships with statemix does."""

    model: Annotated[Path | None, tyro.conf.arg(metavar="MODEL"), tyro.conf.Positional] = None
    """A run folder of statemix train, or a folder that save_pretrained wrote."""

    prompt: str | None = None
    """Text to go on from; "-" reads it from the standard input. Default: a line for the shipped model."""

    max_new_tokens: int = 300
    """Tokens to write at most."""

    temperature: float = 0.8
    """Divides the logits: 0 always takes the most likely token, 1 samples as the model says."""

    top_k: int | None = None
    """Sample among that many most likely tokens."""

    top_p: float | None = None
    """Sample among the fewest most likely tokens whose probability reaches this sum."""

    stream: bool = False
    """Print the text while it is made."""

    ignore_end: bool = False
    """Go on behind the token that ends a text."""

    seed: int = 0
    """Decides the samples."""

    device: str = "auto"
    """"auto" takes a GPU where there is one; or cpu, cuda, cuda:1."""

    threads: int = 0
    """CPU threads; 0 takes one for models so small that threads would only wait for each other."""

    compile: bool = False
    """Compile a step with torch.compile before it runs: slow to start."""


def main(argv: list[str]) -> int:
    """Generate."""
    options = tyro.cli(Options, args=argv, prog="statemix generate", description=Options.__doc__)
    _generate(options)
    return 0


def _generate(options: Options) -> None:
    check_size("generate", "--threads", options.threads, at_least=0)
    check_size("generate", "--max-new-tokens", options.max_new_tokens)
    if not 0 <= options.seed < 2**64:
        raise ValueError(f"generate: --seed must be at least 0 and below 2**64; got {options.seed}")
    opened = open_model(options.model, device=options.device)
    tokenizer = opened.text_tokenizer()
    prompt = _prompt(options, tokenizer)
    with cpu_threads(options.threads or _threads_for(opened)):
        _write(opened, tokenizer, prompt, options)


def _write(opened: OpenedModel, tokenizer: Tokenizer, prompt: np.ndarray, options: Options) -> None:
    stops = () if options.ignore_end else (tokenizer.end_token,)
    sampler = Sampler(
        temperature=options.temperature, top_k=options.top_k, top_p=options.top_p, stop_tokens=stops
    )
    tokens = _tokens(opened, prompt, sampler, options)
    # The first token waits for kernels to be compiled and the prompt to be read; what follows is the pace.
    tokens = itertools.chain([next(tokens)], tokens)
    began = time.perf_counter()
    # Decoded as one: between two texts a tokenizer of words would lose the space.
    text = prompt.tolist()
    if options.stream:
        print(tokenizer.decode(text), end="", flush=True)
        for piece in _pieces(tokens, tokenizer, text):
            print(piece, end="", flush=True)
        print()
    else:
        text.extend(tokens)
        print(tokenizer.decode(text))
    made, seconds = len(text) - len(prompt), time.perf_counter() - began
    device = opened.model.embedding.weight.device
    # The first token came before the clock was started.
    pace = f", {(made - 1) / seconds:,.0f} tokens/s" if made > 1 else ""
    print(f"[{made} tokens{pace} on {device}, seed {options.seed}]", file=sys.stderr)


def _threads_for(opened: OpenedModel) -> int:
    """One for a small model, else as many as there are (0)."""
    return 1 if sum(p.numel() for p in opened.model.parameters()) < SMALL else 0


def _prompt(options: Options, tokenizer: Tokenizer) -> np.ndarray:
    text = options.prompt
    if text is None:
        if options.model is not None:
            raise ValueError('there is no prompt; give one with --prompt "..."')
        text = DEFAULT_PROMPT
    try:
        # As bytes, since the locale that made text of them may be another than UTF-8.
        data = sys.stdin.buffer.read() if text == "-" else os.fsencode(text)
        data.decode("utf-8")
    except (UnicodeEncodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"the prompt is not UTF-8 (at {error.start}); convert it: iconv -f latin1 -t utf-8"
        ) from None
    tokens = tokenizer.encode([data], spells_end=True)[0]
    if not len(tokens):
        raise ValueError("the prompt is empty; give at least one token to go on from")
    return tokens


def _tokens(opened: OpenedModel, prompt: np.ndarray, sampler: Sampler, options: Options) -> Iterator[int]:
    device = opened.model.embedding.weight.device
    decoder = Decoder(opened.model, 1, compile=options.compile)
    generator = torch.Generator(device).manual_seed(options.seed)
    start = torch.tensor(prompt.astype(np.int64), device=device)[None]
    stream = decoder.stream(start, sampler, generator=generator)
    return (int(token) for token in itertools.islice(stream, options.max_new_tokens))


def _pieces(tokens: Iterator[int], tokenizer: Tokenizer, text: list[int]) -> Iterator[str]:
    """What tokens add to a text as they come, held back while it ends inside a character."""
    shown, read = 0, len(text)  # tokens before `shown` are printed; the text since then up to `read` too
    for token in tokens:
        text.append(token)
        before, now = tokenizer.decode(text[shown:read]), tokenizer.decode(text[shown:])
        if len(now) > len(before) and not now.endswith("\ufffd"):
            yield now[len(before) :]
            shown, read = read, len(text)
    yield tokenizer.decode(text[shown:])[len(tokenizer.decode(text[shown:read])) :]
