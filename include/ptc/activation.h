/* Activation functions on 16 floats. */
#ifndef PTC_ACTIVATION_H
#define PTC_ACTIVATION_H

#include "ptc/kernels.h"
#include "ptc/math.h"

/* x / (1 + exp(-x)). Error at most 4 ULP for x >= -87.3; below, at most 2^-125 |x|. */
PTC_INLINE f32x16 f32x16_silu(f32x16 x) {
  f32x16 e = f32x16_exp(f32x16_sub(f32x16_zero(), x));
  return f32x16_div(x, f32x16_add(f32x16_set1(1.0f), e));
}

/* GELU, tanh form: x/2 (1 + tanh u) = x / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3).
 * One exponential instead of a tanh; absolute error at most 3e-7 max(1, |x|). */
PTC_INLINE f32x16 f32x16_gelu_tanh(f32x16 x) {
  const float two_sqrt_2_over_pi = 1.5957691216057308f;
  f32x16 cubic = f32x16_mul(f32x16_mul(x, x), x);
  f32x16 u = f32x16_fma(cubic, f32x16_set1(0.044715f), x);
  f32x16 e = f32x16_exp(f32x16_mul(u, f32x16_set1(-two_sqrt_2_over_pi)));
  return f32x16_div(x, f32x16_add(f32x16_set1(1.0f), e));
}

/* x for x > 0, else exp(x) - 1. Error at most 4 ULP. */
PTC_INLINE f32x16 f32x16_elu(f32x16 x) {
  f32x16 negative = f32x16_expm1(f32x16_min(x, f32x16_zero()));
  return f32x16_select_gt(x, f32x16_zero(), x, negative);
}

PTC_INLINE f32x16 f32x16_activate(f32x16 x, int activation) {
  switch (activation) {
    case PTC_GELU_TANH:
      return f32x16_gelu_tanh(x);
    case PTC_SILU:
      return f32x16_silu(x);
    case PTC_ELU:
      return f32x16_elu(x);
    default:
      return x;
  }
}

/* out[i] = f(x[i]), i < n; out may be x. */
PTC_INLINE void ptc_activation(float *out, const float *x, int64_t n, int activation) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    f32x16_store(out + i, f32x16_activate(f32x16_load(x + i), activation));
  if (i < n)
    f32x16_store_n(out + i, f32x16_activate(f32x16_load_n(x + i, n - i), activation), n - i);
}

#endif /* PTC_ACTIVATION_H */
