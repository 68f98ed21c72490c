"""The recurrences as layers: projections, scan and readout in one module."""

from .bdlru import BDLRU
from .hlru import HLRU
from .layer import RecurrentLayer
from .sharpening import sharpen_gates

__all__ = ["BDLRU", "HLRU", "RecurrentLayer", "sharpen_gates"]
