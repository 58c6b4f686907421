/* Runs every kernel of every instruction set that this machine has, without Python.
 *
 * Inputs are seeded and the same on every machine. Each kernel's results are compared with a plain
 * double computation and hashed; one line per kernel goes to standard output:
 *
 *   <instruction set> <kernel> <hash of all results> <largest error relative to its bound>
 *
 * test_c_kernels.py runs it under sanitizers and, compiled for 64-bit ARM, in an emulator, and
 * compares hashes. Inputs are allocated to the byte and unaligned, so that the address sanitizer
 * sees every read past their ends; outputs lie between guards. Exit status 1: a bound is broken or
 * a guard was overwritten.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ptc/kernels.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

enum { GUARD_BYTES = 128, GUARD = 0xA5, MAX_BLOCKS = 64 };
static const double UNIT = 1.0 / (1 << 24);

static int failures;

/* ---- inputs ---------------------------------------------------------------------------------- */

static uint64_t seed;

/* splitmix64 (Steele, Lea and Flood 2014). */
static uint64_t next_random(void) {
  uint64_t z = seed += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

/* In [-1, 1), a multiple of 2^-23. */
static float uniform(void) {
  return (float)((double)(int64_t)(next_random() >> 40) / (1 << 23) - 1.0);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static struct {
  char *base;
  size_t n_bytes;
  int guarded;
} blocks[MAX_BLOCKS];
static int n_blocks;

static char *new_block(size_t n_bytes, int guarded) {
  size_t total = guarded ? n_bytes + 2 * GUARD_BYTES : n_bytes + 4;
  char *base = malloc(total);
  if (!base || n_blocks == MAX_BLOCKS) {
    fprintf(stderr, "no memory for a block of %zu bytes\n", n_bytes);
    exit(2);
  }
  memset(base, GUARD, total);
  blocks[n_blocks].base = base;
  blocks[n_blocks].n_bytes = n_bytes;
  blocks[n_blocks++].guarded = guarded;
  return base + (guarded ? GUARD_BYTES : 4);
}

static float *new_input(int64_t n) {
  float *x = (float *)new_block((size_t)n * sizeof(float), 0);
  for (int64_t i = 0; i < n; i++) x[i] = uniform();
  return x;
}

static float *new_output(int64_t n) { return (float *)new_block((size_t)n * sizeof(float), 1); }

/* Checks all guards and frees all blocks. */
static void end_case(const char *isa, const char *kernel) {
  for (int b = 0; b < n_blocks; b++) {
    for (int i = 0; blocks[b].guarded && i < GUARD_BYTES; i++) {
      const unsigned char *base = (const unsigned char *)blocks[b].base;
      if (base[i] != GUARD || base[GUARD_BYTES + blocks[b].n_bytes + i] != GUARD) {
        fprintf(stderr, "%s %s: wrote outside of its output\n", isa, kernel);
        failures++;
        break;
      }
    }
    free(blocks[b].base);
  }
  n_blocks = 0;
}

/* ---- results --------------------------------------------------------------------------------- */

static uint64_t hash;
static double worst;

static void begin_kernel(uint64_t new_seed) {
  seed = new_seed;
  hash = 0xCBF29CE484222325u;
  worst = 0.0;
}

/* FNV-1a (Fowler, Noll and Vo). */
static void add_to_hash(const void *data, int64_t n_bytes) {
  const unsigned char *p = data;
  for (int64_t i = 0; i < n_bytes; i++) hash = (hash ^ p[i]) * 0x100000001B3u;
}

static void compare(double found, double expected, double bound) {
  double ratio = found == expected ? 0.0 : fabs(found - expected) / bound;
  if (!(ratio <= worst)) worst = ratio; /* a NaN counts as the worst */
}

static void end_kernel(const char *isa, const char *kernel) {
  if (!(worst <= 1.0)) {
    fprintf(stderr, "%s %s: error %g times its bound\n", isa, kernel, worst);
    failures++;
  }
  printf("%s %s %016llx %.3f\n", isa, kernel, (unsigned long long)hash, worst);
}

/* ---- kernels --------------------------------------------------------------------------------- */

static double activated(double x, int activation) {
  const double sqrt_2_over_pi = 0.79788456080286536;
  switch (activation) {
    case PTC_GELU_TANH:
      return 0.5 * x * (1.0 + tanh(sqrt_2_over_pi * (x + 0.044715 * x * x * x)));
    case PTC_SILU:
      return x / (1.0 + exp(-x));
    case PTC_ELU:
      return x > 0.0 ? x : expm1(x);
    default:
      return x;
  }
}

/* One product; `variant` chooses the epilogue and whether rows overlap. */
static void check_product(const ptc_kernels *table, int bf16, int64_t rows, int64_t n_in,
                          int64_t n_out, int variant) {
  int64_t panels = (n_out + PTC_PANEL - 1) / PTC_PANEL;
  int64_t ld_x = variant % 3 == 2 ? (n_in + 1) / 2 : n_in;
  float *x = new_input((rows - 1) * ld_x + n_in);
  float *w = new_input(n_out * n_in);
  float *bias = new_input(n_out), *scale = new_input(n_out);
  int64_t packed_size = panels * PTC_PANEL * n_in;
  float *out = new_output(rows * n_out), *residual = new_input(rows * n_out);
  void *packed = new_block((size_t)packed_size * (bf16 ? 2 : 4), 1);
  if (bf16) {
    uint16_t *bits = (uint16_t *)new_block((size_t)(n_out * n_in) * 2, 1);
    ptc_round_bf16(bits, w, n_out * n_in);
    ptc_widen_bf16(w, bits, n_out * n_in);
    for (int64_t p = 0; p < panels; p++)
      ptc_pack_panel_bf16((uint16_t *)packed + p * PTC_PANEL * n_in, bits, n_out, n_in, p);
  } else {
    for (int64_t p = 0; p < panels; p++)
      ptc_pack_panel_f32((float *)packed + p * PTC_PANEL * n_in, w, n_out, n_in, p);
  }
  ptc_linear_args a = {.x = x, .ld_x = ld_x, .weights = packed, .n_in = n_in, .n_out = n_out};
  a.out = out;
  a.ld_out = n_out;
  a.bias = variant & 1 ? bias : NULL;
  a.scale = variant & 2 ? scale : NULL;
  a.residual = variant & 4 ? residual : NULL;
  a.ld_residual = n_out;
  a.activation = variant % 4;
  a.final_activation = variant % 5 == 0 ? PTC_ELU : PTC_IDENTITY;
  (bf16 ? table->linear_bf16 : table->linear_f32)(&a, 0, rows, 0, panels);
  for (int64_t m = 0; m < rows; m++) {
    for (int64_t n = 0; n < n_out; n++) {
      double sum = 0.0, size = 0.0;
      for (int64_t k = 0; k < n_in; k++) {
        double term = (double)x[m * ld_x + k] * w[n * n_in + k];
        sum += term;
        size += fabs(term);
      }
      double bound = (512.0 + n_in / 512.0) * UNIT * size;
      if (a.bias) sum += bias[n];
      double gain = a.scale ? scale[n] : 1.0;
      double rest = a.residual ? residual[m * n_out + n] : 0.0;
      double expected = activated(rest + gain * activated(sum, a.activation), a.final_activation);
      /* No activation is steeper than 1.13; each is a few roundings off. */
      bound = 1.3 * fabs(gain) * bound +
              16.0 * UNIT * (fabs(gain) * (fabs(sum) + 1.0) + fabs(rest) + 1.0);
      compare(out[m * n_out + n], expected, bound);
    }
  }
  add_to_hash(out, rows * n_out * 4);
}

static void check_linear(const ptc_kernels *table, int bf16) {
  static const int64_t all_rows[] = {1, 2, 3, 5, 12, 13, 25}, all_in[] = {1, 3, 17, 96, 513, 1100};
  static const int64_t all_out[] = {1, 12, 17, 31, 33, 130};
  const char *kernel = bf16 ? "linear_bf16" : "linear_f32";
  int variant = 0;
  begin_kernel(1);
  for (int r = 0; r < COUNT(all_rows); r++)
    for (int i = 0; i < COUNT(all_in); i++)
      for (int o = 0; o < COUNT(all_out); o++) {
        check_product(table, bf16, all_rows[r], all_in[i], all_out[o], variant++);
        end_case(table->name, kernel);
      }
  end_kernel(table->name, kernel);
}

/* Rows quantised in blocks of PTC_Q_BLOCK. */
typedef struct {
  int8_t *q;      /* [rows, padded] */
  float *scales;  /* [rows, padded / 64] */
  int32_t *sums;  /* [rows, padded / 32] */
  int64_t blocks; /* per row */
} quantized_rows;

static quantized_rows quantize(const ptc_kernels *table, const float *x, int64_t ld_x, int64_t rows,
                               int64_t n_in) {
  quantized_rows r;
  r.blocks = (n_in + PTC_Q_BLOCK - 1) / PTC_Q_BLOCK;
  r.q = (int8_t *)new_block((size_t)(rows * r.blocks * PTC_Q_BLOCK), 1);
  r.scales = new_output(rows * r.blocks);
  r.sums = (int32_t *)new_block((size_t)(rows * r.blocks * 2) * sizeof(int32_t), 1);
  table->quantize_rows(r.q, r.scales, r.sums, x, ld_x, rows, n_in);
  return r;
}

static void check_quantize_rows(const ptc_kernels *table) {
  static const int64_t all_in[] = {1, 12, 63, 64, 65, 100, 128, 513};
  begin_kernel(9);
  for (int i = 0; i < 3 * COUNT(all_in); i++) {
    int64_t n_in = all_in[i / 3], rows = 1 + i % 3, ld_x = n_in + i % 2;
    float *x = new_input((rows - 1) * ld_x + n_in);
    for (int64_t k = 0; i % 3 == 2 && k < n_in; k++) x[k] = 0.0f;
    quantized_rows r = quantize(table, x, ld_x, rows, n_in);
    for (int64_t m = 0; m < rows; m++) {
      for (int64_t b = 0; b < r.blocks; b++) {
        double largest = 0.0, sum[2] = {0.0, 0.0};
        double scale = r.scales[m * r.blocks + b];
        for (int64_t k = 0; k < PTC_Q_BLOCK; k++) {
          int64_t at = b * PTC_Q_BLOCK + k;
          double value = at < n_in ? x[m * ld_x + at] : 0.0;
          double q = r.q[m * r.blocks * PTC_Q_BLOCK + at];
          largest = fmax(largest, fabs(value));
          sum[k / (PTC_Q_BLOCK / 2)] += q;
          compare(q * scale, value, scale * 0.50001 + 1e-30);
        }
        compare(scale, largest / 127.0, UNIT * largest / 127.0);
        compare(r.sums[(m * r.blocks + b) * 2], sum[0], 1e-9);
        compare(r.sums[(m * r.blocks + b) * 2 + 1], sum[1], 1e-9);
      }
    }
    add_to_hash(r.q, rows * r.blocks * PTC_Q_BLOCK);
    add_to_hash(r.scales, rows * r.blocks * 4);
    end_case(table->name, "quantize_rows");
  }
  end_kernel(table->name, "quantize_rows");
}

/* Where output j stands in the bfloat16 scales of a 4-bit panel: j and j + 16 are neighbours. */
static int64_t pair_slot(int64_t j) { return j < 16 ? 2 * j : 2 * (j - 16) + 1; }

/* Weight [n, k] as packed: its integer and its scale. */
static double packed_weight(const void *packed, const void *scales, int bits, int64_t n_in,
                            int64_t n, int64_t k, double *scale) {
  int64_t padded = (n_in + PTC_Q_BLOCK - 1) / PTC_Q_BLOCK * PTC_Q_BLOCK;
  int64_t panel = n / PTC_PANEL, j = n % PTC_PANEL;
  if (bits == 8) {
    *scale = ((const float *)scales)[n];
    return (
        (const int8_t *)packed)[panel * padded * PTC_PANEL + (k / 4 * PTC_PANEL + j) * 4 + k % 4];
  }
  uint8_t byte = ((
      const uint8_t *)packed)[panel * padded * PTC_PANEL / 2 + (k / 8 * PTC_PANEL + j) * 4 + k % 4];
  float wide;
  ptc_widen_bf16(
      &wide, (const uint16_t *)scales + (panel * (padded / 32) + k / 32) * PTC_PANEL + pair_slot(j),
      1);
  *scale = wide;
  return (k % 8 < 4 ? byte & 15 : byte >> 4) - 8;
}

static void check_quantized_product(const ptc_kernels *table, int bits, int64_t rows, int64_t n_in,
                                    int64_t n_out) {
  int64_t panels = (n_out + PTC_PANEL - 1) / PTC_PANEL;
  int64_t padded = (n_in + PTC_Q_BLOCK - 1) / PTC_Q_BLOCK * PTC_Q_BLOCK;
  float *x = new_input(rows * n_in), *w = new_input(n_out * n_in);
  float *out = new_output(rows * n_out), *bias = new_input(n_out);
  char *packed = new_block((size_t)(panels * padded * PTC_PANEL * bits / 8), 1);
  int64_t panel_scales = bits == 8 ? PTC_PANEL * 4 : padded / 32 * PTC_PANEL * 2; /* in bytes */
  char *scales = new_block((size_t)(panels * panel_scales), 1);
  if (n_in % 2) { /* largest integers of either sign, where a saturating sum would show */
    for (int64_t i = 0; i < rows * n_in; i++) x[i] = i / n_in % 2 ? -1.0f : 1.0f;
    for (int64_t i = 0; i < n_out * n_in; i++) w[i] = i / n_in % 2 ? -1.0f : 1.0f;
  }
  for (int64_t p = 0; p < panels; p++) {
    if (bits == 8)
      ptc_pack_panel_i8((int8_t *)packed + p * padded * PTC_PANEL,
                        (float *)(scales + p * panel_scales), w, n_out, n_in, p);
    else
      ptc_pack_panel_i4((uint8_t *)packed + p * padded * PTC_PANEL / 2,
                        (uint16_t *)(scales + p * panel_scales), w, n_out, n_in, p);
  }
  quantized_rows r = quantize(table, x, n_in, rows, n_in);
  ptc_linear_args a = {.x_q = r.q, .x_scales = r.scales, .x_sums = r.sums, .n_in = n_in};
  a.weights = packed;
  a.weight_scales = scales;
  a.n_out = n_out;
  a.out = out;
  a.ld_out = n_out;
  a.bias = bias;
  (bits == 8 ? table->linear_i8 : table->linear_i4)(&a, 0, rows, 0, panels);
  for (int64_t n = 0; n < n_out; n++) {
    for (int64_t m = 0; m < rows; m++) {
      double sum = 0.0, size = 0.0;
      for (int64_t k = 0; k < n_in; k++) {
        double scale, q = packed_weight(packed, scales, bits, n_in, n, k, &scale);
        double term = r.q[m * padded + k] * (double)r.scales[m * r.blocks + k / PTC_Q_BLOCK];
        sum += term * q * scale;
        size += fabs(term * q * scale);
        /* Half a step; 4 bits have no code 8, so that the end of the range is a step off. */
        if (m == 0)
          compare(q * scale, w[n * n_in + k], fabs(scale) * (bits == 8 ? 0.50001 : 1.05) + 1e-30);
      }
      compare(out[m * n_out + n], sum + bias[n],
              UNIT * ((2.0 * (double)r.blocks + 3.0) * size + 2.0 * fabs(sum + bias[n])));
    }
  }
  add_to_hash(out, rows * n_out * 4);
}

static void check_linear_quantized(const ptc_kernels *table, int bits) {
  static const int64_t all_rows[] = {1, 2, 4, 5, 9}, all_in[] = {1, 12, 63, 64, 96, 200, 513};
  static const int64_t all_out[] = {1, 17, 32, 33, 130};
  const char *kernel = bits == 8 ? "linear_i8" : "linear_i4";
  begin_kernel(10);
  for (int r = 0; r < COUNT(all_rows); r++)
    for (int i = 0; i < COUNT(all_in); i++)
      for (int o = 0; o < COUNT(all_out); o++) {
        check_quantized_product(table, bits, all_rows[r], all_in[i], all_out[o]);
        end_case(table->name, kernel);
      }
  end_kernel(table->name, kernel);
}

/* A product in 16 bits over rows that overlap when ld_x < n_in; both are multiples of 64. */
static void check_product_i16(const ptc_kernels *table, int64_t rows, int64_t n_in, int64_t ld_x,
                              int64_t n_out, int extreme) {
  int64_t panels = (n_out + PTC_PANEL - 1) / PTC_PANEL, n = (rows - 1) * ld_x + n_in;
  float *x = new_input(n), *w = new_input(n_out * n_in), *bias = new_input(n_out);
  float *out = new_output(rows * n_out), *x_scales = new_output(n / PTC_Q_BLOCK);
  float *scales = new_output(panels * PTC_PANEL);
  int16_t *q = (int16_t *)new_block((size_t)n * 2, 1);
  int16_t *packed = (int16_t *)new_block((size_t)(panels * PTC_PANEL * n_in) * 2, 1);
  for (int64_t i = 0; extreme && i < n; i++) x[i] = 1.0f; /* the largest sum of a block */
  for (int64_t i = 0; extreme && i < n_out * n_in; i++) w[i] = i / n_in % 2 ? -1.0f : 1.0f;
  for (int64_t p = 0; p < panels; p++)
    ptc_pack_panel_i16(packed + p * PTC_PANEL * n_in, scales + p * PTC_PANEL, w, n_out, n_in, p);
  table->quantize_i16(q, x_scales, x, n);
  for (int64_t i = 0; i < n; i++) {
    double scale = x_scales[i / PTC_Q_BLOCK];
    compare(q[i] * scale, x[i], scale * 0.501);
  }
  ptc_linear_args a = {.x_q16 = q, .x_scales = x_scales, .ld_x = ld_x, .weights = packed};
  a.weight_scales = scales;
  a.n_in = n_in;
  a.n_out = n_out;
  a.out = out;
  a.ld_out = n_out;
  a.bias = bias;
  table->linear_i16(&a, 0, rows, 0, panels);
  for (int64_t o = 0; o < n_out; o++) {
    const int16_t *panel = packed + o / PTC_PANEL * PTC_PANEL * n_in;
    for (int64_t m = 0; m < rows; m++) {
      double sum = 0.0, size = 0.0;
      for (int64_t k = 0; k < n_in; k++) {
        double weight = panel[(k / 2 * PTC_PANEL + o % PTC_PANEL) * 2 + k % 2] * (double)scales[o];
        double value = q[m * ld_x + k] * (double)x_scales[(m * ld_x + k) / PTC_Q_BLOCK];
        sum += weight * value;
        size += fabs(weight * value);
        if (m == 0) compare(weight, w[o * n_in + k], scales[o] * 0.501);
      }
      compare(
          out[m * n_out + o], sum + bias[o],
          UNIT * ((2.0 * (double)(n_in / PTC_Q_BLOCK) + 3.0) * size + 2.0 * fabs(sum + bias[o])));
    }
  }
  add_to_hash(q, n * 2);
  add_to_hash(out, rows * n_out * 4);
}

static void check_linear_i16(const ptc_kernels *table) {
  static const int64_t all_rows[] = {1, 2, 3, 6, 7, 13}, all_in[] = {64, 192, 576};
  static const int64_t all_out[] = {1, 16, 17, 33, 130};
  begin_kernel(11);
  for (int r = 0; r < COUNT(all_rows); r++)
    for (int i = 0; i < COUNT(all_in); i++)
      for (int o = 0; o < COUNT(all_out); o++) {
        check_product_i16(table, all_rows[r], all_in[i], r % 2 ? 64 : all_in[i], all_out[o],
                          o == 3);
        end_case(table->name, "linear_i16");
      }
  end_kernel(table->name, "linear_i16");
}

static const int64_t widths[] = {1, 3, 12, 16, 17, 24, 31, 33, 96, 112, 513, 1100};

static void check_dot_rows(const ptc_kernels *table) {
  begin_kernel(2);
  for (int i = 0; i < COUNT(widths); i++) {
    int64_t n = widths[i], rows = 1 + i % 5, ld = (n + 1) / 2;
    float *x = new_input((rows - 1) * ld + n), *w = new_input(n), *out = new_output(rows);
    float bias = uniform();
    table->dot_rows(out, 1, x, ld, w, bias, rows, n);
    for (int64_t m = 0; m < rows; m++) {
      double sum = 0.0, size = 0.0;
      for (int64_t k = 0; k < n; k++) {
        sum += (double)x[m * ld + k] * w[k];
        size += fabs((double)x[m * ld + k] * w[k]);
      }
      compare(out[m], sum + bias, UNIT * ((n / 16 + 6.0) * size + 1.01 * fabs(sum + bias)));
    }
    add_to_hash(out, rows * 4);
    end_case(table->name, "dot_rows");
  }
  end_kernel(table->name, "dot_rows");
}

static void check_layer_norm(const ptc_kernels *table) {
  begin_kernel(3);
  for (int i = 0; i < 4 * COUNT(widths); i++) {
    int64_t n = widths[i / 4], rows = 1 + i % 3;
    int affine = i & 1, modulated = i & 2;
    const float eps = 1e-5f;
    float *x = new_input(rows * n), *out = new_output(rows * n);
    float *weight = new_input(n), *bias = new_input(n), *scale = new_input(n);
    float *shift = new_input(n);
    table->layer_norm(out, n, x, n, affine ? weight : NULL, affine ? bias : NULL,
                      modulated ? scale : NULL, modulated ? shift : NULL, rows, n, eps);
    for (int64_t m = 0; m < rows; m++) {
      double mean = 0.0, variance = 0.0, largest = 0.0;
      for (int64_t k = 0; k < n; k++) mean += (double)x[m * n + k] / n;
      for (int64_t k = 0; k < n; k++) {
        double d = x[m * n + k] - mean;
        variance += d * d / n;
        largest = fmax(largest, fabs((double)x[m * n + k]));
      }
      double deviation = sqrt(variance + (double)eps);
      /* Rounding of y, whose size is at most 2 largest / deviation, and of the mean. */
      double bound = UNIT * (3.0 * (n / 16 + 12.0)) * largest / deviation;
      for (int64_t k = 0; k < n; k++) {
        double y = (x[m * n + k] - mean) / deviation, slope = 1.0, gain = 1.0, size = fabs(y);
        if (affine) {
          slope = fabs((double)weight[k]);
          size = fabs(y * weight[k]) + fabs((double)bias[k]);
          y = y * weight[k] + bias[k];
        }
        if (modulated) {
          gain = 1.0 + scale[k];
          y = y * gain + shift[k];
          size = 2.0 * size + fabs((double)shift[k]);
        }
        compare(out[m * n + k], y, bound * slope * fabs(gain) + 4.0 * UNIT * size);
      }
    }
    add_to_hash(out, rows * n * 4);
    end_case(table->name, "layer_norm");
  }
  end_kernel(table->name, "layer_norm");
}

static void check_activation(const ptc_kernels *table) {
  begin_kernel(4);
  for (int kind = PTC_IDENTITY; kind <= PTC_ELU; kind++) {
    for (int i = 0; i < 6 * COUNT(widths); i++) {
      static const float sizes[] = {1e-6f, 1e-2f, 1.0f, 8.0f, 80.0f, 1e4f};
      int64_t n = widths[i / 6];
      float *x = new_input(n), *out = new_output(n);
      for (int64_t k = 0; k < n; k++) x[k] *= sizes[i % 6];
      table->activation(out, x, n, kind);
      for (int64_t k = 0; k < n; k++) {
        double expected = activated(x[k], kind);
        double bound = kind == PTC_GELU_TANH ? 3e-7 * fmax(1.0, fabs((double)x[k]))
                                             : 8.0 * UNIT * fabs(expected) + 1e-34;
        compare(out[k], expected, bound);
      }
      add_to_hash(out, n * 4);
      end_case(table->name, "activation");
    }
  }
  end_kernel(table->name, "activation");
}

static const int64_t head_dims[] = {2, 6, 12, 16, 24, 30, 64, 96, 112, 256};

static void check_rope(const ptc_kernels *table) {
  begin_kernel(5);
  for (int i = 0; i < COUNT(head_dims); i++) {
    int64_t dim = head_dims[i], heads = 1 + i % 4;
    float *x = new_input(heads * dim), *out = new_output(heads * dim);
    float *cosines = new_input(dim), *sines = new_input(dim);
    table->rope(out, x, cosines, sines, heads, dim);
    for (int64_t k = 0; k < heads * dim; k++) {
      double first = (double)x[k] * cosines[k % dim], second = (double)x[k ^ 1] * sines[k % dim];
      /* Two ULP of the larger term: an ULP is at most twice the unit of the value. */
      compare(out[k], first + second, 4.0 * UNIT * fmax(fabs(first), fabs(second)));
    }
    add_to_hash(out, heads * dim * 4);
    end_case(table->name, "rope");
  }
  end_kernel(table->name, "rope");
}

/* Attention of one query in double. */
static void attend(double *out, const float *q, const ptc_attention_args *a, int64_t position) {
  double total = 0.0, largest = -INFINITY;
  for (int pass = 0; pass < 2; pass++) {
    for (int64_t d = 0; pass && d < a->head_dim; d++) out[d] = 0.0;
    for (int s = 0; s < a->n_segments; s++) {
      const ptc_kv_segment *kv = &a->segments[s];
      for (int64_t k = 0; k < kv->n_rows; k++) {
        int64_t distance = position - kv->position - k;
        if (distance < 0 || distance >= a->context) continue;
        double score = 0.0;
        for (int64_t d = 0; d < a->head_dim; d++) score += (double)q[d] * kv->k[k * kv->ld + d];
        score *= a->scale;
        if (!pass) {
          largest = fmax(largest, score);
          continue;
        }
        double weight = exp(score - largest);
        total += weight;
        for (int64_t d = 0; d < a->head_dim; d++) out[d] += weight * kv->v[k * kv->ld + d];
      }
    }
  }
  for (int64_t d = 0; d < a->head_dim; d++) out[d] /= total;
}

static void check_attention(const ptc_kernels *table) {
  static const int64_t all_rows[] = {1, 2, 15, 16, 17, 33}, keys_before[] = {0, 7, 130};
  static const int64_t contexts[] = {PTC_NO_CONTEXT, 1, 20};
  begin_kernel(6);
  for (int i = 0; i < COUNT(head_dims) * COUNT(all_rows) * 9; i++) {
    int64_t dim = head_dims[i % COUNT(head_dims)], rest = i / COUNT(head_dims);
    int64_t rows = all_rows[rest % COUNT(all_rows)], choice = rest / COUNT(all_rows);
    int64_t before = keys_before[choice % 3], keys = before + rows, cut = keys / 3;
    float *q = new_input(rows * dim), *out = new_output(rows * dim);
    float *k[2] = {new_input(cut * dim), new_input((keys - cut) * dim)};
    float *v[2] = {new_input(cut * dim), new_input((keys - cut) * dim)};
    ptc_attention_args a = {.q = q, .ld_q = dim, .out = out, .ld_out = dim, .head_dim = dim};
    a.n_segments = 0;
    if (cut) {
      ptc_kv_segment first = {k[0], v[0], dim, cut, 0};
      a.segments[a.n_segments++] = first;
    }
    ptc_kv_segment last = {k[1], v[1], dim, keys - cut, cut};
    a.segments[a.n_segments++] = last;
    a.first_position = before;
    a.context = contexts[choice / 3];
    a.scale = 0.5f;
    table->attention(&a, 0, rows);
    /* Scores are at most dim / 2, values at most 1. */
    double bound = UNIT * (2.0 * (dim + 3.0) * (dim / 2.0) + 2.0 * keys + 16.0);
    for (int64_t r = 0; r < rows; r++) {
      double expected[PTC_MAX_HEAD_DIM];
      attend(expected, q + r * dim, &a, before + r);
      for (int64_t d = 0; d < dim; d++) compare(out[r * dim + d], expected[d], bound);
    }
    add_to_hash(out, rows * dim * 4);
    end_case(table->name, "attention");
  }
  end_kernel(table->name, "attention");
}

static void check_upsample(const ptc_kernels *table) {
  begin_kernel(7);
  for (int i = 0; i < 2 * COUNT(widths); i++) {
    int64_t channels = widths[i / 2], rows = 1 + i % 3, stride = i % 2 ? 16 : 1;
    float *x = new_input((1 + rows) * channels), *w = new_input(2 * stride * channels);
    float *out = new_output(rows * stride * channels);
    table->upsample_depthwise(out, x + channels, w, rows, channels, stride);
    for (int64_t t = 0; t < rows; t++)
      for (int64_t j = 0; j < stride; j++)
        for (int64_t c = 0; c < channels; c++) {
          double now = (double)x[(1 + t) * channels + c] * w[j * channels + c];
          double past = (double)x[t * channels + c] * w[(stride + j) * channels + c];
          compare(out[(t * stride + j) * channels + c], now + past,
                  2.0 * UNIT * (fabs(now) + fabs(past)));
        }
    add_to_hash(out, rows * stride * channels * 4);
    end_case(table->name, "upsample_depthwise");
  }
  end_kernel(table->name, "upsample_depthwise");
}

static void check_pcm16(const ptc_kernels *table) {
  static const float special[] = {1.0f,     -1.0f,     2.0f, -2.0f, 3e38f, -3e38f,
                                  INFINITY, -INFINITY, NAN,  0.0f,  1e-40f};
  begin_kernel(8);
  for (int i = 0; i < COUNT(widths); i++) {
    int64_t n = widths[i];
    float *x = new_input(n);
    int16_t *out = (int16_t *)new_block((size_t)n * 2, 1);
    for (int64_t k = 0; k < n; k += 3) x[k] = special[k / 3 % COUNT(special)];
    table->pcm16(out, x, n);
    for (int64_t k = 0; k < n; k++) {
      float clamped = isnan(x[k]) ? 0.0f : fminf(fmaxf(x[k], -1.0f), 1.0f);
      compare(out[k], (int16_t)(clamped * 32767.0f), 1e-9);
    }
    add_to_hash(out, n * 2);
    end_case(table->name, "pcm16");
  }
  end_kernel(table->name, "pcm16");
}

int main(void) {
  const ptc_kernels *table;
  for (int i = 0; (table = ptc_kernels_built(i)) != NULL; i++) {
    if (!ptc_kernels_supported(table)) continue;
    check_linear(table, 0);
    check_linear(table, 1);
    check_quantize_rows(table);
    check_linear_quantized(table, 8);
    check_linear_quantized(table, 4);
    check_linear_i16(table);
    check_dot_rows(table);
    check_layer_norm(table);
    check_activation(table);
    check_rope(table);
    check_attention(table);
    check_upsample(table);
    check_pcm16(table);
  }
  return failures ? 1 : 0;
}
