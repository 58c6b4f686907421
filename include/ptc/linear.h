/* Matrix products with weights packed for the kernels.
 *
 *   out[m, n] = residual[m, n] + scale[m, n] * f( bias[n] + sum_k x[m, k] W[n, k] )
 *
 * Packing. W [n_out, n_in] is stored as panels of 32 outputs, each [n_in, 32]: one row of x meets
 * 32 weights that are consecutive in memory, so no sum across lanes is ever needed and weights are
 * read in one pass, front to back. The last panel is padded with zero rows. In bfloat16 panels the
 * outputs j and j + 16 are neighbours: a 32-bit lane holds both, and widening is one shift and one
 * AND per 32 weights instead of two conversions.
 *
 * Order of additions. Each output is summed over k in blocks of 512, one accumulator per block,
 * blocks added in order. The order depends neither on the number of rows nor on the instruction
 * set, so a row gives the same bits alone and among others: streaming, batching and prefill agree
 * exactly. Error bound: |error| <= (512 + n_in/512) 2^-24 sum_k |x[k] W[n, k]|.
 *
 * x rows may overlap (ldx < n_in): a causal convolution over rows [time, channel] is this product
 * with n_in = kernel * channels and ldx = stride * channels.
 */
#ifndef PTC_LINEAR_H
#define PTC_LINEAR_H

#include "ptc/activation.h"
#include "ptc/kernels.h"

#define PTC_K_BLOCK 512

typedef struct {
  f32x16 low, high;
} ptc_weights32;

PTC_INLINE ptc_weights32 ptc_load_weights(const void *panel, int64_t k, int bf16) {
  ptc_weights32 w;
  if (bf16) {
    bf16x32_load_pairs((const uint16_t *)panel + k * PTC_PANEL, &w.low, &w.high);
  } else {
    const float *p = (const float *)panel + k * PTC_PANEL;
    w.low = f32x16_load(p);
    w.high = f32x16_load(p + 16);
  }
  return w;
}

PTC_INLINE const void *ptc_panel(const ptc_linear_args *a, int64_t panel, int bf16) {
  int64_t offset = panel * a->n_in * PTC_PANEL;
  return bf16 ? (const void *)((const uint16_t *)a->weights + offset)
              : (const void *)((const float *)a->weights + offset);
}

/* What follows the product, for one vector of 16 outputs of row m: n of them exist. */
PTC_INLINE void ptc_epilogue_vector(const ptc_linear_args *a, int64_t m, int64_t column, int64_t n,
                                    f32x16 sum, const int activation, const int final_activation) {
  if (a->bias) sum = f32x16_add(sum, f32x16_load_n(a->bias + column, n));
  sum = f32x16_activate(sum, activation);
  if (a->scale) sum = f32x16_mul(sum, f32x16_load_n(a->scale + m * a->ld_scale + column, n));
  if (a->residual)
    sum = f32x16_add(sum, f32x16_load_n(a->residual + m * a->ld_residual + column, n));
  f32x16_store_n(a->out + m * a->ld_out + column, f32x16_activate(sum, final_activation), n);
}

PTC_INLINE void ptc_epilogue_rows(const ptc_linear_args *a, const float *tile, int64_t m,
                                  int64_t rows, int64_t column, const int activation,
                                  const int final_activation) {
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t v = 0; v < PTC_PANEL; v += 16) {
      int64_t n = a->n_out - column - v;
      if (n > 0)
        ptc_epilogue_vector(a, m + r, column + v, n < 16 ? n : 16,
                            f32x16_load(tile + r * PTC_PANEL + v), activation, final_activation);
    }
  }
}

/* Bias, activation, scale and residual for a tile of sums [rows, 32] at row m and output `column`.
 * One function for all tiles: inlined into each of them it made the compiler work for minutes. */
PTC_NOINLINE void ptc_epilogue(const ptc_linear_args *a, const float *tile, int64_t m, int64_t rows,
                               int64_t column) {
  if (a->final_activation != PTC_IDENTITY) {
    if (a->activation == PTC_IDENTITY && a->final_activation == PTC_ELU)
      ptc_epilogue_rows(a, tile, m, rows, column, PTC_IDENTITY, PTC_ELU);
    else
      ptc_epilogue_rows(a, tile, m, rows, column, a->activation, a->final_activation);
    return;
  }
  switch (a->activation) {
    case PTC_GELU_TANH:
      ptc_epilogue_rows(a, tile, m, rows, column, PTC_GELU_TANH, PTC_IDENTITY);
      break;
    case PTC_SILU:
      ptc_epilogue_rows(a, tile, m, rows, column, PTC_SILU, PTC_IDENTITY);
      break;
    case PTC_ELU:
      ptc_epilogue_rows(a, tile, m, rows, column, PTC_ELU, PTC_IDENTITY);
      break;
    default:
      ptc_epilogue_rows(a, tile, m, rows, column, PTC_IDENTITY, PTC_IDENTITY);
  }
}

/* `rows` rows from m by one panel of 32 (or, when vectors = 1, 16) outputs. rows, vectors and bf16
 * are constants after inlining, so the accumulators are registers. */
PTC_INLINE void ptc_gemm_tile(const ptc_linear_args *a, int64_t m, int64_t panel_index,
                              const int rows, const int vectors, const int bf16) {
  const void *panel = ptc_panel(a, panel_index, bf16);
  const float *x = a->x + m * a->ld_x;
  f32x16 total[PTC_GEMM_ROWS][2];
  PTC_UNROLL
  for (int r = 0; r < rows; r++) total[r][0] = total[r][1] = f32x16_zero();
  for (int64_t k0 = 0; k0 < a->n_in; k0 += PTC_K_BLOCK) {
    int64_t k1 = k0 + PTC_K_BLOCK < a->n_in ? k0 + PTC_K_BLOCK : a->n_in;
    f32x16 sum[PTC_GEMM_ROWS][2];
    PTC_UNROLL
    for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = f32x16_zero();
    for (int64_t k = k0; k < k1; k++) {
      ptc_weights32 w = ptc_load_weights(panel, k, bf16);
      PTC_UNROLL
      for (int r = 0; r < rows; r++) {
        f32x16 xk = f32x16_set1(x[r * a->ld_x + k]);
        sum[r][0] = f32x16_fma(xk, w.low, sum[r][0]);
        if (vectors == 2) sum[r][1] = f32x16_fma(xk, w.high, sum[r][1]);
      }
    }
    PTC_UNROLL
    for (int r = 0; r < rows; r++) {
      total[r][0] = f32x16_add(total[r][0], sum[r][0]);
      if (vectors == 2) total[r][1] = f32x16_add(total[r][1], sum[r][1]);
    }
  }
  PTC_ALIGN(64) float tile[PTC_GEMM_ROWS * PTC_PANEL];
  PTC_UNROLL
  for (int r = 0; r < rows; r++) {
    f32x16_store(tile + r * PTC_PANEL, total[r][0]);
    if (vectors == 2) f32x16_store(tile + r * PTC_PANEL + 16, total[r][1]);
  }
  ptc_epilogue(a, tile, m, rows, panel_index * PTC_PANEL);
}

/* One row by several panels: the only way to keep enough sums in flight to hide the latency of FMA
 * when there is a single row (matrix-vector product, the autoregressive step). */
PTC_INLINE void ptc_gemv_tile(const ptc_linear_args *a, int64_t m, int64_t panel_index,
                              const int panels, const int bf16) {
  const float *x = a->x + m * a->ld_x;
  const void *panel[PTC_GEMV_PANELS];
  f32x16 total[PTC_GEMV_PANELS][2];
  PTC_UNROLL
  for (int p = 0; p < panels; p++) {
    panel[p] = ptc_panel(a, panel_index + p, bf16);
    total[p][0] = total[p][1] = f32x16_zero();
  }
  for (int64_t k0 = 0; k0 < a->n_in; k0 += PTC_K_BLOCK) {
    int64_t k1 = k0 + PTC_K_BLOCK < a->n_in ? k0 + PTC_K_BLOCK : a->n_in;
    f32x16 sum[PTC_GEMV_PANELS][2];
    PTC_UNROLL
    for (int p = 0; p < panels; p++) sum[p][0] = sum[p][1] = f32x16_zero();
    for (int64_t k = k0; k < k1; k++) {
      f32x16 xk = f32x16_set1(x[k]);
      PTC_UNROLL
      for (int p = 0; p < panels; p++) {
        ptc_weights32 w = ptc_load_weights(panel[p], k, bf16);
        sum[p][0] = f32x16_fma(xk, w.low, sum[p][0]);
        sum[p][1] = f32x16_fma(xk, w.high, sum[p][1]);
      }
    }
    PTC_UNROLL
    for (int p = 0; p < panels; p++) {
      total[p][0] = f32x16_add(total[p][0], sum[p][0]);
      total[p][1] = f32x16_add(total[p][1], sum[p][1]);
    }
  }
  PTC_ALIGN(64) float tile[PTC_PANEL];
  PTC_UNROLL
  for (int p = 0; p < panels; p++) {
    f32x16_store(tile, total[p][0]);
    f32x16_store(tile + 16, total[p][1]);
    ptc_epilogue(a, tile, m, 1, (panel_index + p) * PTC_PANEL);
  }
}

#define PTC_TILE_CASE(ROWS)                                                      \
  case ROWS:                                                                     \
    ptc_gemm_tile(a, m, p, (ROWS) <= PTC_GEMM_ROWS ? (ROWS) : 1, vectors, bf16); \
    break;

/* `rows` <= PTC_GEMM_ROWS rows from m by panel p. */
PTC_INLINE void ptc_gemm_rows(const ptc_linear_args *a, int64_t m, int64_t p, int64_t rows,
                              const int vectors, const int bf16) {
  switch (rows) {
    PTC_TILE_CASE(1)
    PTC_TILE_CASE(2)
#if PTC_GEMM_ROWS > 2
    PTC_TILE_CASE(3)
#endif
#if PTC_GEMM_ROWS > 3
    PTC_TILE_CASE(4)
    PTC_TILE_CASE(5)
    PTC_TILE_CASE(6)
    PTC_TILE_CASE(7)
    PTC_TILE_CASE(8)
    PTC_TILE_CASE(9)
    PTC_TILE_CASE(10)
    PTC_TILE_CASE(11)
    PTC_TILE_CASE(12)
#endif
  }
}

/* Rows [row_begin, row_end) by panels [panel_begin, panel_end). Rows are cut into tiles of nearly
 * equal height: 16 rows run as 8 + 8, not 12 + 4. */
PTC_INLINE void ptc_linear(const ptc_linear_args *a, int64_t row_begin, int64_t row_end,
                           int64_t panel_begin, int64_t panel_end, const int bf16) {
  int64_t rows = row_end - row_begin;
  int64_t p = panel_begin;
  if (rows == 1) {
    for (; p + PTC_GEMV_PANELS <= panel_end; p += PTC_GEMV_PANELS)
      ptc_gemv_tile(a, row_begin, p, PTC_GEMV_PANELS, bf16);
  }
  int64_t tiles = (rows + PTC_GEMM_ROWS - 1) / PTC_GEMM_ROWS;
  for (; p < panel_end; p++) {
    int narrow = a->n_out - p * PTC_PANEL <= 16;
    for (int64_t t = 0; t < tiles; t++) {
      int64_t m = row_begin + t * rows / tiles;
      int64_t end = row_begin + (t + 1) * rows / tiles;
      if (narrow)
        ptc_gemm_rows(a, m, p, end - m, 1, bf16);
      else
        ptc_gemm_rows(a, m, p, end - m, 2, bf16);
    }
  }
}

/* out[m * ld_out] = bias + dot(x[m, :], w) for one output: a product against a single row of plain
 * (not packed) weights, summed in 16 partial sums. |error| <= (ceil(n/16) + 4) 2^-24 sum |x w|
 * + 2^-24 |out|. */
PTC_INLINE void ptc_dot_rows(float *out, int64_t ld_out, const float *x, int64_t ld_x,
                             const float *w, float bias, int64_t n_rows, int64_t n_in) {
  for (int64_t m = 0; m < n_rows; m++) {
    const float *row = x + m * ld_x;
    f32x16 sum = f32x16_zero();
    int64_t k = 0;
    for (; k + 16 <= n_in; k += 16) sum = f32x16_fma(f32x16_load(row + k), f32x16_load(w + k), sum);
    if (k < n_in)
      sum = f32x16_fma(f32x16_load_n(row + k, n_in - k), f32x16_load_n(w + k, n_in - k), sum);
    out[m * ld_out] = bias + f32x16_sum(sum);
  }
}

#endif /* PTC_LINEAR_H */
