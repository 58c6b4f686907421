/* f32x16 on AVX-512 (F, BW, DQ, VL): one register. */
#ifndef PTC_SIMD_AVX512_H
#define PTC_SIMD_AVX512_H

#include <immintrin.h>

#define PTC_ISA_NAME "avx512"
#define PTC_ISA_SYMBOL ptc_kernels_avx512
/* 32 registers: 12 rows x 2 vectors of accumulators, 2 weights, the rest for broadcasts. */
#define PTC_GEMM_ROWS 12
#define PTC_GEMV_PANELS 4

typedef __m512 f32x16;

PTC_INLINE __mmask16 ptc_mask_n(int64_t n) { return (__mmask16)((1u << n) - 1u); }

PTC_INLINE f32x16 f32x16_zero(void) { return _mm512_setzero_ps(); }
PTC_INLINE f32x16 f32x16_set1(float x) { return _mm512_set1_ps(x); }
PTC_INLINE f32x16 f32x16_iota(void) {
  return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
PTC_INLINE f32x16 f32x16_load(const float *p) { return _mm512_loadu_ps(p); }
PTC_INLINE f32x16 f32x16_load_n(const float *p, int64_t n) {
  return _mm512_maskz_loadu_ps(ptc_mask_n(n), p);
}
PTC_INLINE void f32x16_store(float *p, f32x16 v) { _mm512_storeu_ps(p, v); }
PTC_INLINE void f32x16_store_n(float *p, f32x16 v, int64_t n) {
  _mm512_mask_storeu_ps(p, ptc_mask_n(n), v);
}
/* Lanes n..15 become zero. */
PTC_INLINE f32x16 f32x16_keep_n(f32x16 v, int64_t n) {
  return _mm512_maskz_mov_ps(ptc_mask_n(n), v);
}
PTC_INLINE f32x16 f32x16_add(f32x16 a, f32x16 b) { return _mm512_add_ps(a, b); }
PTC_INLINE f32x16 f32x16_sub(f32x16 a, f32x16 b) { return _mm512_sub_ps(a, b); }
PTC_INLINE f32x16 f32x16_mul(f32x16 a, f32x16 b) { return _mm512_mul_ps(a, b); }
PTC_INLINE f32x16 f32x16_div(f32x16 a, f32x16 b) { return _mm512_div_ps(a, b); }
PTC_INLINE f32x16 f32x16_max(f32x16 a, f32x16 b) { return _mm512_max_ps(a, b); }
PTC_INLINE f32x16 f32x16_min(f32x16 a, f32x16 b) { return _mm512_min_ps(a, b); }
PTC_INLINE f32x16 f32x16_fma(f32x16 a, f32x16 b, f32x16 c) { return _mm512_fmadd_ps(a, b, c); }
/* c - a * b */
PTC_INLINE f32x16 f32x16_fnma(f32x16 a, f32x16 b, f32x16 c) { return _mm512_fnmadd_ps(a, b, c); }
/* a > b ? x : y, lane by lane; false when a lane is NaN. */
PTC_INLINE f32x16 f32x16_select_gt(f32x16 a, f32x16 b, f32x16 x, f32x16 y) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), y, x);
}
PTC_INLINE f32x16 f32x16_round(f32x16 a) {
  return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* 2^n for integral n in [-126, 127]. */
PTC_INLINE f32x16 f32x16_pow2(f32x16 n) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(
      _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
}
/* Lanes 0,1,2,3 ... -> 1,0,3,2 ... */
PTC_INLINE f32x16 f32x16_swap_pairs(f32x16 v) { return _mm512_permute_ps(v, 0xB1); }
/* Halving tree: lane i + lane i+8, then +4, +2, +1. */
PTC_INLINE float f32x16_sum(f32x16 v) {
  __m256 h = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
PTC_INLINE float f32x16_hmax(f32x16 v) { return _mm512_reduce_max_ps(v); }
/* 32 bfloat16 values in pair order (see linear.h): even halves are lanes 0..15 of the panel. */
PTC_INLINE void bf16x32_load_pairs(const uint16_t *p, f32x16 *low, f32x16 *high) {
  __m512i v = _mm512_loadu_si512((const void *)p);
  *low = _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
  *high = _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32((int)0xFFFF0000u)));
}
/* 16 floats in [-1, 1] times 32767, truncated. */
PTC_INLINE void f32x16_store_pcm16(int16_t *p, f32x16 v) {
  _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(_mm512_cvttps_epi32(v)));
}

#endif /* PTC_SIMD_AVX512_H */
