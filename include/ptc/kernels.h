/* The door between Cython and the kernels: one table of functions per instruction set.
 *
 * Kernels are single-threaded, allocate nothing and touch no global state. Sizes are int64_t,
 * matrices are row-major, ld_ is the distance of two rows in floats. No alignment is required;
 * weights and arenas are aligned to 64 bytes because loads that cross cache lines are slower.
 */
#ifndef PTC_KERNELS_H
#define PTC_KERNELS_H

#include "ptc/config.h"

enum { PTC_PANEL = 32, PTC_MAX_HEAD_DIM = 256, PTC_Q_BLOCK = 64 };
enum { PTC_IDENTITY = 0, PTC_GELU_TANH = 1, PTC_SILU = 2, PTC_ELU = 3 };
/* Blocks below this are zero: their inverse scale could overflow. */
#define PTC_Q_SMALLEST 1e-30f
#define PTC_NO_CONTEXT ((int64_t)1 << 40)

/* See linear.h, quant.h and quant16.h. */
typedef struct {
  const float *x; /* [rows, n_in], distance ld_x (rows may overlap); unused when quantised */
  int64_t ld_x;
  const int16_t *x_q16;      /* quantised to 16 bits, laid out as x */
  const int8_t *x_q;         /* quantised rows [rows, padded]; padded = n_in rounded up to 64 */
  const float *x_scales;     /* [rows, padded / 64]; 16 bits: one per 64 floats of x */
  const int32_t *x_sums;     /* [rows, padded / 32] */
  const void *weights;       /* packed panels */
  const void *weight_scales; /* int8, int16: float [panels * 32]; 4 bits: bfloat16, see quant.h */
  int64_t n_in, n_out;
  float *out; /* [rows, n_out], distance ld_out */
  int64_t ld_out;
  const float *bias;  /* [n_out] or NULL */
  const float *scale; /* [rows, n_out], distance ld_scale (0: the same for all), or NULL */
  int64_t ld_scale;
  const float *residual; /* [rows, n_out], distance ld_residual, or NULL; may be out */
  int64_t ld_residual;
  int activation;       /* applied to the sum and bias */
  int final_activation; /* applied last, after the residual */
} ptc_linear_args;

/* Rows of keys and values, one head, from absolute position `position` on. */
typedef struct {
  const float *k; /* [n_rows, head_dim], distance ld */
  const float *v; /* [n_rows, head_dim], distance ld */
  int64_t ld;
  int64_t n_rows;
  int64_t position;
} ptc_kv_segment;

/* See attention.h. */
typedef struct {
  const float *q; /* [rows, head_dim], distance ld_q */
  int64_t ld_q;
  float *out; /* [rows, head_dim], distance ld_out */
  int64_t ld_out;
  ptc_kv_segment segments[2];
  int n_segments;
  int64_t head_dim;
  int64_t first_position; /* absolute position of query row 0 */
  int64_t context;        /* PTC_NO_CONTEXT: the whole past */
  float scale;
} ptc_attention_args;

typedef struct {
  const char *name;
  int prefers_i16; /* products of 16-bit integers are faster than float32's */
  void (*linear_f32)(const ptc_linear_args *a, int64_t row_begin, int64_t row_end,
                     int64_t panel_begin, int64_t panel_end);
  void (*linear_bf16)(const ptc_linear_args *a, int64_t row_begin, int64_t row_end,
                      int64_t panel_begin, int64_t panel_end);
  void (*linear_i8)(const ptc_linear_args *a, int64_t row_begin, int64_t row_end,
                    int64_t panel_begin, int64_t panel_end);
  void (*linear_i4)(const ptc_linear_args *a, int64_t row_begin, int64_t row_end,
                    int64_t panel_begin, int64_t panel_end);
  void (*linear_i16)(const ptc_linear_args *a, int64_t row_begin, int64_t row_end,
                     int64_t panel_begin, int64_t panel_end);
  void (*quantize_i16)(int16_t *q, float *scales, const float *x, int64_t n);
  void (*quantize_rows)(int8_t *q, float *scales, int32_t *sums, const float *x, int64_t ld_x,
                        int64_t n_rows, int64_t n_in);
  void (*dot_rows)(float *out, int64_t ld_out, const float *x, int64_t ld_x, const float *w,
                   float bias, int64_t n_rows, int64_t n_in);
  void (*layer_norm)(float *out, int64_t ld_out, const float *x, int64_t ld_x, const float *weight,
                     const float *bias, const float *scale, const float *shift, int64_t n_rows,
                     int64_t n, float eps);
  void (*activation)(float *out, const float *x, int64_t n, int activation);
  void (*rope)(float *out, const float *x, const float *cosines, const float *sines,
               int64_t n_heads, int64_t head_dim);
  void (*attention)(const ptc_attention_args *a, int64_t row_begin, int64_t row_end);
  void (*upsample_depthwise)(float *out, const float *x, const float *w, int64_t n_rows,
                             int64_t channels, int64_t stride);
  void (*pcm16)(int16_t *out, const float *x, int64_t n);
} ptc_kernels;

/* Tables that this build contains, best first; NULL past the end. */
const ptc_kernels *ptc_kernels_built(int index);
/* Whether the CPU and the operating system can run a table. */
int ptc_kernels_supported(const ptc_kernels *table);

/* Packs panel `panel` of W [n_out, n_in] (row-major, distance n_in) as linear.h describes. */
void ptc_pack_panel_f32(float *out, const float *w, int64_t n_out, int64_t n_in, int64_t panel);
void ptc_pack_panel_bf16(uint16_t *out, const uint16_t *w, int64_t n_out, int64_t n_in,
                         int64_t panel);
/* Quantises and packs panel `panel` of W [n_out, n_in] as quant.h describes. int8: out [padded *
 * 32], scales [32]. int16: out [n_in * 32], scales [32], n_in a multiple of 64. 4 bits: out [padded
 * * 16], scales bfloat16 [padded / 32 * 32], rows in pair order. */
void ptc_pack_panel_i8(int8_t *out, float *scales, const float *w, int64_t n_out, int64_t n_in,
                       int64_t panel);
void ptc_pack_panel_i16(int16_t *out, float *scales, const float *w, int64_t n_out, int64_t n_in,
                        int64_t panel);
void ptc_pack_panel_i4(uint8_t *out, uint16_t *scales, const float *w, int64_t n_out, int64_t n_in,
                       int64_t panel);
/* Checksum of n bytes in eight interleaved sums, as fast as memory is read. */
uint64_t ptc_checksum(const unsigned char *p, size_t n);
/* float32 to bfloat16, round to nearest even; NaN stays NaN. */
void ptc_round_bf16(uint16_t *out, const float *x, int64_t n);
/* bfloat16 to float32, exact. */
void ptc_widen_bf16(float *out, const uint16_t *x, int64_t n);

#endif /* PTC_KERNELS_H */
