"""Values of arrays in compiled kernels, where bfloat16 is stored as uint16.

numba has no bfloat16. A kernel that reads through `widen` and writes through `narrow` takes arrays
of bfloat16 bits besides float32 and float64, and computes with float32.
"""

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic, overload


@intrinsic
def _as_float(typingctx, bits):  # type: ignore[no-untyped-def]  # noqa: ARG001
    """Return the float32 with these bits, uint32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@intrinsic
def _as_bits(typingctx, value):  # type: ignore[no-untyped-def]  # noqa: ARG001
    """Return the bits of a float32 as uint32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


def widen(value):  # type: ignore[no-untyped-def]
    """Return an element of an array as the float to compute with."""
    raise NotImplementedError


@overload(widen, inline="always")
def _widen(value):  # type: ignore[no-untyped-def]
    if value == types.uint16:
        return lambda value: _as_float(np.uint32(value) << np.uint32(16))
    return lambda value: value


def narrow(value, array):  # type: ignore[no-untyped-def]
    """Return a float as an element of this array, rounded to nearest, ties to even."""
    raise NotImplementedError


@overload(narrow, inline="always")
def _narrow(value, array):  # type: ignore[no-untyped-def]  # noqa: ARG001
    if array.dtype == types.uint16:

        def rounded(value, array):  # type: ignore[no-untyped-def]  # noqa: ARG001
            bits = _as_bits(value)
            odd = (bits >> np.uint32(16)) & np.uint32(1)
            bits = np.uint32(bits + np.uint32(0x7FFF) + odd)
            return np.uint16(bits >> np.uint32(16)) if not np.isnan(value) else np.uint16(0x7FC0)

        return rounded
    return lambda value, array: value  # noqa: ARG005
