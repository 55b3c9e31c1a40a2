// Tensor cores: C += A B of small matrices of float16 or bfloat16, C in float32, by a warp whose lanes all take part.
//
// Of each matrix a lane holds a part (PTX ISA, "Matrix Fragments for mma.m16n8k16"), two neighboring 16-bit numbers to a
// register, the first in the lower half. With g = lane / 4 and t = lane % 4:
//
//     A (16, 16)  a[0]: row g, columns 2t and 2t + 1;  a[1]: row g + 8;  a[2], a[3]: the same, 8 columns further
//     B (16, 8)   b[0]: rows 2t and 2t + 1 of column g;  b[1]: the same, 8 rows further
//     C (16, 8)   c[0], c[1]: row g, columns 2t and 2t + 1;  c[2], c[3]: row g + 8
//
// So what two C side by side hold is what one A must hold: a product's result is the next one's factor where it is.
// On the CPU the emulator gives the three functions that are instructions here.
#pragma once
#include "common.cuh"

// Whether there are tensor cores for T: for float16 from sm_75 on, for bfloat16 from sm_80 on.
template <class T> constexpr bool has_mma = false;
template <> constexpr bool has_mma<__half> = true;
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
template <> constexpr bool has_mma<__nv_bfloat16> = true;
#endif

// Two numbers in one register.
template <class T> __device__ inline unsigned pair(float first, float second) {
  const T both[2] = {from_float<T>(first), from_float<T>(second)};
  return *reinterpret_cast<const unsigned*>(both);
}

#ifdef __CUDACC__
#define MMA(INSTRUCTION)                                                                               \
  asm("mma.sync.aligned." INSTRUCTION " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"         \
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                 \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

// C += A B
template <class T> __device__ void mma_16x8x16(float* c, const unsigned* a, const unsigned* b);

template <> __device__ inline void mma_16x8x16<__half>(float* c, const unsigned* a, const unsigned* b) {
#if __CUDA_ARCH__ >= 800
  MMA("m16n8k16.row.col.f32.f16.f16.f32");
#else  // half as deep at once
#pragma unroll
  for (int k = 0; k < 2; ++k)
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[2 * k]), "r"(a[2 * k + 1]), "r"(b[k]));
#endif
}

#if __CUDA_ARCH__ >= 800
template <> __device__ inline void mma_16x8x16<__nv_bfloat16>(float* c, const unsigned* a, const unsigned* b) {
  MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
}
#endif
#undef MMA

#define LDMATRIX(KIND)                                                        \
  asm volatile("ldmatrix.sync.aligned.m8n8.x4" KIND " {%0,%1,%2,%3}, [%4];"   \
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])               \
               : "r"(unsigned(__cvta_generic_to_shared(row)))                 \
               : "memory")

// Four matrices of (8, 8) 16-bit numbers from shared memory: lane 8 i + r says where row r of the i-th lies, at a
// multiple of 16 bytes, and of the i-th gets into m[i] the numbers 2t and 2t + 1 of row g; transposed, of column g.
template <class T> __device__ inline void load_matrices(unsigned* m, const T* row) { LDMATRIX(".shared.b16"); }
template <class T> __device__ inline void load_matrices_transposed(unsigned* m, const T* row) {
  LDMATRIX(".trans.shared.b16");
}
#undef LDMATRIX
#endif
