"""One row of the recurrence, forward and backward, for every normalization.

A row is ``h = sum_j w_j x_j / S`` with weights ``w_j = phi(z_j)`` of its logits, ``S`` the sum of their
magnitudes (plus a small constant), ``x_j`` the states for ``j < m`` and the value for ``j = m``
(arXiv 2602.12021, section on normalization). Both families are made of such rows: a block has ``m``
of them over the same states, a channel has one over its window.

Each function takes LANES neighboring columns at once. Addresses and steps are in bytes; ``m`` may be a
constant of the compiled kernel, ``count`` is the same number and keeps the rarer loops rolled up.
"""

from __future__ import annotations

from ._compile import inlined
from ._simd import (
    exp_negative,
    fma,
    load,
    magnitude,
    maximum,
    splat,
    store,
    vector_bytes,
    where_greater,
    where_negative,
    where_positive,
)

SOFTMAX, SIGMOID, RELU, TANH, LINEAR, NONE = range(6)
CODES = {"softmax": SOFTMAX, "sigmoid": SIGMOID, "relu": RELU, "tanh": TANH, "linear": LINEAR, "none": NONE}


@inlined
def mix(normalization, tag, wide, z, z_step, x, x_step, value, m, count):
    """The new state of one row."""
    if normalization != SOFTMAX:
        return _mix_any(normalization, tag, wide, z, z_step, x, x_step, value, count)
    top = load(tag, z)
    for j in range(1, m + 1):
        top = maximum(load(tag, z + j * z_step), top)
    weight = exp_negative(load(tag, z + m * z_step) - top)
    total = weight
    mixed = weight * value
    for j in range(m):
        weight = exp_negative(load(tag, z + j * z_step) - top)
        total = total + weight
        mixed = fma(weight, load(wide, x + j * x_step), mixed)
    return mixed / total


@inlined
def _mix_any(normalization, tag, wide, z, z_step, x, x_step, value, count):
    shift = splat(tag, 0.0)
    if normalization == SIGMOID:
        shift = _sigmoid_exponent(tag, load(tag, z))
        for j in range(1, count + 1):
            shift = maximum(_sigmoid_exponent(tag, load(tag, z + j * z_step)), shift)
    total = splat(tag, _constant(normalization))
    mixed = splat(tag, 0.0)
    for j in range(count + 1):
        weight = _weight(normalization, tag, load(tag, z + j * z_step), shift)
        if normalization != NONE:
            total = total + magnitude(weight)
        source = value
        if j < count:
            source = load(wide, x + j * x_step)
        mixed = fma(weight, source, mixed)
    return mixed / total


@inlined
def mix_backward(
    normalization,
    tag,
    wide,
    z,
    z_step,
    x,
    x_step,
    value,
    u,
    carry,
    carry_step,
    dz,
    dz_step,
    adds,
    weights,
    m,
    count,
):
    """Send ``u = dL/dh`` of one row on: writes dL/dz, adds dL/dx to ``carry``, returns dL/dvalue.

    The row is mixed again from its sources, and differences are taken from the heaviest of them: ``x_j - h``
    keeps its relative precision where a gate is saturated and ``h`` all but equals one ``x_j``.
    ``adds`` says that dz is a sum in the computing width. ``weights`` is scratch for ``m`` + 1 vectors.
    """
    if normalization != SOFTMAX:
        return _mix_any_backward(
            normalization, tag, wide, z, z_step, x, x_step, value, u,
            carry, carry_step, dz, dz_step, adds, weights, count,
        )  # fmt: skip
    pitch = vector_bytes(wide)
    top = load(tag, z + m * z_step)
    heaviest = value
    for j in range(m):
        logit = load(tag, z + j * z_step)
        heaviest = where_greater(logit, top, load(wide, x + j * x_step), heaviest)
        top = maximum(logit, top)
    last_weight = exp_negative(load(tag, z + m * z_step) - top)
    total = last_weight
    mixed = last_weight * (value - heaviest)
    for j in range(m):
        weight = exp_negative(load(tag, z + j * z_step) - top)
        store(wide, weights + j * pitch, weight)
        total = total + weight
        mixed = fma(weight, load(wide, x + j * x_step) - heaviest, mixed)
    scale = u / total
    offset = mixed / total
    for j in range(m):
        part = load(wide, weights + j * pitch) * scale
        store(wide, carry + j * carry_step, load(wide, carry + j * carry_step) + part)
        distance = (load(wide, x + j * x_step) - heaviest) - offset
        _give(tag, wide, adds, dz + j * dz_step, part * distance)
    part = last_weight * scale
    _give(tag, wide, adds, dz + m * dz_step, part * ((value - heaviest) - offset))
    return part


@inlined
def _mix_any_backward(
    normalization,
    tag,
    wide,
    z,
    z_step,
    x,
    x_step,
    value,
    u,
    carry,
    carry_step,
    dz,
    dz_step,
    adds,
    weights,
    count,
):
    # dL/dz_j = u phi'(z_j) (x_j - sign_j h) / S, sign_j that of phi(z_j). With y_k = sign_k x_k and any y,
    # sign_j (x_j - sign_j h) = (y_j - y) - (sum_k |w_k| (y_k - y) - y constant) / S.
    pitch = vector_bytes(wide)
    zero = splat(tag, 0.0)
    shift = zero
    if normalization == SIGMOID:
        shift = _sigmoid_exponent(tag, load(tag, z))
        for j in range(1, count + 1):
            shift = maximum(_sigmoid_exponent(tag, load(tag, z + j * z_step)), shift)
    constant = splat(tag, _constant(normalization))
    total = constant
    largest = zero
    heaviest = zero
    for j in range(count + 1):
        weight = _weight(normalization, tag, load(tag, z + j * z_step), shift)
        store(wide, weights + j * pitch, weight)
        source = value
        if j < count:
            source = load(wide, x + j * x_step)
        if normalization != NONE:
            size = magnitude(weight)
            total = total + size
            heaviest = where_greater(
                size, largest, _signed(normalization, tag, weight, source, zero), heaviest
            )
            largest = maximum(size, largest)
    offset = zero - constant * heaviest
    for j in range(count + 1):
        weight = load(wide, weights + j * pitch)
        source = value
        if j < count:
            source = load(wide, x + j * x_step)
        distance = _signed(normalization, tag, weight, source, zero) - heaviest
        offset = fma(magnitude(weight), distance, offset)
    offset = offset / total
    scale = u / total
    part = zero
    for j in range(count + 1):
        weight = load(wide, weights + j * pitch)
        part = weight * scale
        source = value
        if j < count:
            source = load(wide, x + j * x_step)
            store(wide, carry + j * carry_step, load(wide, carry + j * carry_step) + part)
        distance = source
        if normalization != NONE:
            distance = (_signed(normalization, tag, weight, source, zero) - heaviest) - offset
            distance = _signed(normalization, tag, weight, distance, source)
        slope = _slope(normalization, tag, load(tag, z + j * z_step), weight)
        _give(tag, wide, adds, dz + j * dz_step, slope * scale * distance)
    return part


@inlined
def _give(tag, wide, adds, address, part):
    if adds:
        store(wide, address, load(wide, address) + part)
    else:
        store(tag, address, part)


@inlined
def _constant(normalization):
    """What S holds besides the magnitudes; without any of them it is 1."""
    if normalization == RELU:
        return 1e-3
    if normalization in (TANH, LINEAR):
        return 1e-6
    if normalization == NONE:
        return 1.0
    return 0.0


@inlined
def _weight(normalization, tag, logit, shift):
    """phi of a logit; for the sigmoid times exp(-shift), without which very negative rows are 0 / 0."""
    if normalization == SIGMOID:
        tail = exp_negative(splat(tag, 0.0) - magnitude(logit))
        return exp_negative(_sigmoid_exponent(tag, logit) - shift) / (splat(tag, 1.0) + tail)
    if normalization == RELU:
        return where_negative(logit, splat(tag, 0.0), logit)
    if normalization == TANH:
        return _tanh(tag, logit)
    return logit


@inlined
def _slope(normalization, tag, logit, weight):
    """phi' of a logit, in the units of its weight."""
    one = splat(tag, 1.0)
    zero = splat(tag, 0.0)
    if normalization == SIGMOID:
        tail = exp_negative(zero - magnitude(logit))
        return weight * where_positive(logit, tail, one) / (one + tail)
    if normalization == RELU:
        return where_positive(logit, one, zero)
    if normalization == TANH:
        tail = exp_negative(splat(tag, -2.0) * magnitude(logit))
        half = splat(tag, 2.0) / (one + tail)
        return tail * half * half
    return one


@inlined
def _signed(normalization, tag, weight, number, at_zero):
    """The number times the sign of phi; ``at_zero`` where a signed phi is 0."""
    if normalization in (TANH, LINEAR):
        return where_positive(weight, number, where_negative(weight, splat(tag, 0.0) - number, at_zero))
    return number


@inlined
def _sigmoid_exponent(tag, logit):
    """e in sigmoid(z) = exp(e) / (1 + exp(-|z|)): the smaller of z and 0, NaN at NaN."""
    return where_positive(logit, splat(tag, 0.0), logit)


@inlined
def _tanh(tag, x):
    one = splat(tag, 1.0)
    size = magnitude(x)
    tail = exp_negative(splat(tag, -2.0) * size)
    large = (one - tail) / (one + tail)
    large = where_negative(x, splat(tag, 0.0) - large, large)
    # Near zero 1 - exp(-2x) cancels; the rational approximation is Cephes' (double precision).
    square = x * x
    above = fma(splat(tag, -0.964399179425052238628), square, splat(tag, -99.2877231001918586564))
    above = fma(above, square, splat(tag, -1614.68768441708447952))
    below = square + splat(tag, 112.811678491632931402)
    below = fma(below, square, splat(tag, 2235.48839060100448583))
    below = fma(below, square, splat(tag, 4844.06305325125486048))
    small = fma(square * x, above / below, x)
    return where_greater(splat(tag, 0.625), size, small, large)
