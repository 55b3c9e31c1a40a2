"""CPU kernels: one file per hot operation, compiled by Numba at first use and cached beside the source."""

DTYPES = ("float32", "float64")
