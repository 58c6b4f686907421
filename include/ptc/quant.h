/* Products of 8-bit activations with 8-bit or 4-bit weights.
 *
 *   out[m, n] = epilogue( sum_b sx[m, b] sw[n, b] sum_{k in b} qx[m, k] qw[n, k] )
 *
 * Activations are quantised when they arrive, per row in blocks of 64: sx = max|x| / 127,
 * qx = round(x / sx). Weights were quantised at load: int8 with one scale per output, or 4 bits
 * with one bfloat16 scale per output and 32 inputs. Integer sums are exact, so all instruction sets
 * give the same bits; blocks are added in float32 in order.
 *
 * Layout. Panels of 32 outputs as in linear.h, but four consecutive inputs of an output stand
 * together: [n_in / 4, 32, 4] bytes. One 32-bit lane then meets four broadcast activations in one
 * dot-product instruction (vpdpbusd, sdot). Where that instruction wants unsigned weights, they are
 * offset by 128 on the fly and 128 sum(qx), known per block, is taken away at the start.
 * 4-bit panels: [n_in / 8, 32, 4] bytes, low nibbles inputs 0..3, high nibbles inputs 4..7, stored
 * as q + 8; then their scales.
 *
 * Rounding error of a product: |error| <= sum_b (sx |qw sw| + sw |qx sx|) / 2 over the block, the
 * quantisation itself; the arithmetic adds less than (n_in / 64 + 2) 2^-24 relative.
 */
#ifndef PTC_QUANT_H
#define PTC_QUANT_H

#include "ptc/kernels.h"
#include "ptc/linear.h"

/* One row: q [padded], scales [padded / 64], sums [padded / 32]; padded = n_in rounded up to 64. */
PTC_INLINE void ptc_quantize_row(int8_t *q, float *scales, int32_t *sums, const float *x,
                                 int64_t n_in) {
  for (int64_t b = 0; b * PTC_Q_BLOCK < n_in; b++) {
    PTC_ALIGN(64) float values[PTC_Q_BLOCK];
    f32x16 largest = f32x16_zero();
    for (int64_t i = 0; i < PTC_Q_BLOCK; i += 16) {
      int64_t left = n_in - b * PTC_Q_BLOCK - i;
      f32x16 v = left >= 16 ? f32x16_load(x + b * PTC_Q_BLOCK + i)
                 : left > 0 ? f32x16_load_n(x + b * PTC_Q_BLOCK + i, left)
                            : f32x16_zero();
      f32x16_store(values + i, v);
      largest = f32x16_max(largest, f32x16_max(v, f32x16_sub(f32x16_zero(), v)));
    }
    float maximum = f32x16_hmax(largest);
    scales[b] = maximum / 127.0f;
    f32x16 inverse = f32x16_set1(maximum > PTC_Q_SMALLEST ? 127.0f / maximum : 0.0f);
    for (int64_t i = 0; i < PTC_Q_BLOCK; i += 16)
      f32x16_store_i8(q + b * PTC_Q_BLOCK + i,
                      f32x16_round(f32x16_mul(f32x16_load(values + i), inverse)));
    for (int64_t half = 0; half < 2; half++) {
      int32_t sum = 0;
      for (int64_t i = 0; i < PTC_Q_BLOCK / 2; i++)
        sum += q[b * PTC_Q_BLOCK + half * PTC_Q_BLOCK / 2 + i];
      sums[2 * b + half] = sum;
    }
  }
}

PTC_INLINE int32_t ptc_load_4i8(const int8_t *p) {
  int32_t four;
  __builtin_memcpy(&four, p, 4);
  return four;
}

/* `rows` rows by `panels` panels; all sums are registers after inlining. */
PTC_INLINE void ptc_q_tile(const ptc_linear_args *a, int64_t m, int64_t panel_index, const int rows,
                           const int panels, const int bits) {
  const int64_t blocks = (a->n_in + PTC_Q_BLOCK - 1) / PTC_Q_BLOCK;
  const int64_t panel_bytes = blocks * PTC_Q_BLOCK * PTC_PANEL * bits / 8;
  const int8_t *weights = (const int8_t *)a->weights + panel_index * panel_bytes;
  const int8_t *x = a->x_q + m * blocks * PTC_Q_BLOCK;
  const float *x_scales = a->x_scales + m * blocks;
  const int32_t *x_sums = a->x_sums + m * 2 * blocks;
  f32x16 total[PTC_Q_ROWS][PTC_Q_PANELS][2];
  PTC_UNROLL
  for (int r = 0; r < rows; r++) {
    PTC_UNROLL
    for (int p = 0; p < panels; p++) total[r][p][0] = total[r][p][1] = f32x16_zero();
  }
  for (int64_t b = 0; b < blocks; b++) {
    if (bits == 8) {
      i32x16 sum[PTC_Q_ROWS][PTC_Q_PANELS][2];
      PTC_UNROLL
      for (int r = 0; r < rows; r++) {
        i32x16 start = i32x16_set1(
            PTC_DOT4_OFFSET * (x_sums[(r * blocks + b) * 2] + x_sums[(r * blocks + b) * 2 + 1]));
        PTC_UNROLL
        for (int p = 0; p < panels; p++) sum[r][p][0] = sum[r][p][1] = start;
      }
      for (int64_t k = 0; k < PTC_Q_BLOCK; k += 4) {
        i32x16 xk[PTC_Q_ROWS];
        PTC_UNROLL
        for (int r = 0; r < rows; r++)
          xk[r] = i32x16_set1(ptc_load_4i8(x + (r * blocks + b) * PTC_Q_BLOCK + k));
        PTC_UNROLL
        for (int p = 0; p < panels; p++) {
          const int8_t *w = weights + p * panel_bytes + (b * PTC_Q_BLOCK + k) * PTC_PANEL;
          i32x16 low = i32x16_load_dot4(w), high = i32x16_load_dot4(w + 64);
          PTC_UNROLL
          for (int r = 0; r < rows; r++) {
            sum[r][p][0] = i32x16_dot4(sum[r][p][0], low, xk[r]);
            sum[r][p][1] = i32x16_dot4(sum[r][p][1], high, xk[r]);
          }
        }
      }
      PTC_UNROLL
      for (int r = 0; r < rows; r++) {
        f32x16 scale = f32x16_set1(x_scales[r * blocks + b]);
        PTC_UNROLL
        for (int p = 0; p < panels; p++) {
          total[r][p][0] = f32x16_fma(f32x16_from_i32(sum[r][p][0]), scale, total[r][p][0]);
          total[r][p][1] = f32x16_fma(f32x16_from_i32(sum[r][p][1]), scale, total[r][p][1]);
        }
      }
    } else {
      for (int64_t half = 0; half < 2; half++) {
        i32x16 sum[PTC_Q_ROWS][PTC_Q_PANELS][2];
        PTC_UNROLL
        for (int r = 0; r < rows; r++) {
          i32x16 start = i32x16_set1(-8 * x_sums[(r * blocks + b) * 2 + half]);
          PTC_UNROLL
          for (int p = 0; p < panels; p++) sum[r][p][0] = sum[r][p][1] = start;
        }
        for (int64_t k = 0; k < PTC_Q_BLOCK / 2; k += 8) {
          i32x16 x0[PTC_Q_ROWS], x1[PTC_Q_ROWS];
          const int64_t at = b * PTC_Q_BLOCK + half * (PTC_Q_BLOCK / 2) + k;
          PTC_UNROLL
          for (int r = 0; r < rows; r++) {
            x0[r] = i32x16_set1(ptc_load_4i8(x + r * blocks * PTC_Q_BLOCK + at));
            x1[r] = i32x16_set1(ptc_load_4i8(x + r * blocks * PTC_Q_BLOCK + at + 4));
          }
          PTC_UNROLL
          for (int p = 0; p < panels; p++) {
            const int8_t *w = weights + p * panel_bytes + at * PTC_PANEL / 2;
            PTC_UNROLL
            for (int v = 0; v < 2; v++) {
              i32x16 low, high;
              i32x16_load_nibbles(w + 64 * v, &low, &high);
              PTC_UNROLL
              for (int r = 0; r < rows; r++) {
                sum[r][p][v] = i32x16_dot4_nibbles(sum[r][p][v], low, x0[r]);
                sum[r][p][v] = i32x16_dot4_nibbles(sum[r][p][v], high, x1[r]);
              }
            }
          }
        }
        PTC_UNROLL
        for (int p = 0; p < panels; p++) {
          const uint16_t *w_scales = (const uint16_t *)a->weight_scales +
                                     (((panel_index + p) * blocks + b) * 2 + half) * PTC_PANEL;
          f32x16 low, high;
          bf16x32_load_pairs(w_scales, &low, &high);
          PTC_UNROLL
          for (int r = 0; r < rows; r++) {
            f32x16 scale = f32x16_set1(x_scales[r * blocks + b]);
            total[r][p][0] =
                f32x16_fma(f32x16_from_i32(sum[r][p][0]), f32x16_mul(low, scale), total[r][p][0]);
            total[r][p][1] =
                f32x16_fma(f32x16_from_i32(sum[r][p][1]), f32x16_mul(high, scale), total[r][p][1]);
          }
        }
      }
    }
  }
  PTC_ALIGN(64) float tile[PTC_Q_ROWS * PTC_PANEL];
  PTC_UNROLL
  for (int p = 0; p < panels; p++) {
    const int64_t column = (panel_index + p) * PTC_PANEL;
    PTC_UNROLL
    for (int v = 0; v < 2; v++) {
      f32x16 scale = f32x16_set1(1.0f);
      if (bits == 8) scale = f32x16_load((const float *)a->weight_scales + column + 16 * v);
      PTC_UNROLL
      for (int r = 0; r < rows; r++)
        f32x16_store(tile + r * PTC_PANEL + 16 * v,
                     bits == 8 ? f32x16_mul(total[r][p][v], scale) : total[r][p][v]);
    }
    ptc_epilogue(a, tile, m, rows, column);
  }
}

/* Rows [row_begin, row_end) by panels [panel_begin, panel_end); bits is 8 or 4. */
PTC_INLINE void ptc_linear_quantized(const ptc_linear_args *a, int64_t row_begin, int64_t row_end,
                                     int64_t panel_begin, int64_t panel_end, const int bits) {
  int64_t p = panel_begin;
  if (row_end - row_begin == 1)
    for (; p + PTC_Q_PANELS <= panel_end; p += PTC_Q_PANELS)
      ptc_q_tile(a, row_begin, p, 1, PTC_Q_PANELS, bits);
  for (; p < panel_end; p++) {
    int64_t m = row_begin;
    for (; m + PTC_Q_ROWS <= row_end; m += PTC_Q_ROWS) ptc_q_tile(a, m, p, PTC_Q_ROWS, 1, bits);
    for (; m < row_end; m++) ptc_q_tile(a, m, p, 1, 1, bits);
  }
}

#endif /* PTC_QUANT_H */
