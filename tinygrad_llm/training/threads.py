"""How many cores to compute on: with Numba's threads where its kernels are in use, else with those of NumPy's BLAS."""

import os

from threadpoolctl import threadpool_limits

from tinygrad_llm import kernels
from tinygrad_llm.errors import UserError


def set_threads(threads: int | None) -> int:
    """Compute on so many threads from now on, on all cores for None; return the number.

    NUMBA_NUM_THREADS, where it is set, counts as the number of cores. Raises UserError for more, and for none.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    use_numba = "numba" in kernels.active()
    if use_numba:
        import numba

        cores = min(cores, numba.config.NUMBA_NUM_THREADS)
    else:
        cores = min(cores, int(os.environ.get("NUMBA_NUM_THREADS", cores)))
    threads = cores if threads is None else threads
    if not 1 <= threads <= cores:
        raise UserError(f"threads must be from 1 to {cores}, the cores that there are for it, not {threads}")
    if use_numba:
        numba.set_num_threads(threads)
        threadpool_limits(1, "blas")  # two pools of threads would wait for each other's cores
    else:
        threadpool_limits(threads, "blas")
    return threads
