/* float samples to 16-bit PCM: clamp to [-1, 1], times 32767, truncate towards zero. NaN gives 0.
 */
#ifndef PTC_PCM_H
#define PTC_PCM_H

#include "ptc/simd.h"

PTC_INLINE f32x16 ptc_pcm16_scale(f32x16 x) {
  /* Both comparisons are false for NaN, which therefore ends as the last argument, 0. */
  f32x16 zero = f32x16_zero(), one = f32x16_set1(1.0f);
  f32x16 positive = f32x16_select_gt(x, zero, f32x16_min(x, one), zero);
  f32x16 negative = f32x16_select_gt(zero, x, f32x16_max(x, f32x16_set1(-1.0f)), zero);
  return f32x16_mul(f32x16_add(positive, negative), f32x16_set1(32767.0f));
}

PTC_INLINE void ptc_pcm16(int16_t *out, const float *x, int64_t n) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) f32x16_store_pcm16(out + i, ptc_pcm16_scale(f32x16_load(x + i)));
  if (i < n) {
    int16_t tail[16];
    f32x16_store_pcm16(tail, ptc_pcm16_scale(f32x16_load_n(x + i, n - i)));
    for (int64_t j = 0; i + j < n; j++) out[i + j] = tail[j];
  }
}

#endif /* PTC_PCM_H */
