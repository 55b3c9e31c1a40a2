"""What the kernels share: how what leaves call is compiled, and an exponential that runs on whole vectors.

A kernel here is a few *leaf* loops (`threads.leaf`) and plain Python around them. Leaves compile at their first use,
and only those that are used; Numba keeps the machine code in `__pycache__` beside the source, or in `NUMBA_CACHE_DIR`.
The threads are Numba's: as many as `NUMBA_NUM_THREADS` or `numba.set_num_threads` say.
"""

import functools
import math
import zlib
from pathlib import Path

import numba
import numpy as np
from numba.extending import overload

# Sums in any order and fused multiply-adds let a reduction use the vector registers. The other fast-math flags would
# allow the compiler to assume that no number is NaN or infinite, and a diverging run must be seen.
FASTMATH = {"contract", "reassoc", "arcp", "nsz"}

# Numba compiles a leaf anew when the leaf's own file changes, and does not see that those whose code goes into it did.
# So each leaf's name, under which it is cached, ends in a checksum of what leaves share.
SHARED = ("common", "gelu", "matvec", "quants", "simd", "threads", "vectors")
SOURCE = b"".join(Path(__file__).with_name(f"{name}.py").read_bytes() for name in SHARED)
VERSION = f"{zlib.crc32(SOURCE):08x}"

LOG2_E = np.float32(math.log2(math.e))
LN2_HIGH = np.float32(0.693359375)  # few bits, so that its product with a small whole number is exact
LN2_LOW = np.float32(math.log(2) - 0.693359375)
ROUND = np.float32(1.5 * 2**23)  # adding it pushes a number's fraction off the end of float32
BIAS = np.int32(127)  # of a float32's exponent, which stands above its 23 bits of fraction
TAYLOR = tuple(np.float32(1 / math.factorial(k)) for k in range(8))


def helper(function, fastmath=FASTMATH):
    """Compile a function that leaves call: of the same file, or of those in SHARED, whose changes they see."""
    wrappers = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # for callers outside, which it has none of
    return numba.njit(nogil=True, error_model="numpy", fastmath=fastmath, **wrappers)(function)


def ordered(function):
    """A `helper` that computes in the order in which it is written: another would cost it digits."""
    return helper(function, {"contract"})


@functools.lru_cache(maxsize=64)
def constant(size: int, value: float, dtype: np.dtype) -> np.ndarray:
    """(size,): one number again and again, for a leaf that wants an array; nobody writes to it."""
    return np.full(size, value, dtype)


def exp(x):
    """e^x inside a leaf, to the last bit or two; in float32, 0 below e^-87.3 and infinity above e^88.4.

    The C library's exp takes one number at a time, and so does a loop around it. This one is arithmetic alone:
    x = n ln 2 + r with n whole and |r| <= ln(2) / 2, e^r by eight terms of its series (the ninth is below 6e-9), and
    2^n by writing n + 127 into the exponent of a float32. n is made by adding a number so large that float32 keeps no
    fraction, which leaves n in the lowest bits. In float64, the precision of checks, it is the C library's.
    """
    raise NotImplementedError("only inside a leaf")


@overload(exp, jit_options={"fastmath": {"contract"}})  # another order of the sums would undo the exact ones
def _exp(x):
    return _exp32 if x == numba.float32 else lambda x: math.exp(x)


def _exp32(x):
    x = np.float32(-88) if x < -88 else np.float32(89) if x > 89 else x  # a NaN is neither, and goes on
    shifted = np.float32(x * LOG2_E + ROUND)
    n = shifted - ROUND
    r = x - n * LN2_HIGH - n * LN2_LOW
    t = TAYLOR
    series = ((((((t[7] * r + t[6]) * r + t[5]) * r + t[4]) * r + t[3]) * r + t[2]) * r + t[1]) * r + t[0]
    return series * np.int32((shifted.view(np.int32) + BIAS) << np.int32(23)).view(np.float32)
