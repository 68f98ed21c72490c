"""Generated tasks: one file each, found by name in the catalog."""

from .catalog import TASKS, make, name_of
from .counting import Counting
from .permutation import Group, Permutation, group
from .streams import SPLITS, stream
from .task import IGNORED, Batch, Task

__all__ = [
    "IGNORED",
    "SPLITS",
    "TASKS",
    "Batch",
    "Counting",
    "Group",
    "Permutation",
    "Task",
    "group",
    "make",
    "name_of",
    "stream",
]
