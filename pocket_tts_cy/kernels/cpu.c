/* Which kernel tables exist and which the CPU can run. Compiled with baseline flags only: nothing
 * here may use an instruction that an old CPU lacks. */
#include "ptc/kernels.h"

extern const ptc_kernels ptc_kernels_scalar;
#if defined(PTC_BUILD_AVX2)
extern const ptc_kernels ptc_kernels_avx2;
#endif
#if defined(PTC_BUILD_AVX512)
extern const ptc_kernels ptc_kernels_avx512;
#endif
#if defined(PTC_BUILD_AVX512_VNNI)
extern const ptc_kernels ptc_kernels_avx512_vnni;
#endif
#if defined(PTC_BUILD_NEON)
extern const ptc_kernels ptc_kernels_neon;
#endif
#if defined(PTC_BUILD_NEON_DOTPROD)
extern const ptc_kernels ptc_kernels_neon_dotprod;
#if defined(__linux__)
#include <sys/auxv.h>
#ifndef HWCAP_ASIMDDP
#define HWCAP_ASIMDDP (1 << 20)
#endif
#endif
#endif

static const ptc_kernels *const built[] = {
#if defined(PTC_BUILD_AVX512_VNNI)
    &ptc_kernels_avx512_vnni,
#endif
#if defined(PTC_BUILD_AVX512)
    &ptc_kernels_avx512,
#endif
#if defined(PTC_BUILD_AVX2)
    &ptc_kernels_avx2,
#endif
#if defined(PTC_BUILD_NEON_DOTPROD)
    &ptc_kernels_neon_dotprod,
#endif
#if defined(PTC_BUILD_NEON)
    &ptc_kernels_neon,
#endif
    &ptc_kernels_scalar,
};

const ptc_kernels *ptc_kernels_built(int index) {
  int count = (int)(sizeof built / sizeof built[0]);
  return index >= 0 && index < count ? built[index] : NULL;
}

#if defined(PTC_BUILD_AVX512) || defined(PTC_BUILD_AVX512_VNNI)
static int supports_avx512(void) {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("fma");
}
#endif

int ptc_kernels_supported(const ptc_kernels *table) {
  /* __builtin_cpu_supports checks CPUID and, through XGETBV, that the system saves the registers.
   */
#if defined(PTC_BUILD_AVX2)
  if (table == &ptc_kernels_avx2)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
#if defined(PTC_BUILD_AVX512)
  if (table == &ptc_kernels_avx512) return supports_avx512();
#endif
#if defined(PTC_BUILD_AVX512_VNNI)
  if (table == &ptc_kernels_avx512_vnni)
    return supports_avx512() && __builtin_cpu_supports("avx512vnni");
#endif
#if defined(PTC_BUILD_NEON_DOTPROD) && defined(__linux__)
  if (table == &ptc_kernels_neon_dotprod) return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#endif
  return table != NULL;
}
