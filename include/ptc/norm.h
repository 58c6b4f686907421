/* Layer normalisation (Ba, Kiros and Hinton 2016), optionally modulated as in DiT's AdaLN.
 *
 *   y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias        (weight, bias may be NULL)
 *   out = y * (1 + scale) + shift                                 (scale, shift may be NULL)
 *
 * Two passes over a row that stays in the first-level cache: the variance is taken of x - mean, so
 * it does not cancel. Error of a lane at most (n/16 + 12) 2^-24 of the row's largest
 * |y| plus (n/16 + 6) 2^-24 max|x| / sqrt(var + eps), which counts when the mean is far from zero.
 */
#ifndef PTC_NORM_H
#define PTC_NORM_H

#include <math.h>

#include "ptc/simd.h"

PTC_INLINE void ptc_layer_norm_row(float *out, const float *x, const float *weight,
                                   const float *bias, const float *scale, const float *shift,
                                   int64_t n, float eps) {
  f32x16 sum = f32x16_zero();
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) sum = f32x16_add(sum, f32x16_load(x + i));
  if (i < n) sum = f32x16_add(sum, f32x16_load_n(x + i, n - i));
  f32x16 mean = f32x16_set1(f32x16_sum(sum) / (float)n);
  f32x16 square = f32x16_zero();
  for (i = 0; i + 16 <= n; i += 16) {
    f32x16 d = f32x16_sub(f32x16_load(x + i), mean);
    square = f32x16_fma(d, d, square);
  }
  if (i < n) {
    f32x16 d = f32x16_keep_n(f32x16_sub(f32x16_load_n(x + i, n - i), mean), n - i);
    square = f32x16_fma(d, d, square);
  }
  f32x16 factor = f32x16_set1(1.0f / sqrtf(f32x16_sum(square) / (float)n + eps));
  for (i = 0; i < n; i += 16) {
    int64_t lanes = n - i < 16 ? n - i : 16;
    f32x16 y = f32x16_mul(f32x16_sub(f32x16_load_n(x + i, lanes), mean), factor);
    if (weight) y = f32x16_mul(y, f32x16_load_n(weight + i, lanes));
    if (bias) y = f32x16_add(y, f32x16_load_n(bias + i, lanes));
    if (scale) {
      f32x16 gain = f32x16_add(f32x16_set1(1.0f), f32x16_load_n(scale + i, lanes));
      y = f32x16_fma(y, gain, f32x16_load_n(shift + i, lanes));
    }
    f32x16_store_n(out + i, y, lanes);
  }
}

#endif /* PTC_NORM_H */
