/* Elementary functions on 16 floats. */
#ifndef PTC_MATH_H
#define PTC_MATH_H

#include "ptc/simd.h"

/* Splits exp(x) = 2^n * (1 + q): n = round(x / ln 2), r = x - n ln 2 in two steps (Cody and Waite),
 * q = e^r - 1 by the degree-6 polynomial of Cephes expf (Moshier). x is clamped to [-87.33, 88.02],
 * where 2^n is a normal number. */
PTC_INLINE void ptc_exp_split(f32x16 x, f32x16 *power, f32x16 *q) {
  x = f32x16_min(f32x16_max(x, f32x16_set1(-87.33f)), f32x16_set1(88.02f));
  f32x16 n = f32x16_round(f32x16_mul(x, f32x16_set1(1.44269504088896341f)));
  f32x16 r = f32x16_fnma(n, f32x16_set1(0.693359375f), x);
  r = f32x16_fnma(n, f32x16_set1(-2.12194440e-4f), r);
  f32x16 p = f32x16_set1(1.9875691500e-4f);
  p = f32x16_fma(p, r, f32x16_set1(1.3981999507e-3f));
  p = f32x16_fma(p, r, f32x16_set1(8.3334519073e-3f));
  p = f32x16_fma(p, r, f32x16_set1(4.1665795894e-2f));
  p = f32x16_fma(p, r, f32x16_set1(1.6666665459e-1f));
  p = f32x16_fma(p, r, f32x16_set1(5.0000001201e-1f));
  *q = f32x16_fma(p, f32x16_mul(r, r), r);
  *power = f32x16_pow2(n);
}

/* exp(x). At most 2 ULP on [-87.33, 88.02] with FMA (3 ULP without); saturates outside. */
PTC_INLINE f32x16 f32x16_exp(f32x16 x) {
  f32x16 power, q;
  ptc_exp_split(x, &power, &q);
  return f32x16_fma(power, q, power);
}

/* exp(x) - 1 without cancellation: 2^n q + (2^n - 1). At most 4 ULP for x <= 0. */
PTC_INLINE f32x16 f32x16_expm1(f32x16 x) {
  f32x16 power, q;
  ptc_exp_split(x, &power, &q);
  return f32x16_fma(power, q, f32x16_sub(power, f32x16_set1(1.0f)));
}

#endif /* PTC_MATH_H */
