"""Transformers' Llama and Mamba-2, decoding behind a context as fast as their public interface allows."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    StaticCache,
)

from .decode import Sizes, mlp_width


class Llama:
    """Attention with its cache: "dynamic", which grows, or "static", of full length from the start."""

    def __init__(
        self, sizes: Sizes, device: torch.device, *, cache: str = "dynamic", model: Any = None
    ) -> None:
        self.sizes, self.device, self.cache = sizes, device, cache
        self.name = f"attention (Transformers' Llama), {cache} cache"
        if model is None:
            config = LlamaConfig(
                vocab_size=sizes.vocabulary, hidden_size=sizes.d, num_hidden_layers=sizes.layers,
                intermediate_size=mlp_width(sizes.d), num_attention_heads=sizes.heads,
                max_position_embeddings=2**21,
            )  # fmt: skip
            torch.manual_seed(0)
            model = _placed(LlamaForCausalLM(config), sizes, device)
        self.model = model
        self.parameters = sum(p.numel() for p in model.parameters())

    def logits(self, tokens: Tensor) -> Tensor:
        return self.model(tokens, use_cache=False).logits

    def read(self, tokens: Tensor, *, context: int, room: int) -> Any:
        batch, time = tokens.shape
        shape = (batch, self.sizes.heads, context, self.sizes.d // self.sizes.heads)
        place: dict[str, Any] = {"dtype": self.sizes.dtype, "device": self.device}
        self._check_memory(batch, context + room)
        config = self.model.config
        cache: Any = StaticCache(config=config, max_cache_len=context + room)
        if self.cache == "dynamic":
            cache = DynamicCache(config=config)
        if time == context:
            state = "read"
        else:
            state = "noise in a cache of full length"
            if self.cache == "static":
                cache.early_initialization(batch, shape[1], shape[3], **place)
                for layer in cache.layers:
                    layer.keys.normal_()
                    layer.values.normal_()
                    layer.cumulative_length.fill_(context)
            else:
                for index in range(self.sizes.layers):
                    cache.update(torch.randn(shape, **place), torch.randn(shape, **place), index)
        session = _Cached(self.model, "past_key_values", cache, state)
        if time == context:
            session.read(tokens)
        if self.cache == "static":
            session.capture(batch, self.device)
        return session

    def _check_memory(self, batch: int, places: int) -> None:
        """Raise where the cache cannot fit; a CPU is left half of what is free, so that nothing swaps."""
        size = 2 * self.sizes.layers * batch * places * self.sizes.d * self.sizes.dtype.itemsize
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
        else:
            free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        if size > free:
            raise MemoryError(f"its cache takes {size / 2**30:.1f} GiB and {free / 2**30:.1f} are free")


class Mamba2:
    """Mamba-2 of as many parameters, which takes the place of mixers and MLPs: more layers."""

    name = "Mamba-2 (Transformers)"

    def __init__(self, sizes: Sizes, device: torch.device, budget: int) -> None:
        self.sizes, self.device = sizes, device

        def config(layers: int) -> Mamba2Config:
            return Mamba2Config(
                vocab_size=sizes.vocabulary, hidden_size=sizes.d, num_hidden_layers=layers, expand=2,
                head_dim=64, num_heads=2 * sizes.d // 64, state_size=128, n_groups=1, chunk_size=16,
            )  # fmt: skip

        def count(layers: int) -> int:
            with torch.device("meta"):
                return sum(p.numel() for p in Mamba2ForCausalLM(config(layers)).parameters())

        one, two = count(1), count(2)
        layers = max(1, round((budget - one) / (two - one)) + 1)
        torch.manual_seed(0)
        self.model = _placed(Mamba2ForCausalLM(config(layers)), sizes, device)
        self.parameters = sum(p.numel() for p in self.model.parameters())

    def logits(self, tokens: Tensor) -> Tensor:
        return self.model(tokens, use_cache=False).logits

    def read(self, tokens: Tensor, *, context: int, room: int) -> Any:
        # Read in plain PyTorch it takes 0.2 MB a token and sequence; more tokens would not change a step.
        few = tokens[:, -64:]
        cache = DynamicCache(config=self.model.config)
        state = "read" if few.shape[1] == context else f"injected, of {few.shape[1]} tokens"
        session = _Cached(self.model, "cache_params", cache, state)
        session.read(few)
        session.path += f", {_mamba_kernels()}"
        session.capture(tokens.shape[0], self.device)
        return session


def _placed(model: Any, sizes: Sizes, device: torch.device) -> Any:
    return model.to(device=device, dtype=sizes.dtype).eval()


class _Cached:
    """A model of Transformers and its cache; on a GPU in one CUDA graph where it can be captured."""

    def __init__(self, model: Any, argument: str, cache: Any, state: str) -> None:
        names = inspect.signature(model.forward).parameters
        self._argument = "cache" if "cache" in names else argument  # newer versions have one name for all
        self._model, self._cache, self.state = model, cache, state
        self._replay: Callable[[Tensor], Tensor] | None = None
        self.path = "eager"

    def step(self, tokens: Tensor) -> Tensor:
        return self._eager(tokens) if self._replay is None else self._replay(tokens)

    def read(self, tokens: Tensor) -> None:
        """Put the cache behind tokens (B, T)."""
        self._model(tokens, use_cache=True, logits_to_keep=1, **{self._argument: self._cache})

    def _eager(self, tokens: Tensor) -> Tensor:
        return self._model(tokens[:, None], use_cache=True, **{self._argument: self._cache}).logits[:, -1]

    def capture(self, batch: int, device: torch.device) -> None:
        """Put a step into a graph, with the cache as it stands; say in ``path`` where that fails."""
        if device.type != "cuda":
            return
        tokens = torch.zeros(batch, dtype=torch.long, device=device)
        tensors = _cache_tensors(self._cache)
        # Warming up moves small states on; keys and values are only written behind what is there.
        kept = [(tensor, tensor.clone()) for tensor in tensors if tensor.nbytes < 2**28]
        try:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    self._eager(tokens)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                logits = self._eager(tokens)
        except RuntimeError as reason:
            if isinstance(reason, torch.OutOfMemoryError):
                raise
            torch.cuda.synchronize()
            self.path += f" (no graph: {str(reason).splitlines()[0][:60]})"
        else:
            self.path = self.path.replace("eager", "graph")

            def replay(new: Tensor) -> Tensor:
                tokens.copy_(new)
                graph.replay()
                return logits

            self._replay = replay
        for tensor, before in kept:
            tensor.copy_(before)

    @property
    def state_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in _cache_tensors(self._cache))


def _cache_tensors(cache: Any) -> list[Tensor]:
    """Every tensor that the layers of a cache hold."""

    def inside(value: Any) -> list[Tensor]:
        if isinstance(value, Tensor):
            return [value]
        if isinstance(value, dict):
            value = list(value.values())
        return [t for part in value for t in inside(part)] if isinstance(value, (list, tuple)) else []

    return [tensor for layer in cache.layers for value in vars(layer).values() for tensor in inside(value)]


def _mamba_kernels() -> str:
    """Whether Mamba's own kernels are installed: without them Transformers runs plain PyTorch."""
    import importlib.util

    found = [name for name in ("mamba_ssm", "causal_conv1d") if importlib.util.find_spec(name)]
    return f"kernels of {', '.join(found)}" if found else "plain PyTorch: mamba-ssm is not installed"
