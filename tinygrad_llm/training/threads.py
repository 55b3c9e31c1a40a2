"""How many cores to compute on: with Numba's threads where its kernels are in use, else with those of NumPy's BLAS."""

import os

from threadpoolctl import threadpool_limits

from tinygrad_llm import kernels
from tinygrad_llm.errors import UserError


def set_threads(threads: int | None) -> int:
    """Compute on so many threads from now on, on all cores for None; return the number.

    Raises UserError for more than there are cores, and for none.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = cores if threads is None else threads
    if not 1 <= threads <= cores:
        raise UserError(f"threads must be from 1 to {cores}, the cores of this machine, not {threads}")
    if "numba" in kernels.active():
        import numba

        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        threadpool_limits(1, "blas")  # two pools of threads would wait for each other's cores
    else:
        threadpool_limits(threads, "blas")
    return threads
