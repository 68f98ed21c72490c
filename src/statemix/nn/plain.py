"""Which modules are nothing but their parameters, so that these may be read in place of calling them."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.module import _has_any_global_hook


def is_plain(module: nn.Module | None, kind: type[nn.Module] = nn.Linear) -> bool:
    """Whether a module is a ``kind`` that nothing wraps, patches or watches.

    Others have to be called: an adapter adds to what the weight makes, a hook may look at it or bring a
    weight that lies elsewhere.

    Examples:
        >>> linear = nn.Linear(4, 4)
        >>> is_plain(linear), is_plain(nn.Sequential(linear))
        (True, False)
        >>> _ = linear.register_forward_hook(lambda module, args, output: None)
        >>> is_plain(linear)
        False
    """
    if module is None or type(module) is not kind or "forward" in vars(module):
        return False
    if _has_any_global_hook():  # of all modules there are
        return False
    hooks = (
        module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    )  # fmt: skip
    return not any(hooks)
