"""Grids of runs: on all devices of this machine, on Ray, or as SLURM jobs; resumable, in one table.

trials      Trial, grid, and the groups that can be trained as one
store       the folder of a sweep: what is to be done, what came out, the table
runner      one group, from wherever it had come to
launchers   where groups run
"""

from .launchers import LAUNCHERS, Launch, run_sweep
from .store import SweepFolder, SweepFolderError
from .trials import Trial, grid

__all__ = ["LAUNCHERS", "Launch", "SweepFolder", "SweepFolderError", "Trial", "grid", "run_sweep"]
