"""Decoding, one token after the other: time per token against the length of what was read before.

Whole language models of equal parameters, greedy, checked first: logits of a decoded stretch must be those
of a forward pass. A recurrence's step does not depend on what it read, so beyond what is quick to read its
state is that of a shorter text ("injected"); attention's cache is really there at full length, filled with
noise beyond what is quick to read, and where memory ends the row says so.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import nan
from typing import Any, Protocol

import torch
from torch import Tensor

from statemix.extras import not_installed
from statemix.models import Decoder, LanguageModel, MixerConfig, ModelConfig
from statemix.models.sizing import fit

from .gate import WrongResult, relative_error

MOST_STEPS = 512
"""Steps that one measurement takes at most: a growing cache has room for them."""

LIMITS = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Relative errors of logits that a decoded stretch may have against the forward pass."""


@dataclass(frozen=True)
class Row:
    """Decoding of one model at one batch and context; times are medians."""

    model: str
    B: int
    context: int
    parameters: int
    ms_per_token: float
    tokens_per_s: float
    state_mib: float
    path: str
    state: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The models and where they are measured."""

    d: int
    layers: int
    vocabulary: int
    dtype: torch.dtype
    contexts: tuple[int, ...]
    batches: tuple[int, ...]
    read_tokens: int
    """Contexts times batch up to this many tokens are really read."""

    @property
    def heads(self) -> int:
        return max(1, self.d // 64)


def sizes_for(device: torch.device) -> Sizes:
    """134 M parameters on a GPU, 1k to 1M tokens; 4 M on a CPU, 1k to 64k."""
    if device.type == "cuda":
        contexts = tuple(2**k for k in (10, 12, 14, 16, 18, 20))
        return Sizes(
            d=768, layers=12, vocabulary=32_000, dtype=torch.bfloat16, contexts=contexts,
            batches=(1, 16, 256), read_tokens=2**18,
        )  # fmt: skip
    return Sizes(
        d=256, layers=4, vocabulary=256, dtype=torch.float32, contexts=(2**10, 2**12, 2**14, 2**16),
        batches=(1, 4), read_tokens=2**13,
    )  # fmt: skip


class Session(Protocol):
    """A model in the middle of decoding a batch."""

    path: str
    state: str

    def step(self, tokens: Tensor) -> Tensor:
        """Tokens (B,) -> logits (B, V)."""
        ...

    @property
    def state_bytes(self) -> int: ...


class Contender(Protocol):
    """A language model that can be put behind a context."""

    name: str
    parameters: int

    def logits(self, tokens: Tensor) -> Tensor:
        """The forward pass: tokens (B, T) -> logits (B, T, V)."""
        ...

    def read(self, tokens: Tensor, *, context: int, room: int) -> Session:
        """A session that stands behind ``context`` tokens, the last of them these, with room for more."""
        ...


class Ours:
    """A model of statemix behind its :class:`Decoder`, which is kept from one context to the next."""

    def __init__(self, name: str, model: LanguageModel, *, mode: str = "decoder") -> None:
        self.name, self.model, self.mode = name, model, mode
        self.parameters = sum(p.numel() for p in model.parameters())
        self._decoder: Decoder | None = None

    def logits(self, tokens: Tensor) -> Tensor:
        return self.model(tokens)

    def read(self, tokens: Tensor, *, context: int, room: int) -> Session:
        _, states = self.model.read(tokens)
        if self.mode == "eager":
            session: Any = _Eager(self.model, states)
        else:
            if self._decoder is None or self._decoder.batch_size != tokens.shape[0]:
                self._decoder = None
                if self.mode == "compiled":
                    torch.compiler.reset()  # else models and batches before it count against a limit
                self._decoder = Decoder(
                    self.model,
                    tokens.shape[0],
                    compile=self.mode == "compiled",
                    fused=False if self.mode == "not fused" else None,
                )
            self._decoder.load(states)
            session = _Decoded(self._decoder, self.mode)
        session.state = "read" if tokens.shape[1] == context else f"injected, of {tokens.shape[1]} tokens"
        return session


class _Decoded:
    def __init__(self, decoder: Decoder, mode: str) -> None:
        self._decoder = decoder
        self.step = decoder.step
        self.path = f"Decoder, {decoder.kind}{'' if mode == 'decoder' else f', {mode}'}"

    @property
    def state_bytes(self) -> int:
        return self._decoder.state_bytes


class _Eager:
    path = "LanguageModel.step, eager"

    def __init__(self, model: LanguageModel, states: Any) -> None:
        self._model, self._states = model, states

    def step(self, tokens: Tensor) -> Tensor:
        logits, self._states = self._model.step(tokens, self._states)
        return logits

    @property
    def state_bytes(self) -> int:
        return sum(state.nbytes for state in self._states)


@torch.no_grad()
def measure(
    device: torch.device,
    sizes: Sizes | None = None,
    *,
    budget_s: float = 0.5,
    orders: tuple[int, ...] = (),
    peers: bool = True,
    compile: bool = False,
    minutes: float = 9.0,
) -> Iterator[Row]:
    """Time every contender at every batch and context, one row each; after ``minutes`` rows say so.

    Raises:
        WrongResult: a decoded stretch of ours is not what the forward pass says.
    """
    sizes = sizes_for(device) if sizes is None else sizes
    deadline = time.monotonic() + 60 * minutes
    for contender in contenders(device, sizes, orders=orders, peers=peers, compile=compile):
        if isinstance(contender, Row):
            yield contender
            continue
        note = ""
        try:
            check(contender, device, sizes)
        except WrongResult as wrong:
            if isinstance(contender, Ours):
                raise
            note = str(wrong)  # a peer's own affair, which is no reason to end before it
        for batch in sizes.batches:
            for context in sizes.contexts:
                if time.monotonic() > deadline:
                    yield _unmeasured(contender, batch, context, f"not run: {minutes:g} minutes were over")
                else:
                    row = _measured(contender, batch, context, device, sizes, budget_s)
                    yield replace(row, note=row.note or note)
                if device.type == "cuda":
                    torch.cuda.empty_cache()


def contenders(
    device: torch.device, sizes: Sizes, *, orders: tuple[int, ...], peers: bool, compile: bool
) -> Iterator[Contender | Row]:
    """Models of as many parameters as a Llama of these sizes, made when they are asked for."""
    budget = llama_parameters(sizes)
    sizes_of_blocks = sorted(set(orders)) or [1, 2, 4]
    mixers = [MixerConfig(name=name, block_size=m) for m in sizes_of_blocks for name in ("bdlru", "hlru")]
    for mixer in mixers:
        if mixer.name == "hlru" and mixer.block_size == 1:
            continue  # the same recurrence as bdlru of one
        model = _model(mixer, sizes, budget, device)
        name = f"{'BD-LRU' if mixer.name == 'bdlru' else 'H-LRU'} m={mixer.block_size}"
        yield Ours(name, model)
        if compile:
            yield Ours(name, model, mode="compiled")
        if mixer == mixers[-2]:  # BD-LRU of the largest order shows what each part of the decoder saves
            if device.type == "cuda":
                yield Ours(name, model, mode="not fused")
            yield Ours(name, model, mode="eager")
    if not peers:
        return
    try:
        from .decode_peers import Llama, Mamba2
    except ModuleNotFoundError as missing:
        note = f"not run: {not_installed(missing.name or '')}"
        yield Row("Transformers' Llama and Mamba-2", 0, 0, 0, nan, nan, nan, "", note=note)
        return
    llama = Llama(sizes, device)
    yield llama
    yield Llama(sizes, device, cache="static", model=llama.model)
    yield Mamba2(sizes, device, budget)


def llama_parameters(sizes: Sizes) -> int:
    """Parameters of a Llama with SwiGLU of 8/3 D and an untied head."""
    d = sizes.d
    return sizes.layers * (4 * d * d + 3 * d * mlp_width(d) + 2 * d) + 2 * d * sizes.vocabulary + d


def mlp_width(d: int) -> int:
    """The hidden width of a SwiGLU with as many weights as a plain MLP of 4 D, as the backbone rounds it."""
    return -(-8 * d // 3 // 8) * 8


def _model(mixer: MixerConfig, sizes: Sizes, budget: int, device: torch.device) -> LanguageModel:
    config = ModelConfig(
        vocab_size=sizes.vocabulary, d_model=sizes.d, num_layers=sizes.layers, mixer=mixer
    )  # fmt: skip
    found = fit(config, parameters=budget, multiple_of=16 if sizes.d >= 512 else 1)
    torch.manual_seed(0)
    return LanguageModel(found.config).to(device=device, dtype=sizes.dtype).eval()


def check(contender: Contender, device: torch.device, sizes: Sizes) -> float:
    """Compare the logits of eight decoded tokens with those of the forward pass; the relative error."""
    tokens = torch.randint(sizes.vocabulary, (2, 24), device=device)
    wanted = contender.logits(tokens)[:, 16:]
    session = contender.read(tokens[:, :16], context=16, room=8)
    got = torch.stack([session.step(tokens[:, 16 + i]).clone() for i in range(8)], 1)
    error = relative_error(got, wanted)
    limit = LIMITS[sizes.dtype]
    if not error <= limit:
        raise WrongResult(f"{contender.name}: decoded logits are off by {error:.1e} (limit {limit:.0e})")
    return error


def _measured(
    contender: Contender, batch: int, context: int, device: torch.device, sizes: Sizes, budget_s: float
) -> Row:
    read = context if batch * context <= sizes.read_tokens else max(16, min(1024, sizes.read_tokens // batch))
    tokens = torch.randint(sizes.vocabulary, (batch, min(read, context)), device=device)
    try:
        session = contender.read(tokens, context=context, room=MOST_STEPS)
        first = torch.zeros(batch, dtype=torch.long, device=device)
        seconds = _seconds_per_step(session, first, device, budget_s)
    except (torch.OutOfMemoryError, MemoryError) as reason:
        return _unmeasured(contender, batch, context, f"out of memory: {reason}".splitlines()[0][:160])
    return Row(
        model=contender.name,
        B=batch,
        context=context,
        parameters=contender.parameters,
        ms_per_token=1e3 * seconds,
        tokens_per_s=batch / seconds,
        state_mib=session.state_bytes / 2**20,
        path=session.path,
        state=session.state,
    )


def _seconds_per_step(session: Session, tokens: Tensor, device: torch.device, budget_s: float) -> float:
    """Median over stretches of greedy steps, each token fed back, the host's work included."""
    stretch = 1

    def run() -> float:
        nonlocal tokens
        began = time.perf_counter()
        for _ in range(stretch):
            tokens = session.step(tokens).argmax(-1)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / stretch

    run()
    slowly = run() > budget_s / 8
    stretch = 1 if slowly else 8
    times = [run()]
    end = time.perf_counter() + budget_s
    while len(times) < (1 if slowly else 3) or (
        time.perf_counter() < end and stretch * (len(times) + 3) < MOST_STEPS
    ):
        times.append(run())
    return statistics.median(times)


def _unmeasured(contender: Contender, batch: int, context: int, note: str) -> Row:
    return Row(contender.name, batch, context, contender.parameters, nan, nan, nan, "", note=note)
