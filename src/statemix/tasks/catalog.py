"""The one table from the name of a task to what generates it."""

from __future__ import annotations

import difflib
from typing import Any

from .counting import Counting
from .permutation import Permutation
from .task import Task

TASKS: dict[str, type[Task]] = {
    "permutation": Permutation,
    "counting": Counting,
}


def make(name: str, **settings: Any) -> Task:
    """The task of that name. Settings are the fields of its class.

    Raises:
        ValueError: an unknown name (the nearest are listed) or a setting out of range.
        TypeError: a setting that the task does not have.

    Example:
        >>> task = make("permutation", group="S3", length=32)
        >>> task.vocab_size, task.sample(64, seed=0).inputs.shape
        (6, torch.Size([64, 32]))
    """
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=3, cutoff=0.3) or list(TASKS)
        raise ValueError(f"no task {name!r}; nearest: {', '.join(near)}; all: {', '.join(TASKS)}")
    return TASKS[name](**settings)


def name_of(task: Task) -> str:
    """The name under which :func:`make` finds such a task.

    Example:
        >>> name_of(Counting(modulus=3))
        'counting'
    """
    return next(name for name, kind in TASKS.items() if kind is type(task))
