"""Bad input is named here, before any kernel sees it: what is required, what came, what to do."""

from .options import (
    check_choice,
    check_choices,
    check_device,
    check_number,
    check_numbers,
    check_size,
    check_size_tuple,
)
from .tensors import (
    DTYPES,
    check_boundaries,
    check_cuts,
    check_rank,
    check_scan,
    check_state,
    remember_boundaries,
)

__all__ = [
    "DTYPES",
    "check_boundaries",
    "check_choice",
    "check_choices",
    "check_cuts",
    "check_device",
    "check_number",
    "check_numbers",
    "check_rank",
    "check_scan",
    "check_size",
    "check_size_tuple",
    "check_state",
    "remember_boundaries",
]
