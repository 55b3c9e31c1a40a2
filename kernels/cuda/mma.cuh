// Tensor cores: products of small matrices that a whole warp holds in its registers.
//
// Of a matrix product d += a b, with a (16, 16), b (16, 8) and d (16, 8), lane 4 g + t holds (PTX ISA, "Matrix Fragments
// for mma.m16n8k16"; two neighbouring 16-bit numbers to a register, the lower one in the lower half):
//
//     a[0] = a[g][2t, 2t+1]     a[2] = a[g][2t+8, 2t+9]          b[0] = b[2t, 2t+1][g]
//     a[1] = a[g+8][2t, 2t+1]   a[3] = a[g+8][2t+8, 2t+9]        b[1] = b[2t+8, 2t+9][g]
//     d[0], d[1] = d[g][2t, 2t+1]     d[2], d[3] = d[g+8][2t, 2t+1]
//
// All 32 lanes of the warp must call these together.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// d += a b, where T is __half or __nv_bfloat16 and d float.
template <class T> __device__ void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]);

// Four (8, 8) matrices of 16-bit numbers from shared memory: lane 8 i + r gives the address of row r of the i-th, which
// is a multiple of 16 bytes; register i of lane 4 g + t gets its elements [g][2t, 2t+1], or [2t, 2t+1][g] transposed.
__device__ inline void load_matrices(unsigned (&to)[4], const void* row);
__device__ inline void load_matrices_transposed(unsigned (&to)[4], const void* row);

// Two numbers in one register, the first in the lower half.
template <class T> __device__ unsigned pair(float low, float high);
template <> __device__ inline unsigned pair<__half>(float low, float high) {
  const __half2 both = __floats2half2_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&both);
}
template <> __device__ inline unsigned pair<__nv_bfloat16>(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&both);
}

#ifndef CUDA_EMULATOR
#define MMA(instruction, d, a, b) \
  asm volatile("mma.sync.aligned." instruction " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
template <>
__device__ inline void mma_m16n8k16<__half>(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  MMA("m16n8k16.row.col.f32.f16.f16.f32", d, a, b);
#else  // Turing multiplies half as deep at once
#pragma unroll
  for (int k = 0; k < 2; ++k)
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[2 * k]), "r"(a[2 * k + 1]), "r"(b[k]));
#endif
}
#if __CUDA_ARCH__ >= 800  // Turing's tensor cores have no bfloat16
template <>
__device__ inline void mma_m16n8k16<__nv_bfloat16>(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  MMA("m16n8k16.row.col.f32.bf16.bf16.f32", d, a, b);
}
#endif
#undef MMA

#define LDMATRIX(instruction, to, row) \
  asm volatile("ldmatrix.sync.aligned.m8n8.x4" instruction ".shared.b16 {%0,%1,%2,%3}, [%4];" \
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) \
               : "r"(unsigned(__cvta_generic_to_shared(row))) : "memory")
__device__ inline void load_matrices(unsigned (&to)[4], const void* row) { LDMATRIX("", to, row); }
__device__ inline void load_matrices_transposed(unsigned (&to)[4], const void* row) { LDMATRIX(".trans", to, row); }
#undef LDMATRIX
#else
template <>
inline void mma_m16n8k16<__half>(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  emulator::mma<__half>(d, a, b);
}
template <>
inline void mma_m16n8k16<__nv_bfloat16>(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  emulator::mma<__nv_bfloat16>(d, a, b);
}
inline void load_matrices(unsigned (&to)[4], const void* row) { emulator::load_matrices(to, row, false); }
inline void load_matrices_transposed(unsigned (&to)[4], const void* row) { emulator::load_matrices(to, row, true); }
#endif
