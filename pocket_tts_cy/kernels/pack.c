/* Packing of weights and bfloat16 conversion: plain C, run once at load. */
#include <math.h>
#include <string.h>

#include "ptc/kernels.h"

/* Where output j of a panel stands in a bfloat16 row: j and j + 16 are neighbours. */
static int64_t bf16_slot(int64_t j) {
  return j < PTC_PANEL / 2 ? 2 * j : 2 * (j - PTC_PANEL / 2) + 1;
}

void ptc_pack_panel_f32(float *out, const float *w, int64_t n_out, int64_t n_in, int64_t panel) {
  for (int64_t j = 0; j < PTC_PANEL; j++) {
    int64_t row = panel * PTC_PANEL + j;
    if (row < n_out)
      for (int64_t k = 0; k < n_in; k++) out[k * PTC_PANEL + j] = w[row * n_in + k];
    else
      for (int64_t k = 0; k < n_in; k++) out[k * PTC_PANEL + j] = 0.0f;
  }
}

void ptc_pack_panel_bf16(uint16_t *out, const uint16_t *w, int64_t n_out, int64_t n_in,
                         int64_t panel) {
  for (int64_t j = 0; j < PTC_PANEL; j++) {
    int64_t row = panel * PTC_PANEL + j, slot = bf16_slot(j);
    if (row < n_out)
      for (int64_t k = 0; k < n_in; k++) out[k * PTC_PANEL + slot] = w[row * n_in + k];
    else
      for (int64_t k = 0; k < n_in; k++) out[k * PTC_PANEL + slot] = 0;
  }
}

void ptc_round_bf16(uint16_t *out, const float *x, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    uint32_t bits;
    memcpy(&bits, x + i, 4);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u)
      out[i] = (uint16_t)((bits >> 16) | 0x40u); /* keep a NaN a NaN */
    else
      out[i] = (uint16_t)((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
  }
}

void ptc_widen_bf16(float *out, const uint16_t *x, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    uint32_t bits = (uint32_t)x[i] << 16;
    memcpy(out + i, &bits, 4);
  }
}

void ptc_pack_panel_i8(int8_t *out, float *scales, const float *w, int64_t n_out, int64_t n_in,
                       int64_t panel) {
  int64_t padded = (n_in + PTC_Q_BLOCK - 1) / PTC_Q_BLOCK * PTC_Q_BLOCK;
  memset(out, 0, (size_t)(padded * PTC_PANEL));
  for (int64_t j = 0; j < PTC_PANEL; j++) {
    int64_t row = panel * PTC_PANEL + j;
    float largest = 0.0f;
    scales[j] = 0.0f;
    if (row >= n_out) continue;
    for (int64_t k = 0; k < n_in; k++) largest = fmaxf(largest, fabsf(w[row * n_in + k]));
    scales[j] = largest / 127.0f;
    float inverse = largest > PTC_Q_SMALLEST ? 127.0f / largest : 0.0f;
    for (int64_t k = 0; k < n_in; k++)
      out[(k / 4 * PTC_PANEL + j) * 4 + k % 4] = (int8_t)lrintf(w[row * n_in + k] * inverse);
  }
}

void ptc_pack_panel_i16(int16_t *out, float *scales, const float *w, int64_t n_out, int64_t n_in,
                        int64_t panel) {
  const float limit = 5790.0f; /* quant16.h */
  memset(out, 0, (size_t)(n_in * PTC_PANEL) * sizeof *out);
  for (int64_t j = 0; j < PTC_PANEL; j++) {
    int64_t row = panel * PTC_PANEL + j;
    float largest = 0.0f;
    scales[j] = 0.0f;
    if (row >= n_out) continue;
    for (int64_t k = 0; k < n_in; k++) largest = fmaxf(largest, fabsf(w[row * n_in + k]));
    scales[j] = largest / limit;
    float inverse = largest > PTC_Q_SMALLEST ? limit / largest : 0.0f;
    for (int64_t k = 0; k < n_in; k++)
      out[(k / 2 * PTC_PANEL + j) * 2 + k % 2] = (int16_t)lrintf(w[row * n_in + k] * inverse);
  }
}

/* Squared error of a block when quantised with `scale`; q [32] receives the codes 0..15. */
static float quantize_block_i4(uint8_t *q, const float *w, int64_t n, float scale) {
  float inverse = scale != 0.0f ? 1.0f / scale : 0.0f, error = 0.0f;
  for (int64_t k = 0; k < n; k++) {
    float code = rintf(w[k] * inverse);
    code = fminf(fmaxf(code, -8.0f), 7.0f);
    float difference = w[k] - code * scale;
    error += difference * difference;
    q[k] = (uint8_t)((int)code + 8);
  }
  return error;
}

static float round_to_bf16(float x, uint16_t *bits) {
  float wide;
  ptc_round_bf16(bits, &x, 1);
  ptc_widen_bf16(&wide, bits, 1);
  return wide;
}

void ptc_pack_panel_i4(uint8_t *out, uint16_t *scales, const float *w, int64_t n_out, int64_t n_in,
                       int64_t panel) {
  const int64_t half = PTC_Q_BLOCK / 2;
  int64_t padded = (n_in + PTC_Q_BLOCK - 1) / PTC_Q_BLOCK * PTC_Q_BLOCK;
  /* Code 8 is zero. */
  memset(out, 0x88, (size_t)(padded * PTC_PANEL / 2));
  memset(scales, 0, (size_t)(padded / half * PTC_PANEL) * sizeof *scales);
  for (int64_t j = 0; j < PTC_PANEL; j++) {
    int64_t row = panel * PTC_PANEL + j;
    if (row >= n_out) continue;
    for (int64_t k0 = 0; k0 < n_in; k0 += half) {
      int64_t n = n_in - k0 < half ? n_in - k0 : half;
      const float *block = w + row * n_in + k0;
      /* The code range is not symmetric: the value of largest magnitude gets -8. Of a few scales
       * around that the one with the smallest squared error is kept. */
      float extreme = 0.0f, best_error = INFINITY;
      uint16_t best_scale = 0;
      for (int64_t k = 0; k < n; k++)
        if (fabsf(block[k]) > fabsf(extreme)) extreme = block[k];
      uint8_t q[PTC_Q_BLOCK / 2], best[PTC_Q_BLOCK / 2];
      memset(best, 8, sizeof best);
      for (int step = 0; step < 8 && fabsf(extreme) > PTC_Q_SMALLEST; step++) {
        uint16_t bits;
        float scale = round_to_bf16(extreme / (-8.0f + 0.25f * (float)step), &bits);
        float error = quantize_block_i4(q, block, n, scale);
        if (error < best_error) {
          best_error = error;
          best_scale = bits;
          memcpy(best, q, sizeof best);
        }
      }
      scales[k0 / half * PTC_PANEL + bf16_slot(j)] = best_scale;
      for (int64_t k = 0; k < n; k++) {
        uint8_t *byte = out + ((k0 + k) / 8 * PTC_PANEL + j) * 4 + (k0 + k) % 4;
        if ((k0 + k) % 8 < 4)
          *byte = (uint8_t)((*byte & 0xF0) | best[k]);
        else
          *byte = (uint8_t)((*byte & 0x0F) | (best[k] << 4));
      }
    }
  }
}

uint64_t ptc_checksum(const unsigned char *p, size_t n) {
  /* Each lane's step is a bijection of its state and of the word, so one changed word cannot be
   * lost; eight lanes hide the latency of the multiplication. */
  uint64_t lane[8], result = n;
  size_t i = 0;
  for (int j = 0; j < 8; j++) lane[j] = 0x9E3779B97F4A7C15u * (uint64_t)(j + 1);
  for (; i + 64 <= n; i += 64) {
    for (int j = 0; j < 8; j++) {
      uint64_t word;
      memcpy(&word, p + i + 8 * j, 8);
      lane[j] = ((lane[j] ^ word) * 0xD6E8FEB86659FD93u) + 1;
    }
  }
  for (; i < n; i++) lane[i % 8] = (lane[i % 8] ^ p[i]) * 0xD6E8FEB86659FD93u + 1;
  for (int j = 0; j < 8; j++) {
    result = (result ^ lane[j]) * 0xFF51AFD7ED558CCDu;
    result ^= result >> 32;
  }
  return result;
}
