"""Measurements: named cases, a correctness gate, and times beside a copy of the same bytes."""
