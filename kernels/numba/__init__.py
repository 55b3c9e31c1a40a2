"""CPU kernels: one file per hot operation, compiled by Numba at first use and cached beside the source."""

import llvmlite.binding as llvm
import numba

DTYPES = ("float32", "float64")

# On most processors that have 512-bit vectors, LLVM uses half of each unless told otherwise: the first of them slowed
# down where they were used now and then. Here they are used all the time. A choice of the user's stands.
if numba.config.CPU_FEATURES is None and llvm.get_host_cpu_features().get("avx512f"):
    numba.config.CPU_FEATURES = llvm.get_host_cpu_features().flatten() + ",-prefer-256-bit"
