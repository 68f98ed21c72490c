"""Vectors of :data:`LANES` numbers as a numba type, so that kernels read like arithmetic.

numba's loop vectorizer gives up on kernels with many strided rows, and its ``np.exp`` is a scalar
call. Here every operation is one LLVM vector instruction by construction; LLVM splits a vector into
whatever registers the machine has (one AVX-512, two AVX, four NEON).

A *tag* is a scalar whose numba type names how numbers lie in memory (see :mod:`._dtypes`): float32,
float64, uint16 (the bits of a bfloat16) or int16 (the bits of a float16). Half precision is widened to
float32 on load. Addresses are plain integers, in bytes.
"""

from __future__ import annotations

import math
import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic as _intrinsic
from numba.extending import lower_builtin, models, register_model

LANES = 16

_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_SCALARS = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
_STORAGE = {
    types.float32: (ir.FloatType(), 4),
    types.float64: (ir.DoubleType(), 8),
    types.uint16: (_I16, 2),
    types.int16: (ir.HalfType(), 2),
}


def intrinsic(function: Any) -> Any:
    """numba's, untyped: it passes the typing context by itself, which no type checker can know."""
    return _intrinsic(function)


class Vector(types.Type):
    """LANES numbers of one width, float32 or float64."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        super().__init__(name=f"Vector({dtype}, {LANES})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type) -> None:
        super().__init__(dmm, fe_type, _llvm(fe_type.dtype))


def _llvm(dtype) -> ir.VectorType:
    return ir.VectorType(_SCALARS[dtype], LANES)


def _wide(tag) -> types.Float:
    return types.float64 if tag == types.float64 else types.float32


def _constant(vector: ir.VectorType, number: float) -> ir.Constant:
    return ir.Constant(vector, [number] * LANES)


def _call(builder: Any, name: str, *args: Any) -> Any:
    kind = args[0].type
    suffix = f"v{LANES}f{64 if isinstance(kind.element, ir.DoubleType) else 32}"
    function = ir.FunctionType(kind, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, f"{name}.{suffix}"), args)


def _pick(builder: Any, test: str, a, b, yes, no) -> Any:
    return builder.select(builder.fcmp_ordered(test, a, b), yes, no)


# Memory ---------------------------------------------------------------------------------------------


def _pointer(builder: Any, address: Any, kind: ir.Type) -> Any:
    # LLVM may take either term of ``base + offset`` for the pointer, and once the offset turns out to be zero
    # it would conclude that null is read, which it may replace by anything. So null has to be allowed.
    set.add(builder.function.attributes, "null_pointer_is_valid")  # llvmlite's own list of names is short
    return builder.inttoptr(address, kind.as_pointer())


@intrinsic
def load(typingctx, tag, address):
    """Read LANES numbers from an address, widened to the width they are computed in."""

    def emit(context, builder, sig, args):
        scalar, align = _STORAGE[tag]
        kind = ir.VectorType(scalar, LANES)
        raw = builder.load(_pointer(builder, args[1], kind), align=align)
        if tag == types.uint16:
            bits = builder.zext(raw, ir.VectorType(_I32, LANES))
            bits = builder.shl(bits, ir.Constant(bits.type, [16] * LANES))
            return builder.bitcast(bits, _llvm(types.float32))
        return builder.fpext(raw, _llvm(types.float32)) if tag == types.int16 else raw

    return Vector(_wide(tag))(tag, types.intp), emit


@intrinsic
def store(typingctx, tag, address, vector):
    """Write LANES numbers to an address, rounded to nearest even."""

    def emit(context, builder, sig, args):
        scalar, align = _STORAGE[tag]
        value = args[2]
        if tag == types.uint16:
            value = _bfloat16_bits(builder, value)
        elif tag == types.int16:
            value = builder.fptrunc(value, ir.VectorType(scalar, LANES))
        builder.store(value, _pointer(builder, args[1], value.type), align=align)
        return context.get_dummy_value()

    return types.void(tag, types.intp, vector), emit


def _bfloat16_bits(builder: Any, value: Any) -> Any:
    whole = ir.VectorType(_I32, LANES)

    def splat(number: int) -> ir.Constant:
        return ir.Constant(whole, [number] * LANES)

    bits = builder.bitcast(value, whole)
    odd = builder.and_(builder.lshr(bits, splat(16)), splat(1))
    rounded = builder.add(bits, builder.add(odd, splat(0x7FFF)))
    quiet = builder.or_(bits, splat(0x400000))  # the rounding would carry a NaN over into a zero
    chosen = builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)
    return builder.trunc(builder.lshr(chosen, splat(16)), ir.VectorType(_I16, LANES))


@intrinsic
def copy_number(typingctx, tag, source, target):
    """Copy one number as it is stored: the tails of rows, lane by lane."""

    def emit(context, builder, sig, args):
        scalar, align = _STORAGE[tag]
        value = builder.load(_pointer(builder, args[1], scalar), align=align)
        builder.store(value, _pointer(builder, args[2], scalar), align=align)
        return context.get_dummy_value()

    return types.void(tag, types.intp, types.intp), emit


@intrinsic
def stored_size(typingctx, tag):
    """Bytes of one number as it is stored."""

    def emit(context, builder, sig, args):
        return context.get_constant(types.intp, _STORAGE[tag][1])

    return types.intp(tag), emit


@intrinsic
def widened(typingctx, tag):
    """The tag of the width that numbers stored as ``tag`` are computed in."""
    wide = _wide(tag)

    def emit(context, builder, sig, args):
        return context.get_constant(wide, 0.0)

    return wide(tag), emit


@intrinsic
def vector_bytes(typingctx, tag):
    """Bytes of LANES numbers as they are stored."""

    def emit(context, builder, sig, args):
        return context.get_constant(types.intp, LANES * _STORAGE[tag][1])

    return types.intp(tag), emit


@intrinsic
def splat(typingctx, tag, number):
    """All lanes the same number, in the width that ``tag`` is computed in."""
    wide = _wide(tag)

    def emit(context, builder, sig, args):
        value = context.cast(builder, args[1], number, wide)
        return _broadcast(builder, value, _llvm(wide))

    return Vector(wide)(tag, number), emit


def _broadcast(builder: Any, value: Any, kind: ir.VectorType) -> Any:
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(
        one, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES)
    )


def _prefetch(write: int) -> Any:
    def emit(context, builder, sig, args):
        pointer = _pointer(builder, args[0], ir.IntType(8))
        function = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
        hint = cgutils.get_or_insert_function(builder.module, function, "llvm.prefetch.p0")
        builder.call(hint, [pointer, *(ir.Constant(_I32, k) for k in (write, 3, 1))])  # keep it close, data
        return context.get_dummy_value()

    return types.void(types.intp), emit


@intrinsic
def prefetch(typingctx, address):
    """Ask for the cache line at an address, to read it soon; any address is allowed."""
    return _prefetch(0)


@intrinsic
def prefetch_write(typingctx, address):
    """Ask for the cache line at an address, to overwrite it soon; any address is allowed."""
    return _prefetch(1)


@intrinsic
def static_size(typingctx, unroll, size):
    """``size``, as a constant of the compiled kernel when ``unroll`` is a tuple of that length."""
    constant = unroll.count if isinstance(unroll, types.UniTuple) else None

    def emit(context, builder, sig, args):
        return args[1] if constant is None else context.get_constant(types.intp, constant)

    return types.intp(unroll, types.intp), emit


# Arithmetic -----------------------------------------------------------------------------------------


def _operator(function, instruction: str) -> None:
    @infer_global(function)  # type: ignore[reportOptionalCall]
    class _Typing(AbstractTemplate):
        def generic(self, args, kws):
            if len(args) == 2 and isinstance(args[0], Vector) and args[0] == args[1]:
                return signature(args[0], *args)
            return None

    @lower_builtin(function, Vector, Vector)
    def _lower(context, builder, sig, args):
        return getattr(builder, instruction)(*args)


for _function, _instruction in {
    operator.add: "fadd",
    operator.sub: "fsub",
    operator.mul: "fmul",
    operator.truediv: "fdiv",
}.items():
    _operator(_function, _instruction)


@intrinsic
def fma(typingctx, a, b, c):
    """a * b + c, in one rounding where the machine can."""

    def emit(context, builder, sig, args):
        return _call(builder, "llvm.fmuladd", *args)

    return a(a, a, a), emit


@intrinsic
def maximum(typingctx, a, b):
    """The larger; b where either is NaN."""

    def emit(context, builder, sig, args):
        return _pick(builder, ">", *args, *args)

    return a(a, a), emit


@intrinsic
def magnitude(typingctx, a):
    """The absolute value."""

    def emit(context, builder, sig, args):
        return _call(builder, "llvm.fabs", *args)

    return a(a), emit


@intrinsic
def where_greater(typingctx, a, b, yes, no):
    """``yes`` where ``a`` > ``b``, else ``no`` (also at NaN)."""

    def emit(context, builder, sig, args):
        return _pick(builder, ">", *args)

    return yes(a, a, yes, yes), emit


@intrinsic
def where_positive(typingctx, test, yes, no):
    """``yes`` where ``test`` > 0, else ``no`` (also at NaN)."""

    def emit(context, builder, sig, args):
        return _pick(builder, ">", args[0], _constant(args[0].type, 0.0), args[1], args[2])

    return yes(test, yes, yes), emit


@intrinsic
def where_negative(typingctx, test, yes, no):
    """``yes`` where ``test`` < 0, else ``no`` (also at NaN)."""

    def emit(context, builder, sig, args):
        return _pick(builder, "<", args[0], _constant(args[0].type, 0.0), args[1], args[2])

    return yes(test, yes, yes), emit


# 2**r = 1 + r (c1 + r (c2 + ...)) for |r| <= 1/2: a Chebyshev fit (5e-9) and the Taylor series (2e-16).
_EXP2 = {
    types.float32: (
        0.6931471880293429, 0.24022650692223682, 0.055503571042527934,
        0.009618056669889598, 0.0013390867351473336, 0.00015461447462615405,
    ),
    types.float64: tuple(math.log(2) ** k / math.factorial(k) for k in range(1, 13)),
}  # fmt: skip
# Adding 1.5 * 2**p, p the number of mantissa bits, leaves the nearest integer in the lowest bits.
_ROUNDER = {types.float32: 1.5 * 2**23, types.float64: 1.5 * 2**52}
_FORMAT = {types.float32: (_I32, 23, 127), types.float64: (_I64, 52, 1023)}


def _exp(builder: Any, x: Any, dtype: types.Float) -> Any:
    kind = x.type
    integer, mantissa, bias = _FORMAT[dtype]
    whole = ir.VectorType(integer, LANES)
    rounder = _constant(kind, _ROUNDER[dtype])
    # The rounding of y costs |y| 2**-|y| of an epsilon of the largest weight in a row: less than one.
    y = builder.fmul(x, _constant(kind, 1 / math.log(2)))
    shifted = builder.fadd(y, rounder)
    rest = builder.fsub(y, builder.fsub(shifted, rounder))
    series = _constant(kind, _EXP2[dtype][-1])
    for coefficient in (*reversed(_EXP2[dtype][:-1]), 1.0):
        series = _call(builder, "llvm.fmuladd", series, rest, _constant(kind, coefficient))
    exponent = builder.shl(builder.bitcast(shifted, whole), ir.Constant(whole, [mantissa] * LANES))
    scale = builder.bitcast(builder.add(exponent, ir.Constant(whole, [bias << mantissa] * LANES)), kind)
    # A product, not a sum of bits: NaN must stay NaN. Below the normal range: zero, as at -inf.
    result = builder.fmul(series, scale)
    zero = _constant(kind, 0.0)
    return _pick(builder, "<", y, _constant(kind, 1.0 - bias), zero, result)


@intrinsic
def exp_negative(typingctx, x):
    """exp(x) for x <= 0: exactly 1 at 0, exactly 0 at -inf, NaN at NaN."""

    def emit(context, builder, sig, args):
        return _exp(builder, args[0], x.dtype)

    return x(x), emit
