"""How precisely cuBLAS multiplies float32 matrices. Whatever it is, sums are float32's, and so are the arrays.

    float32   as exact as float32 is; no tensor cores
    tf32      factors rounded to 11 significant bits, the exponent whole; from compute capability 8.0 on
    bfloat16  to 8 bits, the exponent whole; from 8.0 on
    float16   to 11 bits, and nothing beyond 65504: a gradient may overflow or vanish where the others do not

The last three run on tensor cores. Attention, norms and all else stay as they are: see each kernel.
"""

from tinygrad_llm.devices import cupy
from tinygrad_llm.errors import UserError

# The numbers of cublasComputeType_t: CUBLAS_COMPUTE_32F, and _FAST_TF32, _FAST_16F and _FAST_16BF.
COMPUTE_TYPES = {"float32": 68, "tf32": 77, "float16": 74, "bfloat16": 75}
AMPERE = 80  # compute capability 8.0, from which on tensor cores take bfloat16 and tf32

_compute_type = COMPUTE_TYPES["float32"]


def use(precision: str) -> None:
    """Multiply so from now on. Raises UserError for an unknown name, and for a GPU that has no such tensor cores."""
    global _compute_type
    if precision not in COMPUTE_TYPES:
        raise UserError(f"precision must be one of {', '.join(COMPUTE_TYPES)}, not {precision!r}")
    if precision in ("tf32", "bfloat16"):
        capability = int(cupy().cuda.Device().compute_capability)
        if capability < AMPERE:
            raise UserError(
                f"this GPU has compute capability {capability / 10} and no tensor cores for {precision}: "
                "use the precision float16 or float32"
            )
    _compute_type = COMPUTE_TYPES[precision]


def compute_type() -> int:
    """What `cublasGemmEx` is told for float32 arrays; for halves it is CUBLAS_COMPUTE_32F in any case."""
    return _compute_type
