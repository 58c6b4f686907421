/* Packing of weights and bfloat16 conversion: plain C, run once at load. */
#include <string.h>

#include "ptc/kernels.h"

/* Where output j of a panel stands in a bfloat16 row: j and j + 16 are neighbours. */
static int64_t bf16_slot(int64_t j) { return j < PTC_PANEL / 2 ? 2 * j : 2 * (j - PTC_PANEL / 2) + 1; }

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
