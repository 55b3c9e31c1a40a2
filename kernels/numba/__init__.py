"""CPU kernels: one file per hot operation, compiled by Numba at first use and cached beside the source."""

import os

DTYPES = ("float32", "float64")

# Numba's threads would spin while they wait for work, on the cores that BLAS's threads need for the next product: a
# loss of many times the product's own time on two cores. Read when the first parallel kernel starts them.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
