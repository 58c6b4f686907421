/* Depthwise transposed convolution with kernel = 2 * stride (Mimi's upsampler).
 *
 *   out[t * stride + j, c] = x[t, c] w[j, c] + x[t - 1, c] w[stride + j, c]
 *
 * Every other convolution is a matrix product over overlapping rows (linear.h); this one has no sum
 * over channels. x points at row 0 and row -1 must be readable (the carried row, zeros at start).
 */
#ifndef PTC_CONV_H
#define PTC_CONV_H

#include "ptc/simd.h"

/* out [n_rows * stride, channels], x [1 + n_rows, channels] from row -1, w [2 * stride, channels]
 */
PTC_INLINE void ptc_upsample_depthwise(float *out, const float *x, const float *w, int64_t n_rows,
                                       int64_t channels, int64_t stride) {
  for (int64_t t = 0; t < n_rows; t++) {
    for (int64_t j = 0; j < stride; j++) {
      float *row = out + (t * stride + j) * channels;
      for (int64_t c = 0; c < channels; c += 16) {
        int64_t n = channels - c < 16 ? channels - c : 16;
        f32x16 now = f32x16_load_n(x + t * channels + c, n);
        f32x16 before = f32x16_load_n(x + (t - 1) * channels + c, n);
        f32x16 tail = f32x16_mul(before, f32x16_load_n(w + (stride + j) * channels + c, n));
        f32x16_store_n(row + c, f32x16_fma(now, f32x16_load_n(w + j * channels + c, n), tail), n);
      }
    }
  }
}

#endif /* PTC_CONV_H */
