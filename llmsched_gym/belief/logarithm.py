"""Entropies of many probabilities at once.

The logarithm is that of FreeBSD's ``e_log.c`` (Sun Microsystems 1993; below 1 ulp), written out:
the C library's takes one number at a time, this takes as many as a register of the processor holds.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from llmsched_gym.belief.networks import FloatArray
from llmsched_gym.compiled import kernel

ONE = 0x3FF << 52  # the bits of 1.0
ROOT = 0x3FE6A09E667F3BCD  # of the root of 1/2: mantissas are taken between it and twice as much
MANTISSA = (1 << 52) - 1
WHOLE = 0x433 << 52  # of 2^52: the whole numbers from there on are their own last bits


@intrinsic
def _bits(_: Any, number: Any) -> Any:
    """The bits of a float64, as an int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), generate


@intrinsic
def _number(_: Any, bits: Any) -> Any:
    """The float64 of these bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), generate


@partial(kernel, error_model="numpy")  # no branch for divisions by zero: there are none
def entropy(table: FloatArray) -> float:
    """The sum of -p log2 p over a table, which is spent; p = 0 counts nothing."""
    for i in range(len(table)):
        shifted = _bits(table[i]) + (ONE - ROOT)  # type: ignore[call-arg]
        exponent = _number((shifted >> 52) | WHOLE) - (2.0**52 + 1023.0)  # type: ignore
        f = _number((shifted & MANTISSA) + ROOT) - 1.0  # type: ignore
        s = f / (2.0 + f)
        z = s * s
        series = 1.531383769920937332e-01 + z * 1.479819860511658591e-01
        series = 2.222219843214978396e-01 + z * (1.818357216161805012e-01 + z * series)
        series = 3.999999999940941908e-01 + z * (2.857142874366239149e-01 + z * series)
        series = z * (6.666666666666735130e-01 + z * series)
        square = 0.5 * f * f
        logarithm = f - (square - s * (square + series))
        table[i] *= exponent + logarithm * 1.4426950408889634
    a = b = c = d = 0.0  # four sums, for none to wait for the number before
    whole = len(table) // 4 * 4
    for i in range(0, whole, 4):
        a += table[i]
        b += table[i + 1]
        c += table[i + 2]
        d += table[i + 3]
    for i in range(whole, len(table)):
        a += table[i]
    return -((a + b) + (c + d))
