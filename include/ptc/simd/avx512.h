/* f32x16 on AVX-512 (F, BW, DQ, VL): one register. With VNNI, dot products of bytes are one
 * instruction. */
#ifndef PTC_SIMD_AVX512_H
#define PTC_SIMD_AVX512_H

#include <immintrin.h>

#if defined(__AVX512VNNI__)
#define PTC_ISA_NAME "avx512_vnni"
#define PTC_ISA_SYMBOL ptc_kernels_avx512_vnni
#else
#define PTC_ISA_NAME "avx512"
#define PTC_ISA_SYMBOL ptc_kernels_avx512
#endif
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
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
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

/* -- integers: see quant.h -------------------------------------------------------------------- */
#define PTC_I16_ROWS 6
#define PTC_Q_ROWS 4
#define PTC_Q_PANELS 2
typedef __m512i i32x16;

PTC_INLINE i32x16 i32x16_set1(int32_t x) { return _mm512_set1_epi32(x); }
PTC_INLINE f32x16 f32x16_from_i32(i32x16 v) { return _mm512_cvtepi32_ps(v); }
PTC_INLINE void f32x16_store_i8(int8_t *p, f32x16 v) {
  _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
}
#if defined(__AVX512VNNI__)
/* vpdpbusd multiplies unsigned by signed bytes: weights are offset by 128. */
#define PTC_DOT4_OFFSET (-128)
PTC_INLINE i32x16 i32x16_load_dot4(const int8_t *p) {
  return _mm512_xor_si512(_mm512_loadu_si512((const void *)p), _mm512_set1_epi8((char)0x80));
}
PTC_INLINE i32x16 i32x16_dot4(i32x16 sum, i32x16 w, i32x16 x) {
  return _mm512_dpbusd_epi32(sum, w, x);
}
PTC_INLINE i32x16 i32x16_dot4_nibbles(i32x16 sum, i32x16 w, i32x16 x) {
  return _mm512_dpbusd_epi32(sum, w, x);
}
#else
/* vpmaddubsw saturates; |w| <= 127 times x with w's sign does not: 2 * 127 * 127 < 2^15. */
#define PTC_DOT4_OFFSET 0
PTC_INLINE i32x16 i32x16_load_dot4(const int8_t *p) { return _mm512_loadu_si512((const void *)p); }
PTC_INLINE i32x16 i32x16_dot4_nibbles(i32x16 sum, i32x16 w, i32x16 x) {
  __m512i pairs = _mm512_maddubs_epi16(w, x);
  return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
PTC_INLINE i32x16 i32x16_dot4(i32x16 sum, i32x16 w, i32x16 x) {
  __m512i signed_x = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), _mm512_setzero_si512(), x);
  return i32x16_dot4_nibbles(sum, _mm512_abs_epi8(w), signed_x);
}
#endif
PTC_INLINE void i32x16_load_nibbles(const int8_t *p, i32x16 *low, i32x16 *high) {
  const __m512i mask = _mm512_set1_epi8(0x0F);
  __m512i v = _mm512_loadu_si512((const void *)p);
  *low = _mm512_and_si512(v, mask);
  *high = _mm512_and_si512(_mm512_srli_epi16(v, 4), mask);
}

PTC_INLINE void f32x16_store_i16(int16_t *p, f32x16 v) {
  _mm256_storeu_si256((__m256i *)p, _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(v)));
}
PTC_INLINE i32x16 i32x16_load(const void *p) { return _mm512_loadu_si512(p); }
#if defined(__AVX512VNNI__)
/* Twice the multiplications of a float32 FMA per instruction. */
#define PTC_PREFERS_I16 1
PTC_INLINE i32x16 i32x16_dot2(i32x16 sum, i32x16 w, i32x16 x) {
  return _mm512_dpwssd_epi32(sum, w, x);
}
#else
#define PTC_PREFERS_I16 0
PTC_INLINE i32x16 i32x16_dot2(i32x16 sum, i32x16 w, i32x16 x) {
  return _mm512_add_epi32(sum, _mm512_madd_epi16(w, x));
}
#endif

#endif /* PTC_SIMD_AVX512_H */
