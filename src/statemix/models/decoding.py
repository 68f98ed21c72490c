"""``Decoder``: a model that says one token after the other, in memory that is allocated once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from statemix.nn.fused_step import unfused_steps
from statemix.ops.checks import check_size
from statemix.shapes import Mask, Tokens

from .buffered_step import BufferedStep, can_buffer
from .fused_step import FusedStep, can_fuse
from .inputs import check_prompt, check_tokens, unknown_token
from .language_model import LanguageModel
from .places import Places
from .sampling import Sampler, continued
from .states import grows, map_tensors, tensors_in

StepKind = Literal["streamed", "fused", "graph", "buffered", "moved", "growing"]


class Decoder:
    """Decode a batch of sequences step by step at constant time and memory.

    On a GPU a step is one CUDA graph over static buffers, of few fused kernels for BD-LRU and H-LRU. On a
    CPU these run in buffers that are allocated once (in float32). Other mixers of constant state run as they
    are, and their states are moved into buffers; mixers whose state grows (attention with its cache) run as
    they are.

    Args:
        model: the model, whose device and dtype count; it is read, not copied. An update of a weight counts
            at once; a tensor or a part put in another's place from the next prompt on, on a CPU at once: the
            decoder's own states are then cast to the dtype that the model asks for now.
        batch_size: B, sequences side by side.
        compile: fuse a step with torch.compile before it is captured or run.
        fused: False captures the model's own step on a GPU; True raises where fused kernels cannot run.

    Raises:
        ValueError: a batch size below 1, a model in training mode, or ``fused=True`` for another model than
            one of BD-LRU or H-LRU on a GPU, in one dtype of float32, bfloat16 or float16. TypeError: a model
            of another kind.

    Examples:
        >>> from statemix import LanguageModel, ModelConfig
        >>> model = LanguageModel(ModelConfig(vocab_size=11, d_model=16)).eval()
        >>> decoder = Decoder(model, batch_size=2)
        >>> logits = decoder.prefill(torch.randint(11, (2, 5)))
        >>> logits = decoder.step(logits.argmax(-1))
        >>> logits.shape, decoder.kind
        (torch.Size([2, 11]), 'buffered')
    """

    @torch.no_grad()
    def __init__(
        self, model: LanguageModel, batch_size: int, *, compile: bool = False, fused: bool | None = None
    ) -> None:
        if not all(hasattr(model, part) for part in ("embedding", "blocks", "step", "read")):
            raise TypeError(
                f"Decoder: model must be a LanguageModel; got {type(model).__name__}: "
                f"statemix.models.huggingface.from_huggingface(model) makes one of a Transformers model"
            )
        batch_size = check_size("Decoder", "batch_size", batch_size)
        self.model, self.batch_size = model, batch_size
        self._check_mode()
        self._compile, self._fused = compile, fused
        self._started = False
        self._prepare()

    @torch.inference_mode(False)  # whose tensors nothing outside of it may write into
    @torch.no_grad()
    def _prepare(self) -> None:
        """Buffers and a step for the parts that the model has now."""
        model = self.model
        fuses = not self._compile and can_fuse(model)
        if self._fused and not fuses:
            raise ValueError(
                "Decoder: fused=True needs BD-LRU or H-LRU layers with backend 'auto' or 'triton', on one "
                "GPU with Triton, in one dtype of float32, bfloat16 or float16, and compile=False; "
                "leave fused out to take what runs"
            )
        self._tokens = torch.zeros(self.batch_size, dtype=torch.long, device=model.embedding.weight.device)
        _, self._states = model(self._tokens[:, None], return_states=True)
        self._grows = any(grows(block.mixer) for block in model.blocks)
        step: Callable[..., Any] = model.step
        if self._compile:
            step = torch.compile(model.step, dynamic=self._grows)
        self._model_step = step
        if self._fused is False:
            with unfused_steps():
                self._run = self._make_step(fuse=False)
        else:
            self._run = self._make_step(fuse=fuses)
        self._places = Places(model)

    def _check_mode(self) -> None:
        """Raise in training mode, whose noise a step that was made in evaluation mode does not draw."""
        if self.model.training:
            raise ValueError("Decoder: the model is in training mode; call model.eval() first")

    def _reads_the_model(self) -> bool:
        """Whether a step still reads what the model has, and not what it had when the step was made."""
        if self._grows:  # it holds no buffer, and asks the model each time
            return True
        fits = {"buffered": can_buffer, "streamed": can_fuse, "fused": can_fuse}.get(self._kind)
        return self._places.hold() and (fits is None or fits(self.model))

    def __copy__(self) -> Decoder:
        """As a deep copy: two decoders over one state would move each other on."""
        return copy.deepcopy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Decoder:
        """A decoder of the same model that stands where this one does, in buffers of its own."""
        # Its step holds on to places in memory, by which a copy would move the original's states.
        made = memo[id(self)] = Decoder(self.model, self.batch_size, compile=self._compile, fused=self._fused)
        if self._started:
            made._take_over(self._states)
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            "Decoder: it holds places in memory that a step reads, and cannot be pickled or sent to "
            "another process; send the model, and decoder.states, and make a Decoder there that loads them "
            "(copy.deepcopy copies it here)"
        )

    @property
    def kind(self) -> StepKind:
        """How a step runs: "streamed", "fused", "graph", "buffered", "moved" or "growing".

        The first three are CUDA graphs. A streamed one reads each weight once, in four kernels a block; a
        fused one, for larger batches, has one kernel between its products for each recurrence.
        """
        return self._kind

    @property
    def states(self) -> tuple[Any, ...]:
        """The state of each layer where it lies: it changes with every step."""
        return self._states

    @property
    def state_bytes(self) -> int:
        """Bytes of all states."""
        return sum(tensor.nbytes for tensor in tensors_in(self._states))

    @torch.no_grad()
    def prefill(self, prompt: Tokens, mask: Mask | None = None, *, piece: int = 4096) -> Tensor:
        """Read prompts (B, T) from the start, ``piece`` tokens at a time; the logits (B, V) after them.

        ``mask`` (B, T) is True at real tokens, for prompts of unequal length padded on the left.
        """
        self._check_mode()
        check_prompt(prompt, mask, self.model.embedding.num_embeddings)
        if prompt.shape[0] != self.batch_size:
            raise ValueError(
                f"Decoder: prompt must have the batch size {self.batch_size} of the decoder; got "
                f"{tuple(prompt.shape)}: make another Decoder for it"
            )
        logits, states = self.model.read(prompt, mask=mask, piece=piece)
        self.load(states)
        return logits

    @torch.no_grad()
    def load(self, states: tuple[Any, ...]) -> None:
        """Go on from these states, such as a model's own ``return_states=True`` gives.

        States of constant size are float32 whatever the model's dtype (float64 for float64), and a cache of
        attention is taken as it is, so those of a copy of the model in another of the narrow dtypes fit too.

        Raises:
            ValueError: states of another model or batch size, or a model that was put in training mode.
                TypeError: what are no states, or those of a model in another dtype. The states that were
                there stay.
        """
        self._check_mode()
        if not self._reads_the_model():
            self._follow()
        self._check_states(states)
        self._take(states)

    def _follow(self) -> None:
        """Make the step anew for what the model is by now; the states go over where they fit it."""
        before, started = self._states, self._started
        self._prepare()
        self._started = False
        if started:
            self._take_over(before)

    def _take_over(self, before: tuple[Any, ...]) -> None:
        """Go on from a decoder's states of the same model; where that was cast since, they are too."""
        if self._have_the_shapes_of(before):
            wanted = iter([tensor.dtype for tensor in tensors_in(self._states)])
            self._take(map_tensors(lambda tensor: tensor.to(next(wanted), copy=True), before))

    def _check_states(self, states: Any) -> None:
        """Raise unless the model can go on from these states as it is."""
        if not isinstance(states, tuple | list) or len(states) != len(self._states):
            given = len(states) if isinstance(states, tuple | list) else type(states).__name__
            raise ValueError(
                f"Decoder: states must be a tuple, one for each layer: {len(self._states)}; got {given}"
            )
        if not self._have_the_shapes_of(states):
            shapes, found = _shapes(self._states), _shapes(states)
            but = ", but for one size of each that grows" if self._grows else ""
            raise ValueError(
                f"Decoder: states must have the shapes {shapes}{but}; got {found}: they are of another model "
                f"or batch size"
            )
        for block, ours, theirs in zip(self.model.blocks, self._states, states, strict=True):
            if grows(block.mixer):  # a cache has the dtype of what it was read in, as under autocast
                continue
            for here, there in zip(tensors_in(ours), tensors_in(theirs), strict=True):
                if here.dtype != there.dtype:
                    raise TypeError(
                        f"Decoder: states must be {here.dtype} for this model; got {there.dtype}: they are "
                        f"of a model in another dtype; read the text again with prefill(), or cast them with "
                        f".to()"
                    )

    def _have_the_shapes_of(self, states: Sequence[Any]) -> bool:
        return _same_shapes(_shapes(self._states), _shapes(states), grow=self._grows)

    def _take(self, states: tuple[Any, ...]) -> None:
        """Go on from states that are known to fit."""
        if self._grows:
            self._states = states
        else:
            torch._foreach_copy_(tensors_in(self._states), tensors_in(states))
        self._started = True

    @torch.no_grad()
    def step(self, tokens: Tensor) -> Tensor:
        """Tokens (B,) -> logits (B, V), in a buffer that the next step writes over.

        Raises:
            RuntimeError: before :meth:`prefill` or :meth:`load`. ValueError: another batch size, a model that
                was put in training mode, or on a CPU tokens that the model does not have. TypeError: tokens
                that are no integers.
        """
        self._check_mode()
        if self._kind in ("buffered", "moved") and not self._places.hold():
            self._follow()
        if not self._started:
            raise RuntimeError(
                "Decoder: there is no state yet, or none that fits the model as it is by now; call "
                "prefill(prompt) or load(states) first"
            )
        check_tokens("Decoder", tokens, 1)
        if tokens.shape[0] != self.batch_size:
            raise ValueError(
                f"Decoder: tokens must be (B,) = ({self.batch_size},); got {tuple(tokens.shape)}"
            )
        try:
            return self._run(tokens)
        except IndexError as error:  # nothing has moved: tokens are looked up first
            raise unknown_token("Decoder", self.model.embedding, tokens, error) from None

    def stream(
        self,
        prompt: Tokens,
        sampler: Sampler | None = None,
        *,
        mask: Mask | None = None,
        generator: torch.Generator | None = None,
    ) -> Iterator[Tensor]:
        """Yield tokens (B,) until every row has met one of the sampler's stop tokens.

        The sampler gives its settings alone: rows that ended in a text before are not ended here.
        """
        sampler = Sampler() if sampler is None else sampler.anew()
        logits = self.prefill(prompt, mask)
        while True:
            token = sampler.next(logits, generator)
            yield token
            if sampler.finished:
                return
            logits = self.step(token)

    def generate(
        self,
        prompt: Tokens,
        max_new_tokens: int,
        sampler: Sampler | None = None,
        *,
        mask: Mask | None = None,
        generator: torch.Generator | None = None,
    ) -> Tokens:
        """The prompt and at most ``max_new_tokens`` tokens after it, (B, T + new)."""
        return continued(prompt, self.stream(prompt, sampler, mask=mask, generator=generator), max_new_tokens)

    def _make_step(self, *, fuse: bool) -> Callable[[Tensor], Tensor]:
        self._kind: StepKind
        if self._grows:
            self._kind = "growing"
            return self._growing
        self._states = _own(self._states)
        if fuse:
            fused = FusedStep(self.model, self._states)
            self._kind = "streamed" if fused.streamed else "fused"
            return self._graph(fused)
        if self._tokens.is_cuda:
            self._kind = "graph"
            return self._graph(self._moved)
        if not self._compile and can_buffer(self.model):
            self._kind = "buffered"
            return BufferedStep(self.model, self._states)
        self._kind = "moved"
        return self._moved

    def _growing(self, tokens: Tensor) -> Tensor:
        logits, self._states = self._model_step(tokens, self._states)
        return logits

    def _moved(self, tokens: Tensor) -> Tensor:
        logits, states = self._model_step(tokens, self._states)
        torch._foreach_copy_(tensors_in(self._states), tensors_in(states))
        return logits

    def _graph(self, step: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Capture one step: every launch of it becomes one."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # kernels are compiled and libraries started before the capture
            for _ in range(3):
                step(self._tokens)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = step(self._tokens)

        def run(tokens: Tensor) -> Tensor:
            self._tokens.copy_(tokens)
            graph.replay()
            return logits

        return run


def _shapes(states: Sequence[Any]) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in tensors_in(states)]


def _same_shapes(here: list[tuple[int, ...]], there: list[tuple[int, ...]], *, grow: bool) -> bool:
    """Whether shapes are the same; where states grow, but for one size of each behind the batch."""
    if not grow:
        return here == there
    return len(here) == len(there) and all(
        len(one) == len(other)
        and one[:1] == other[:1]
        and sum(a != b for a, b in zip(one, other, strict=True)) <= 1
        for one, other in zip(here, there, strict=True)
    )


def _own(states: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same states in memory of their own, dense."""
    return map_tensors(lambda tensor: tensor.clone(memory_format=torch.contiguous_format), states)
