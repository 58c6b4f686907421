/* Rotary position embedding (Su et al. 2021) on interleaved pairs.
 *
 *   (x0, x1) -> (x0 cos a - x1 sin a, x0 sin a + x1 cos a),  a = position * frequency of the pair
 *
 * cosines holds [c0, c0, c1, c1, ...] and sines [-s0, s0, -s1, s1, ...], so a pair is two
 * multiplications by plain vectors and one exchange of neighbours. Error: at most 2 ULP of the
 * larger term.
 */
#ifndef PTC_ROPE_H
#define PTC_ROPE_H

#include "ptc/simd.h"

/* out, x [n_heads, head_dim]; cosines, sines [head_dim]. out may be x. */
PTC_INLINE void ptc_rope(float *out, const float *x, const float *cosines, const float *sines,
                         int64_t n_heads, int64_t head_dim) {
  for (int64_t h = 0; h < n_heads; h++) {
    for (int64_t i = 0; i < head_dim; i += 16) {
      int64_t n = head_dim - i < 16 ? head_dim - i : 16;
      f32x16 v = f32x16_load_n(x + h * head_dim + i, n);
      f32x16 rotated = f32x16_mul(f32x16_swap_pairs(v), f32x16_load_n(sines + i, n));
      f32x16_store_n(out + h * head_dim + i, f32x16_fma(v, f32x16_load_n(cosines + i, n), rotated),
                     n);
    }
  }
}

#endif /* PTC_ROPE_H */
