"""Files that ship with statemix: one small model, so that generation says something on a fresh machine."""

from pathlib import Path

EXAMPLE = Path(__file__).parent / "king-james-bible"
"""Run folder of a byte model of 1.1 M parameters; its README says on what it was trained and how well."""
