// CUDA C++ on the CPU: what a .cu file may use, in terms of runtime.h. Included before every kernel's source.
#pragma once
#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <type_traits>
#include <utility>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector_functions.h>

#include "runtime.h"

#undef __constant__
#undef __device__
#undef __forceinline__
#undef __global__
#undef __host__
#undef __launch_bounds__
#undef __noinline__
#undef __shared__
#define __constant__ static const
#define __device__
#define __forceinline__ inline
#define __global__
#define __host__
#define __launch_bounds__(...)
#define __noinline__
#define __restrict__ __restrict
#if defined(__SANITIZE_ADDRESS__)
#define __shared__ static  // AddressSanitizer puts red zones around plain statics only
#else
#define __shared__ static __attribute__((section("cuda_shared")))
#endif

#define threadIdx (emulator::current->index)
#define blockIdx (emulator::block_index)
#define blockDim (emulator::block)
#define gridDim (emulator::grid)
#define warpSize 32

using std::isfinite;
using std::isinf;
using std::isnan;

#include "device_math.h"
#include "warp.h"
#include "atomics.h"
#include "mma.h"
#include "signature.h"
