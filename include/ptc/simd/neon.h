/* f32x16 on 64-bit ARM: four NEON registers. */
#ifndef PTC_SIMD_NEON_H
#define PTC_SIMD_NEON_H

#include <arm_neon.h>

#if defined(__ARM_FEATURE_DOTPROD)
#define PTC_ISA_NAME "neon_dotprod"
#define PTC_ISA_SYMBOL ptc_kernels_neon_dotprod
#else
#define PTC_ISA_NAME "neon"
#define PTC_ISA_SYMBOL ptc_kernels_neon
#endif
/* 32 registers: 2 rows x 2 vectors = 16 accumulators, 8 for weights. */
#define PTC_GEMM_ROWS 2
#define PTC_GEMV_PANELS 1

typedef struct {
  float32x4_t v[4];
} f32x16;

#define PTC_EACH4(expression)                          \
  do {                                                 \
    f32x16 r;                                          \
    for (int i = 0; i < 4; i++) r.v[i] = (expression); \
    return r;                                          \
  } while (0)

PTC_INLINE f32x16 f32x16_zero(void) { PTC_EACH4(vdupq_n_f32(0.0f)); }
PTC_INLINE f32x16 f32x16_set1(float x) { PTC_EACH4(vdupq_n_f32(x)); }
PTC_INLINE f32x16 f32x16_load(const float *p) { PTC_EACH4(vld1q_f32(p + 4 * i)); }
PTC_INLINE f32x16 f32x16_iota(void) {
  static const float lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return f32x16_load(lanes);
}
PTC_INLINE void f32x16_store(float *p, f32x16 x) {
  for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, x.v[i]);
}
PTC_INLINE f32x16 f32x16_load_n(const float *p, int64_t n) {
  float lanes[16] = {0};
  for (int64_t i = 0; i < n; i++) lanes[i] = p[i];
  return f32x16_load(lanes);
}
PTC_INLINE void f32x16_store_n(float *p, f32x16 x, int64_t n) {
  float lanes[16];
  f32x16_store(lanes, x);
  for (int64_t i = 0; i < n; i++) p[i] = lanes[i];
}
PTC_INLINE f32x16 f32x16_keep_n(f32x16 x, int64_t n) {
  float lanes[16];
  f32x16_store(lanes, x);
  return f32x16_load_n(lanes, n);
}
PTC_INLINE f32x16 f32x16_add(f32x16 x, f32x16 y) { PTC_EACH4(vaddq_f32(x.v[i], y.v[i])); }
PTC_INLINE f32x16 f32x16_sub(f32x16 x, f32x16 y) { PTC_EACH4(vsubq_f32(x.v[i], y.v[i])); }
PTC_INLINE f32x16 f32x16_mul(f32x16 x, f32x16 y) { PTC_EACH4(vmulq_f32(x.v[i], y.v[i])); }
PTC_INLINE f32x16 f32x16_div(f32x16 x, f32x16 y) { PTC_EACH4(vdivq_f32(x.v[i], y.v[i])); }
/* (x > y ? x : y), as the x86 instructions do for NaN. */
PTC_INLINE f32x16 f32x16_max(f32x16 x, f32x16 y) {
  PTC_EACH4(vbslq_f32(vcgtq_f32(x.v[i], y.v[i]), x.v[i], y.v[i]));
}
PTC_INLINE f32x16 f32x16_min(f32x16 x, f32x16 y) {
  PTC_EACH4(vbslq_f32(vcltq_f32(x.v[i], y.v[i]), x.v[i], y.v[i]));
}
PTC_INLINE f32x16 f32x16_fma(f32x16 x, f32x16 y, f32x16 z) {
  PTC_EACH4(vfmaq_f32(z.v[i], x.v[i], y.v[i]));
}
PTC_INLINE f32x16 f32x16_fnma(f32x16 x, f32x16 y, f32x16 z) {
  PTC_EACH4(vfmsq_f32(z.v[i], x.v[i], y.v[i]));
}
PTC_INLINE f32x16 f32x16_select_gt(f32x16 p, f32x16 q, f32x16 x, f32x16 y) {
  PTC_EACH4(vbslq_f32(vcgtq_f32(p.v[i], q.v[i]), x.v[i], y.v[i]));
}
PTC_INLINE f32x16 f32x16_round(f32x16 x) { PTC_EACH4(vrndnq_f32(x.v[i])); }
PTC_INLINE f32x16 f32x16_pow2(f32x16 n) {
  PTC_EACH4(
      vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n.v[i]), vdupq_n_s32(127)), 23)));
}
PTC_INLINE f32x16 f32x16_swap_pairs(f32x16 x) { PTC_EACH4(vrev64q_f32(x.v[i])); }
PTC_INLINE float f32x16_sum(f32x16 x) {
  float32x4_t q = vaddq_f32(vaddq_f32(x.v[0], x.v[2]), vaddq_f32(x.v[1], x.v[3]));
  float32x2_t h = vadd_f32(vget_low_f32(q), vget_high_f32(q));
  return vget_lane_f32(h, 0) + vget_lane_f32(h, 1);
}
PTC_INLINE float f32x16_hmax(f32x16 x) {
  return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.v[0], x.v[1]), vmaxq_f32(x.v[2], x.v[3])));
}
PTC_INLINE void bf16x32_load_pairs(const uint16_t *p, f32x16 *low, f32x16 *high) {
  for (int i = 0; i < 4; i++) {
    uint32x4_t u = vreinterpretq_u32_u16(vld1q_u16(p + 8 * i));
    low->v[i] = vreinterpretq_f32_u32(vshlq_n_u32(u, 16));
    high->v[i] = vreinterpretq_f32_u32(vandq_u32(u, vdupq_n_u32(0xFFFF0000u)));
  }
}
PTC_INLINE void f32x16_store_pcm16(int16_t *p, f32x16 x) {
  for (int i = 0; i < 4; i++) vst1_s16(p + 4 * i, vmovn_s32(vcvtq_s32_f32(x.v[i])));
}

/* -- integers: see quant.h -------------------------------------------------------------------- */
#define PTC_I16_ROWS 1
#define PTC_Q_ROWS 1
#define PTC_Q_PANELS 1
#define PTC_DOT4_OFFSET 0
typedef struct {
  int32x4_t v[4];
} i32x16;

#define PTC_EACH4I(expression)                         \
  do {                                                 \
    i32x16 r;                                          \
    for (int i = 0; i < 4; i++) r.v[i] = (expression); \
    return r;                                          \
  } while (0)

PTC_INLINE i32x16 i32x16_set1(int32_t x) { PTC_EACH4I(vdupq_n_s32(x)); }
PTC_INLINE f32x16 f32x16_from_i32(i32x16 x) { PTC_EACH4(vcvtq_f32_s32(x.v[i])); }
PTC_INLINE void f32x16_store_i8(int8_t *p, f32x16 x) {
  int16x8_t a = vcombine_s16(vmovn_s32(vcvtnq_s32_f32(x.v[0])), vmovn_s32(vcvtnq_s32_f32(x.v[1])));
  int16x8_t b = vcombine_s16(vmovn_s32(vcvtnq_s32_f32(x.v[2])), vmovn_s32(vcvtnq_s32_f32(x.v[3])));
  vst1q_s8(p, vcombine_s8(vmovn_s16(a), vmovn_s16(b)));
}
PTC_INLINE i32x16 i32x16_load_dot4(const int8_t *p) {
  PTC_EACH4I(vreinterpretq_s32_s8(vld1q_s8(p + 16 * i)));
}
PTC_INLINE int32x4_t ptc_dot4_4(int32x4_t sum, int8x16_t w, int8x16_t x) {
#if defined(__ARM_FEATURE_DOTPROD)
  return vdotq_s32(sum, w, x);
#else
  int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
  int16x8_t high = vmull_s8(vget_high_s8(w), vget_high_s8(x));
  return vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
#endif
}
PTC_INLINE i32x16 i32x16_dot4(i32x16 sum, i32x16 w, i32x16 x) {
  PTC_EACH4I(ptc_dot4_4(sum.v[i], vreinterpretq_s8_s32(w.v[i]), vreinterpretq_s8_s32(x.v[i])));
}
PTC_INLINE i32x16 i32x16_dot4_nibbles(i32x16 sum, i32x16 w, i32x16 x) {
  return i32x16_dot4(sum, w, x);
}
PTC_INLINE void i32x16_load_nibbles(const int8_t *p, i32x16 *low, i32x16 *high) {
  for (int i = 0; i < 4; i++) {
    uint8x16_t v = vld1q_u8((const uint8_t *)p + 16 * i);
    low->v[i] = vreinterpretq_s32_u8(vandq_u8(v, vdupq_n_u8(0x0F)));
    high->v[i] = vreinterpretq_s32_u8(vshrq_n_u8(v, 4));
  }
}

#define PTC_PREFERS_I16 0
PTC_INLINE void f32x16_store_i16(int16_t *p, f32x16 x) {
  for (int i = 0; i < 4; i++) vst1_s16(p + 4 * i, vqmovn_s32(vcvtnq_s32_f32(x.v[i])));
}
PTC_INLINE i32x16 i32x16_load(const void *p) { return i32x16_load_dot4((const int8_t *)p); }
PTC_INLINE i32x16 i32x16_dot2(i32x16 sum, i32x16 w, i32x16 x) {
  for (int i = 0; i < 4; i++) {
    int16x8_t a = vreinterpretq_s16_s32(w.v[i]), b = vreinterpretq_s16_s32(x.v[i]);
    int32x4_t low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
    int32x4_t high = vmull_s16(vget_high_s16(a), vget_high_s16(b));
    sum.v[i] = vaddq_s32(sum.v[i], vpaddq_s32(low, high));
  }
  return sum;
}

#endif /* PTC_SIMD_NEON_H */
