"""Reading a model as it is when training is over, whatever mode it is in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within it every part is in evaluation mode; afterwards each is in the mode that it had.

    Examples:
        >>> model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
        >>> with evaluating(model):
        ...     print(model.training)
        False
        >>> model.training, model[0].training, model[1].training
        (True, True, False)
    """
    # Not model.train(True) afterwards: it would also wake parts that were frozen in evaluation mode.
    trained = [module for module in model.modules() if module.training]
    for module in trained:
        module.training = False
    try:
        yield
    finally:
        for module in trained:
            module.training = True
