"""Generated tasks: one file each, found by name in the catalog."""

from .binary_addition import BinaryAddition
from .binary_multiplication import BinaryMultiplication
from .bucket_sort import BucketSort
from .catalog import CATALOG, TASKS, Entry, entry, make, name_of
from .compression import Compression
from .copying import SelectiveCopying
from .counting import Counting
from .cycle_navigation import CycleNavigation
from .duplicate_string import DuplicateString
from .even_pairs import EvenPairs
from .formal import FormalLanguage
from .fuzzy_recall import FuzzyRecall
from .groups import Group, group
from .mad import MadTask
from .memorization import Memorization
from .missing_duplicate import MissingDuplicate
from .modular_arithmetic import ModularArithmetic
from .modular_arithmetic_brackets import ModularArithmeticBrackets
from .odds_first import OddsFirst
from .permutation import Permutation
from .recall import InContextRecall
from .reverse_string import ReverseString
from .solve_equation import SolveEquation
from .square_root import SquareRoot
from .stack_manipulation import StackManipulation
from .streams import SPLITS, stream
from .task import IGNORED, Batch, Task
from .tracking import StateTracking

__all__ = [
    "CATALOG",
    "IGNORED",
    "SPLITS",
    "TASKS",
    "Batch",
    "BinaryAddition",
    "BinaryMultiplication",
    "BucketSort",
    "Compression",
    "Counting",
    "CycleNavigation",
    "DuplicateString",
    "Entry",
    "EvenPairs",
    "FormalLanguage",
    "FuzzyRecall",
    "Group",
    "InContextRecall",
    "MadTask",
    "Memorization",
    "MissingDuplicate",
    "ModularArithmetic",
    "ModularArithmeticBrackets",
    "OddsFirst",
    "Permutation",
    "ReverseString",
    "SelectiveCopying",
    "SolveEquation",
    "SquareRoot",
    "StackManipulation",
    "StateTracking",
    "Task",
    "entry",
    "group",
    "make",
    "name_of",
    "stream",
]
