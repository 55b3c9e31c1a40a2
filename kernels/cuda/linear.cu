// The gradient of a linear layer's bias: the sums of dy's columns. dy is read once, which is the least possible; a part
// of the sums has 32 rows or more where dy has 4096 or more, and is written and read in float: that adds 1/8 in the
// 16-bit types and 1/16 in float32.
#include "columns.cuh"

extern "C" __global__ void sum_columns(const scalar* dy, float* parts, int rows, int width) {
  Floats sums = splat(0);
  for_tile(rows, width, [&](size_t i, int c, int left) { sums = sums + load(dy + i, left); });
  store_part(parts, sums, width);
}
