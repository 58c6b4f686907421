/* Compiler differences, in one place. */
#ifndef PTC_CONFIG_H
#define PTC_CONFIG_H

#include <stddef.h>
#include <stdint.h>

#if defined(_MSC_VER) && !defined(__clang__)
#define PTC_INLINE static __forceinline
#define PTC_NOINLINE static __declspec(noinline)
#define PTC_RESTRICT __restrict
#define PTC_ALIGN(n) __declspec(align(n))
#define PTC_UNROLL
#else
#define PTC_INLINE static inline __attribute__((always_inline))
#define PTC_NOINLINE static __attribute__((noinline))
#define PTC_RESTRICT __restrict__
#define PTC_ALIGN(n) __attribute__((aligned(n)))
/* Loops over a tile's rows or panels have constant bounds after inlining; they must be unrolled
 * completely or the accumulators live in memory. */
#if defined(__clang__)
#define PTC_UNROLL _Pragma("clang loop unroll(full)")
#else
#define PTC_UNROLL _Pragma("GCC unroll 16")
#endif
#endif

#endif /* PTC_CONFIG_H */
