/* Products of 16-bit activations with 16-bit weights: float32's result to about 70 dB, in half its
 * multiplications where the CPU has vpdpwssd.
 *
 *   out[m, n] = epilogue( sw[n] sum_b sx[b] sum_{k in b} qx[m, k] qw[n, k] )
 *
 * Activations are quantised in blocks of 64 consecutive floats, sx = max|x| / 5790, weights with
 * one scale per output, sw = max|w| / 5790. 5790^2 * 64 < 2^31: a block's sum cannot overflow.
 * Integer sums are exact, so all instruction sets give the same bits; blocks are added in float32
 * in order.
 *
 * Layout. Panels of 32 outputs as in linear.h, two consecutive inputs of an output together:
 * [n_in / 2, 32, 2]. n_in and ld_x are multiples of 64, so rows may overlap as in linear.h and a
 * quantised buffer serves all taps of a convolution.
 *
 * Error bound: |error| <= sum_k (sx |w| + sw |x|) / 2; for rows of normal values 70 dB below the
 * result.
 */
#ifndef PTC_QUANT16_H
#define PTC_QUANT16_H

#include "ptc/kernels.h"
#include "ptc/linear.h"
#include "ptc/quant.h"

#define PTC_I16_LIMIT 5790.0f

/* q [n], scales [n / 64] from x [n]; n is a multiple of 64. */
PTC_INLINE void ptc_quantize_i16(int16_t *q, float *scales, const float *x, int64_t n) {
  for (int64_t b = 0; b < n / PTC_Q_BLOCK; b++) {
    f32x16 v[4], largest = f32x16_zero();
    PTC_UNROLL
    for (int i = 0; i < 4; i++) {
      v[i] = f32x16_load(x + b * PTC_Q_BLOCK + 16 * i);
      largest = f32x16_max(largest, f32x16_max(v[i], f32x16_sub(f32x16_zero(), v[i])));
    }
    float maximum = f32x16_hmax(largest);
    scales[b] = maximum / PTC_I16_LIMIT;
    f32x16 inverse = f32x16_set1(maximum > PTC_Q_SMALLEST ? PTC_I16_LIMIT / maximum : 0.0f);
    PTC_UNROLL
    for (int i = 0; i < 4; i++)
      f32x16_store_i16(q + b * PTC_Q_BLOCK + 16 * i, f32x16_round(f32x16_mul(v[i], inverse)));
  }
}

PTC_INLINE int32_t ptc_load_2i16(const int16_t *p) {
  int32_t two;
  __builtin_memcpy(&two, p, 4);
  return two;
}

/* `rows` rows from m by one panel of 32 (or, when vectors = 1, 16) outputs. */
PTC_INLINE void ptc_i16_tile(const ptc_linear_args *a, int64_t m, int64_t panel_index,
                             const int rows, const int vectors) {
  const int16_t *panel = (const int16_t *)a->weights + panel_index * a->n_in * PTC_PANEL;
  const int16_t *x = a->x_q16 + m * a->ld_x;
  const float *scales = a->x_scales + m * (a->ld_x / PTC_Q_BLOCK);
  f32x16 total[PTC_I16_ROWS][2];
  PTC_UNROLL
  for (int r = 0; r < rows; r++) total[r][0] = total[r][1] = f32x16_zero();
  for (int64_t b = 0; b < a->n_in / PTC_Q_BLOCK; b++) {
    i32x16 sum[PTC_I16_ROWS][2];
    PTC_UNROLL
    for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = i32x16_set1(0);
    for (int64_t k = b * PTC_Q_BLOCK; k < (b + 1) * PTC_Q_BLOCK; k += 2) {
      i32x16 low = i32x16_load(panel + k * PTC_PANEL);
      i32x16 high = i32x16_load(panel + k * PTC_PANEL + 32);
      PTC_UNROLL
      for (int r = 0; r < rows; r++) {
        i32x16 xk = i32x16_set1(ptc_load_2i16(x + r * a->ld_x + k));
        sum[r][0] = i32x16_dot2(sum[r][0], low, xk);
        if (vectors == 2) sum[r][1] = i32x16_dot2(sum[r][1], high, xk);
      }
    }
    PTC_UNROLL
    for (int r = 0; r < rows; r++) {
      f32x16 scale = f32x16_set1(scales[r * (a->ld_x / PTC_Q_BLOCK) + b]);
      total[r][0] = f32x16_fma(f32x16_from_i32(sum[r][0]), scale, total[r][0]);
      if (vectors == 2) total[r][1] = f32x16_fma(f32x16_from_i32(sum[r][1]), scale, total[r][1]);
    }
  }
  const float *weight_scales = (const float *)a->weight_scales + panel_index * PTC_PANEL;
  PTC_ALIGN(64) float tile[PTC_I16_ROWS * PTC_PANEL];
  PTC_UNROLL
  for (int r = 0; r < rows; r++) {
    f32x16_store(tile + r * PTC_PANEL, f32x16_mul(total[r][0], f32x16_load(weight_scales)));
    if (vectors == 2)
      f32x16_store(tile + r * PTC_PANEL + 16,
                   f32x16_mul(total[r][1], f32x16_load(weight_scales + 16)));
  }
  ptc_epilogue(a, tile, m, rows, panel_index * PTC_PANEL);
}

PTC_INLINE void ptc_i16_rows(const ptc_linear_args *a, int64_t m, int64_t panel, int64_t rows,
                             const int vectors) {
  switch (rows) {
    case 1:
      ptc_i16_tile(a, m, panel, 1, vectors);
      break;
#if PTC_I16_ROWS > 1
    case 2:
      ptc_i16_tile(a, m, panel, 2, vectors);
      break;
    case 3:
      ptc_i16_tile(a, m, panel, 3, vectors);
      break;
    case 4:
      ptc_i16_tile(a, m, panel, 4, vectors);
      break;
    case 5:
      ptc_i16_tile(a, m, panel, 5, vectors);
      break;
    case 6:
      ptc_i16_tile(a, m, panel, 6, vectors);
      break;
#endif
  }
}

/* Rows [row_begin, row_end) by panels [panel_begin, panel_end). */
PTC_INLINE void ptc_linear_i16(const ptc_linear_args *a, int64_t row_begin, int64_t row_end,
                               int64_t panel_begin, int64_t panel_end) {
  int64_t rows = row_end - row_begin;
  int64_t tiles = (rows + PTC_I16_ROWS - 1) / PTC_I16_ROWS;
  for (int64_t p = panel_begin; p < panel_end; p++) {
    int narrow = a->n_out - p * PTC_PANEL <= 16;
    for (int64_t t = 0; t < tiles; t++) {
      int64_t m = row_begin + t * rows / tiles;
      int64_t n = row_begin + (t + 1) * rows / tiles - m;
      if (narrow)
        ptc_i16_rows(a, m, p, n, 1);
      else
        ptc_i16_rows(a, m, p, n, 2);
    }
  }
}

#endif /* PTC_QUANT16_H */
