"""Where the parts of a model and their tensors lie, to notice that one was put in another's place."""

from __future__ import annotations

from torch import nn


class Places:
    """The modules and tensors that a model has now.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 2))
        >>> places = Places(model)
        >>> _ = model[0].weight.data.zero_()
        >>> places.hold()
        True
        >>> model[0].weight = nn.Parameter(model[0].weight.detach().clone())
        >>> places.hold()
        False
    """

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        # Looked up at every step: going through the modules again would take a third as long as a small step.
        self._parts = [module._modules for module in modules if module._modules]
        self._tensors = [t for module in modules for t in (module._parameters, module._buffers) if t]
        self._parts_then, self._addresses_then = self._parts_now(), self._addresses_now()
        # An address is no other tensor's while its own lives.
        self._kept = [tensor for tensors in self._tensors for tensor in tensors.values()]

    def hold(self) -> bool:
        """Whether every part and every tensor is still the one that was there, where it was."""
        return self._addresses_now() == self._addresses_then and self._parts_now() == self._parts_then

    def _parts_now(self) -> list[nn.Module | None]:
        return [part for parts in self._parts for part in parts.values()]

    def _addresses_now(self) -> list[int]:
        return [t.data_ptr() for tensors in self._tensors for t in tensors.values() if t is not None]
