// The gradient of a linear layer's bias: the sums of dy's columns. dy is read once, which is the least possible; a part
// of the sums has 8 to 64 rows, and is written and read in float: up to 1/16 more in the 16-bit types.
#include "columns.cuh"

extern "C" __global__ void sum_columns(const scalar* dy, float* parts, int rows, int width) {
  Floats sums = splat(0);
  for_tile(rows, width, [&](size_t i, int c, int left) { sums = sums + load(dy + i, left); });
  store_part(parts, sums, width);
}
