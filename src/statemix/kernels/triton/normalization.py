"""Rows of gate logits to weights, rows mixed, and back, inside Triton kernels: all six normalizations.

A row is ``h = sum_j w_j x_j / S`` with ``w_j = phi(z_j)`` and S the sum of their magnitudes plus a small
constant (arXiv 2602.12021, section on normalization). Its logits come in two tiles: ``z`` of the states, one
entry a state along ``AXIS``, and ``gate`` of the input, whose size there is 1. Whatever else belongs to a row
(value, output, gradient) has size 1 along ``AXIS`` too, so that both families share these functions.
"""

# Triton's language is not typed as Python is.
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def weigh(z, gate, NORMALIZATION: tl.constexpr, AXIS: tl.constexpr):
    """Weights of the states and of the input, and S."""
    if NORMALIZATION == "softmax":
        top = tl.maximum(tl.max(z, AXIS, keep_dims=True), gate)
        weights = tl.exp(z - top)
        gate_weight = tl.exp(gate - top)
    elif NORMALIZATION == "sigmoid":
        # sigmoid(z) = exp(e) / (1 + exp(-|z|)), e the smaller of z and 0: taken in the exponent, since
        # sigmoid itself underflows below logits of -95 and leaves 0 / 0.
        exponents = tl.where(z > 0, 0.0, z)
        gate_exponent = tl.where(gate > 0, 0.0, gate)
        top = tl.maximum(tl.max(exponents, AXIS, keep_dims=True), gate_exponent)
        weights = tl.exp(exponents - top) / (1.0 + tl.exp(-tl.abs(z)))
        gate_weight = tl.exp(gate_exponent - top) / (1.0 + tl.exp(-tl.abs(gate)))
    elif NORMALIZATION == "relu":
        weights = tl.where(z < 0, 0.0, z)
        gate_weight = tl.where(gate < 0, 0.0, gate)
    elif NORMALIZATION == "tanh":
        weights = _tanh(z)
        gate_weight = _tanh(gate)
    else:
        weights = z
        gate_weight = gate
    if NORMALIZATION == "none":
        total = tl.full(gate.shape, 1.0, tl.float32)
    else:
        total = tl.sum(tl.abs(weights), AXIS, keep_dims=True) + tl.abs(gate_weight)
        total += _constant(NORMALIZATION)
    return weights, gate_weight, total


@triton.jit
def mix(weights, gate_weight, total, x, value, AXIS: tl.constexpr):
    """The output of every row from the states ``x`` and the input ``value``."""
    return (tl.sum(weights * x, AXIS, keep_dims=True) + gate_weight * value) / total


@triton.jit
def logit_gradients(z, gate, x, value, u, NORMALIZATION: tl.constexpr, AXIS: tl.constexpr):
    """dL/dz of the states and of the input, where ``u`` is dL/dh.

    dL/dz_j = u phi'(z_j) (x_j - sign_j h) / S, sign_j that of phi(z_j). With y_k = sign_k x_k and any y,
    sign_j (x_j - sign_j h) = (y_j - y) - (sum_k |w_k| (y_k - y) - y constant) / S. Taking y from the heaviest
    source keeps the relative precision of saturated rows, whose h all but equals one x_j.
    """
    weights, gate_weight, total = weigh(z, gate, NORMALIZATION, AXIS)
    scale = u / total
    if NORMALIZATION == "none":
        distances = tl.broadcast_to(x, z.shape)
        gate_distance = value
    else:
        sizes = tl.abs(weights)
        gate_size = tl.abs(gate_weight)
        sources = _signed(weights, tl.broadcast_to(x, z.shape), 0.0, NORMALIZATION)
        gate_source = _signed(gate_weight, value, 0.0, NORMALIZATION)
        largest = tl.max(sizes, AXIS, keep_dims=True)
        heaviest = tl.max(tl.where(sizes == largest, sources, float("-inf")), AXIS, keep_dims=True)
        # Any source serves where rounding has found none to be the largest.
        heaviest = tl.where((gate_size >= largest) | (heaviest == float("-inf")), gate_source, heaviest)
        sources -= heaviest
        gate_source -= heaviest
        offset = tl.sum(sizes * sources, AXIS, keep_dims=True) + gate_size * gate_source
        offset = (offset - _constant(NORMALIZATION) * heaviest) / total
        distances = _signed(weights, sources - offset, x, NORMALIZATION)
        gate_distance = _signed(gate_weight, gate_source - offset, value, NORMALIZATION)
    dz = _times_slope(scale * distances, z, weights, NORMALIZATION)
    dgate = _times_slope(scale * gate_distance, gate, gate_weight, NORMALIZATION)
    return dz, dgate


@triton.jit
def _constant(NORMALIZATION: tl.constexpr):
    """What S holds besides the magnitudes."""
    if NORMALIZATION == "relu":
        constant = 1e-3
    elif NORMALIZATION == "tanh" or NORMALIZATION == "linear":
        constant = 1e-6
    else:
        constant = 0.0
    return constant


@triton.jit
def _signed(weight, number, at_zero, NORMALIZATION: tl.constexpr):
    """The number times the sign of a weight; ``at_zero`` where a signed weight is 0."""
    if NORMALIZATION == "tanh" or NORMALIZATION == "linear":
        signed = tl.where(weight > 0, number, tl.where(weight < 0, -number, at_zero))
    else:
        signed = number
    return signed


@triton.jit
def _times_slope(number, logit, weight, NORMALIZATION: tl.constexpr):
    """The number times phi' of a logit, in the units of its weight."""
    if NORMALIZATION == "softmax":
        product = number * weight
    elif NORMALIZATION == "sigmoid":
        tail = tl.exp(-tl.abs(logit))
        product = number * weight * tl.where(logit > 0, tail, 1.0) / (1.0 + tail)
    elif NORMALIZATION == "relu":
        # Selected, not multiplied: a closed gate passes nothing on, whatever it would have mixed.
        product = tl.where(logit > 0, number, 0.0)
    elif NORMALIZATION == "tanh":
        tail = tl.exp(-2.0 * tl.abs(logit))
        half = 2.0 / (1.0 + tail)
        product = number * (tail * half * half)
    else:
        product = number
    return product


@triton.jit
def _tanh(z):
    # Near zero 1 - 2 / (exp(2z) + 1) cancels: there the series is exact to 1e-7.
    square = z * z
    series = z + z * square * (-1.0 / 3 + square * (2.0 / 15 + square * (-17.0 / 315)))
    return tl.where(tl.abs(z) < 0.2, series, 1.0 - 2.0 / (tl.exp(2.0 * z) + 1.0))
