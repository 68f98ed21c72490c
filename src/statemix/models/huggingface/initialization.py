"""How weights begin that did not come from a file: as those of :class:`statemix.LanguageModel`.

Transformers asks for every module, also where some of its weights came from a file: those carry a flag.
"""

from __future__ import annotations

from torch import Tensor, nn

from statemix.models.block import MLP, Block


def initialize(module: nn.Module, embedding_std: float) -> None:
    """Draw what a module of the backbone holds itself; a block's mixer draws itself."""
    if isinstance(module, nn.Embedding):
        draw(module.weight, embedding_std)
    elif isinstance(module, MLP):
        draw(module.up.weight, module.std_of(module.up.weight))
        draw(module.down.weight, module.std_of(module.down.weight))
    elif isinstance(module, nn.RMSNorm):
        if not _is_loaded(module.weight):
            module.weight.fill_(1.0)
    elif isinstance(module, Block):
        _draw_mixer(module.mixer)


def draw(weight: Tensor, std: float) -> None:
    """Normal numbers of this standard deviation, but for a weight that came from a file."""
    if not _is_loaded(weight):
        weight.normal_(std=std)


def _draw_mixer(mixer: nn.Module) -> None:
    """Let a mixer draw itself again, but for those of its weights that came from a file."""
    loaded = [(p, p.clone()) for p in mixer.parameters() if _is_loaded(p)]
    if len(loaded) == sum(1 for _ in mixer.parameters()):
        return
    for module in (mixer,) if hasattr(mixer, "reset_parameters") else mixer.modules():
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
    for parameter, weight in loaded:
        parameter.copy_(weight)


def _is_loaded(parameter: Tensor) -> bool:
    return getattr(parameter, "_is_hf_initialized", False)
