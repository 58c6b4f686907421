/* f32x16 in portable C: the fall-back on any CPU and the reference in tests.
 *
 * Without FMA hardware fmaf() is a slow library call, so f32x16_fma rounds twice here.
 */
#ifndef PTC_SIMD_SCALAR_H
#define PTC_SIMD_SCALAR_H

#include <math.h>
#include <string.h>

#define PTC_ISA_NAME "scalar"
#define PTC_ISA_SYMBOL ptc_kernels_scalar
#define PTC_GEMM_ROWS 2
#define PTC_GEMV_PANELS 1

typedef struct {
  float v[16];
} f32x16;

#define PTC_EACH16(expression)                          \
  do {                                                  \
    f32x16 r;                                           \
    for (int i = 0; i < 16; i++) r.v[i] = (expression); \
    return r;                                           \
  } while (0)

PTC_INLINE f32x16 f32x16_zero(void) { PTC_EACH16(0.0f); }
PTC_INLINE f32x16 f32x16_set1(float x) { PTC_EACH16(x); }
PTC_INLINE f32x16 f32x16_iota(void) { PTC_EACH16((float)i); }
PTC_INLINE f32x16 f32x16_load(const float *p) { PTC_EACH16(p[i]); }
PTC_INLINE f32x16 f32x16_load_n(const float *p, int64_t n) { PTC_EACH16(i < n ? p[i] : 0.0f); }
PTC_INLINE void f32x16_store(float *p, f32x16 x) {
  for (int i = 0; i < 16; i++) p[i] = x.v[i];
}
PTC_INLINE void f32x16_store_n(float *p, f32x16 x, int64_t n) {
  for (int i = 0; i < n; i++) p[i] = x.v[i];
}
PTC_INLINE f32x16 f32x16_keep_n(f32x16 x, int64_t n) { PTC_EACH16(i < n ? x.v[i] : 0.0f); }
PTC_INLINE f32x16 f32x16_add(f32x16 x, f32x16 y) { PTC_EACH16(x.v[i] + y.v[i]); }
PTC_INLINE f32x16 f32x16_sub(f32x16 x, f32x16 y) { PTC_EACH16(x.v[i] - y.v[i]); }
PTC_INLINE f32x16 f32x16_mul(f32x16 x, f32x16 y) { PTC_EACH16(x.v[i] * y.v[i]); }
PTC_INLINE f32x16 f32x16_div(f32x16 x, f32x16 y) { PTC_EACH16(x.v[i] / y.v[i]); }
PTC_INLINE f32x16 f32x16_max(f32x16 x, f32x16 y) { PTC_EACH16(x.v[i] > y.v[i] ? x.v[i] : y.v[i]); }
PTC_INLINE f32x16 f32x16_min(f32x16 x, f32x16 y) { PTC_EACH16(x.v[i] < y.v[i] ? x.v[i] : y.v[i]); }
PTC_INLINE f32x16 f32x16_fma(f32x16 x, f32x16 y, f32x16 z) { PTC_EACH16(x.v[i] * y.v[i] + z.v[i]); }
PTC_INLINE f32x16 f32x16_fnma(f32x16 x, f32x16 y, f32x16 z) {
  PTC_EACH16(z.v[i] - x.v[i] * y.v[i]);
}
PTC_INLINE f32x16 f32x16_select_gt(f32x16 p, f32x16 q, f32x16 x, f32x16 y) {
  PTC_EACH16(p.v[i] > q.v[i] ? x.v[i] : y.v[i]);
}
/* Adding and taking away 1.5 * 2^23 rounds to the nearest even integer for |x| < 2^22, which holds
 * for every caller (exponents); nearbyintf() would be a library call. */
PTC_INLINE f32x16 f32x16_round(f32x16 x) { PTC_EACH16((x.v[i] + 12582912.0f) - 12582912.0f); }
PTC_INLINE f32x16 f32x16_pow2(f32x16 n) {
  f32x16 r;
  for (int i = 0; i < 16; i++) {
    uint32_t bits = (uint32_t)((int32_t)n.v[i] + 127) << 23;
    memcpy(&r.v[i], &bits, 4);
  }
  return r;
}
PTC_INLINE f32x16 f32x16_swap_pairs(f32x16 x) { PTC_EACH16(x.v[i ^ 1]); }
PTC_INLINE float f32x16_sum(f32x16 x) {
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; i++) x.v[i] += x.v[i + half];
  return x.v[0];
}
PTC_INLINE float f32x16_hmax(f32x16 x) {
  float m = x.v[0];
  for (int i = 1; i < 16; i++) m = x.v[i] > m ? x.v[i] : m;
  return m;
}
PTC_INLINE void bf16x32_load_pairs(const uint16_t *p, f32x16 *low, f32x16 *high) {
  for (int i = 0; i < 16; i++) {
    uint32_t u = (uint32_t)p[2 * i] << 16, w = (uint32_t)p[2 * i + 1] << 16;
    memcpy(&low->v[i], &u, 4);
    memcpy(&high->v[i], &w, 4);
  }
}
PTC_INLINE void f32x16_store_pcm16(int16_t *p, f32x16 x) {
  for (int i = 0; i < 16; i++) p[i] = (int16_t)x.v[i];
}

/* -- integers: see quant.h -------------------------------------------------------------------- */
#define PTC_I16_ROWS 1
#define PTC_Q_ROWS 1
#define PTC_Q_PANELS 1
#define PTC_DOT4_OFFSET 0
typedef struct {
  int32_t v[16];
} i32x16;

PTC_INLINE i32x16 i32x16_set1(int32_t x) {
  i32x16 r;
  for (int i = 0; i < 16; i++) r.v[i] = x;
  return r;
}
PTC_INLINE f32x16 f32x16_from_i32(i32x16 x) { PTC_EACH16((float)x.v[i]); }
PTC_INLINE void f32x16_store_i8(int8_t *p, f32x16 x) {
  for (int i = 0; i < 16; i++) p[i] = (int8_t)x.v[i];
}
PTC_INLINE i32x16 i32x16_load_dot4(const int8_t *p) {
  i32x16 r;
  memcpy(r.v, p, 64);
  return r;
}
PTC_INLINE i32x16 i32x16_dot4(i32x16 sum, i32x16 w, i32x16 x) {
  const int8_t *a = (const int8_t *)w.v, *b = (const int8_t *)x.v;
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 4; j++) sum.v[i] += a[4 * i + j] * b[4 * i + j];
  return sum;
}
PTC_INLINE i32x16 i32x16_dot4_nibbles(i32x16 sum, i32x16 w, i32x16 x) {
  return i32x16_dot4(sum, w, x);
}
PTC_INLINE void i32x16_load_nibbles(const int8_t *p, i32x16 *low, i32x16 *high) {
  uint8_t *a = (uint8_t *)low->v, *b = (uint8_t *)high->v;
  for (int i = 0; i < 64; i++) {
    a[i] = (uint8_t)p[i] & 15;
    b[i] = (uint8_t)p[i] >> 4;
  }
}

#define PTC_PREFERS_I16 0
PTC_INLINE void f32x16_store_i16(int16_t *p, f32x16 x) {
  for (int i = 0; i < 16; i++) p[i] = (int16_t)x.v[i];
}
PTC_INLINE i32x16 i32x16_load(const void *p) { return i32x16_load_dot4((const int8_t *)p); }
PTC_INLINE i32x16 i32x16_dot2(i32x16 sum, i32x16 w, i32x16 x) {
  int16_t a[32], b[32];
  memcpy(a, w.v, 64);
  memcpy(b, x.v, 64);
  for (int i = 0; i < 16; i++) sum.v[i] += a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1];
  return sum;
}

#endif /* PTC_SIMD_SCALAR_H */
