/* The one door to vector instructions: about 40 operations on 16 floats.
 *
 * Every instruction set gives the same type and function names, so kernels are written once. The
 * unit's compiler flags choose the header. Operations on f32x16 round exactly as IEEE 754
 * single precision does, f32x16_fma rounds once (twice in scalar.h when the CPU has no FMA), and
 * f32x16_sum adds in one fixed halving tree, so AVX2, AVX-512 and NEON give the same bits.
 *
 * Naming: f32x16_<operation>; _n variants touch only the first n (0..16) lanes of memory.
 */
#ifndef PTC_SIMD_H
#define PTC_SIMD_H

#include "ptc/config.h"

#if defined(PTC_FORCE_SCALAR)
#include "ptc/simd/scalar.h"
#elif defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && \
    defined(__AVX512VL__)
#include "ptc/simd/avx512.h"
#elif defined(__AVX2__) && defined(__FMA__)
#include "ptc/simd/avx2.h"
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include "ptc/simd/neon.h"
#else
#include "ptc/simd/scalar.h"
#endif

#endif /* PTC_SIMD_H */
