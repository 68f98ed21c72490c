"""Moving rows of numbers between tensors and scratch memory, inside kernels."""

from __future__ import annotations

from ._compile import inlined
from ._simd import LANES, copy_number, load, splat, store, stored_size, vector_bytes

ALIGNMENT = 64


@inlined
def aligned(address):
    """The next address that is a multiple of a cache line."""
    return (address + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


@inlined
def copy_lanes(tag, source, target, count):
    """Copy ``count`` numbers, one by one: the tail of a row, which may end where memory ends."""
    size = stored_size(tag)
    for lane in range(count):
        copy_number(tag, source + lane * size, target + lane * size)


@inlined
def copy_row(tag, source, target, count):
    """Copy a row of ``count`` numbers and nothing beyond them."""
    groups = count // LANES
    for group in range(groups):
        here = source + group * vector_bytes(tag)
        store(tag, target + group * vector_bytes(tag), load(tag, here))
    done = groups * vector_bytes(tag)
    copy_lanes(tag, source + done, target + done, count - groups * LANES)


@inlined
def clear_row(tag, target, count):
    """Zero a padded row."""
    for group in range((count + LANES - 1) // LANES):
        store(tag, target + group * vector_bytes(tag), splat(tag, 0.0))


@inlined
def read_state(wide, source, source_step, target, target_step, rows, count):
    """Copy the rows of a state into padded scratch; zeros when there is none (address 0)."""
    for row in range(rows):
        if source == 0:
            clear_row(wide, target + row * target_step, count)
        else:
            copy_row(wide, source + row * source_step, target + row * target_step, count)
