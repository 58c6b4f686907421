/* The body of every kernels_<isa>.c: instantiates the headers for the unit's compiler flags. */
#include "ptc/kernels.h"

#include "ptc/activation.h"
#include "ptc/attention.h"
#include "ptc/conv.h"
#include "ptc/linear.h"
#include "ptc/norm.h"
#include "ptc/pcm.h"
#include "ptc/quant.h"
#include "ptc/quant16.h"
#include "ptc/rope.h"

static void linear_f32(const ptc_linear_args *a, int64_t row_begin, int64_t row_end,
                       int64_t panel_begin, int64_t panel_end) {
  ptc_linear(a, row_begin, row_end, panel_begin, panel_end, 0);
}

static void linear_bf16(const ptc_linear_args *a, int64_t row_begin, int64_t row_end,
                        int64_t panel_begin, int64_t panel_end) {
  ptc_linear(a, row_begin, row_end, panel_begin, panel_end, 1);
}

static void linear_i8(const ptc_linear_args *a, int64_t row_begin, int64_t row_end,
                      int64_t panel_begin, int64_t panel_end) {
  ptc_linear_quantized(a, row_begin, row_end, panel_begin, panel_end, 8);
}

static void linear_i4(const ptc_linear_args *a, int64_t row_begin, int64_t row_end,
                      int64_t panel_begin, int64_t panel_end) {
  ptc_linear_quantized(a, row_begin, row_end, panel_begin, panel_end, 4);
}

static void linear_i16(const ptc_linear_args *a, int64_t row_begin, int64_t row_end,
                       int64_t panel_begin, int64_t panel_end) {
  ptc_linear_i16(a, row_begin, row_end, panel_begin, panel_end);
}

static void quantize_i16(int16_t *q, float *scales, const float *x, int64_t n) {
  ptc_quantize_i16(q, scales, x, n);
}

static void quantize_rows(int8_t *q, float *scales, int32_t *sums, const float *x, int64_t ld_x,
                          int64_t n_rows, int64_t n_in) {
  int64_t blocks = (n_in + PTC_Q_BLOCK - 1) / PTC_Q_BLOCK;
  for (int64_t m = 0; m < n_rows; m++)
    ptc_quantize_row(q + m * blocks * PTC_Q_BLOCK, scales + m * blocks, sums + m * 2 * blocks,
                     x + m * ld_x, n_in);
}

static void dot_rows(float *out, int64_t ld_out, const float *x, int64_t ld_x, const float *w,
                     float bias, int64_t n_rows, int64_t n_in) {
  ptc_dot_rows(out, ld_out, x, ld_x, w, bias, n_rows, n_in);
}

static void layer_norm(float *out, int64_t ld_out, const float *x, int64_t ld_x,
                       const float *weight, const float *bias, const float *scale,
                       const float *shift, int64_t n_rows, int64_t n, float eps) {
  for (int64_t m = 0; m < n_rows; m++)
    ptc_layer_norm_row(out + m * ld_out, x + m * ld_x, weight, bias, scale, shift, n, eps);
}

static void activation(float *out, const float *x, int64_t n, int kind) {
  switch (kind) { /* constant after inlining, so that the loop has no branch */
    case PTC_GELU_TANH:
      ptc_activation(out, x, n, PTC_GELU_TANH);
      break;
    case PTC_SILU:
      ptc_activation(out, x, n, PTC_SILU);
      break;
    case PTC_ELU:
      ptc_activation(out, x, n, PTC_ELU);
      break;
    default:
      ptc_activation(out, x, n, PTC_IDENTITY);
  }
}

static void rope(float *out, const float *x, const float *cosines, const float *sines,
                 int64_t n_heads, int64_t head_dim) {
  ptc_rope(out, x, cosines, sines, n_heads, head_dim);
}

static void attention(const ptc_attention_args *a, int64_t row_begin, int64_t row_end) {
  ptc_attention(a, row_begin, row_end);
}

static void upsample_depthwise(float *out, const float *x, const float *w, int64_t n_rows,
                               int64_t channels, int64_t stride) {
  ptc_upsample_depthwise(out, x, w, n_rows, channels, stride);
}

static void pcm16(int16_t *out, const float *x, int64_t n) { ptc_pcm16(out, x, n); }

const ptc_kernels PTC_ISA_SYMBOL = {
    PTC_ISA_NAME, PTC_PREFERS_I16, linear_f32,         linear_bf16, linear_i8,  linear_i4,
    linear_i16,   quantize_i16,    quantize_rows,      dot_rows,    layer_norm, activation,
    rope,         attention,       upsample_depthwise, pcm16,
};
