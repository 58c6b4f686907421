/* f32x16 on AVX2 + FMA: two registers. */
#ifndef PTC_SIMD_AVX2_H
#define PTC_SIMD_AVX2_H

#include <immintrin.h>

#define PTC_ISA_NAME "avx2"
#define PTC_ISA_SYMBOL ptc_kernels_avx2
/* 16 registers: 3 rows x 2 vectors = 12 accumulators. */
#define PTC_GEMM_ROWS 3
#define PTC_GEMV_PANELS 2

typedef struct {
  __m256 a, b;
} f32x16;

PTC_INLINE __m256i ptc_mask8(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

PTC_INLINE f32x16 ptc_pair(__m256 a, __m256 b) {
  f32x16 r = {a, b};
  return r;
}
PTC_INLINE f32x16 f32x16_zero(void) { return ptc_pair(_mm256_setzero_ps(), _mm256_setzero_ps()); }
PTC_INLINE f32x16 f32x16_set1(float x) { return ptc_pair(_mm256_set1_ps(x), _mm256_set1_ps(x)); }
PTC_INLINE f32x16 f32x16_iota(void) {
  return ptc_pair(_mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7),
                  _mm256_setr_ps(8, 9, 10, 11, 12, 13, 14, 15));
}
PTC_INLINE f32x16 f32x16_load(const float *p) {
  return ptc_pair(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8));
}
PTC_INLINE f32x16 f32x16_load_n(const float *p, int64_t n) {
  return ptc_pair(_mm256_maskload_ps(p, ptc_mask8(n)), _mm256_maskload_ps(p + 8, ptc_mask8(n - 8)));
}
PTC_INLINE void f32x16_store(float *p, f32x16 v) {
  _mm256_storeu_ps(p, v.a);
  _mm256_storeu_ps(p + 8, v.b);
}
PTC_INLINE void f32x16_store_n(float *p, f32x16 v, int64_t n) {
  _mm256_maskstore_ps(p, ptc_mask8(n), v.a);
  _mm256_maskstore_ps(p + 8, ptc_mask8(n - 8), v.b);
}
PTC_INLINE f32x16 f32x16_keep_n(f32x16 v, int64_t n) {
  return ptc_pair(_mm256_and_ps(v.a, _mm256_castsi256_ps(ptc_mask8(n))),
                  _mm256_and_ps(v.b, _mm256_castsi256_ps(ptc_mask8(n - 8))));
}
PTC_INLINE f32x16 f32x16_add(f32x16 x, f32x16 y) {
  return ptc_pair(_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b));
}
PTC_INLINE f32x16 f32x16_sub(f32x16 x, f32x16 y) {
  return ptc_pair(_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b));
}
PTC_INLINE f32x16 f32x16_mul(f32x16 x, f32x16 y) {
  return ptc_pair(_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b));
}
PTC_INLINE f32x16 f32x16_div(f32x16 x, f32x16 y) {
  return ptc_pair(_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b));
}
PTC_INLINE f32x16 f32x16_max(f32x16 x, f32x16 y) {
  return ptc_pair(_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b));
}
PTC_INLINE f32x16 f32x16_min(f32x16 x, f32x16 y) {
  return ptc_pair(_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b));
}
PTC_INLINE f32x16 f32x16_fma(f32x16 x, f32x16 y, f32x16 z) {
  return ptc_pair(_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b));
}
PTC_INLINE f32x16 f32x16_fnma(f32x16 x, f32x16 y, f32x16 z) {
  return ptc_pair(_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b));
}
PTC_INLINE f32x16 f32x16_select_gt(f32x16 p, f32x16 q, f32x16 x, f32x16 y) {
  return ptc_pair(_mm256_blendv_ps(y.a, x.a, _mm256_cmp_ps(p.a, q.a, _CMP_GT_OQ)),
                  _mm256_blendv_ps(y.b, x.b, _mm256_cmp_ps(p.b, q.b, _CMP_GT_OQ)));
}
PTC_INLINE f32x16 f32x16_round(f32x16 v) {
  return ptc_pair(_mm256_round_ps(v.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                  _mm256_round_ps(v.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
PTC_INLINE __m256 ptc_pow2_8(__m256 n) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
PTC_INLINE f32x16 f32x16_pow2(f32x16 n) { return ptc_pair(ptc_pow2_8(n.a), ptc_pow2_8(n.b)); }
PTC_INLINE f32x16 f32x16_swap_pairs(f32x16 v) {
  return ptc_pair(_mm256_permute_ps(v.a, 0xB1), _mm256_permute_ps(v.b, 0xB1));
}
PTC_INLINE float f32x16_sum(f32x16 v) {
  __m256 h = _mm256_add_ps(v.a, v.b);
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
PTC_INLINE float f32x16_hmax(f32x16 v) {
  __m256 h = _mm256_max_ps(v.a, v.b);
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
}
PTC_INLINE void bf16x32_load_pairs(const uint16_t *p, f32x16 *low, f32x16 *high) {
  const __m256i top = _mm256_set1_epi32((int)0xFFFF0000u);
  __m256i u = _mm256_loadu_si256((const __m256i *)p);
  __m256i v = _mm256_loadu_si256((const __m256i *)(p + 16));
  *low = ptc_pair(_mm256_castsi256_ps(_mm256_slli_epi32(u, 16)),
                  _mm256_castsi256_ps(_mm256_slli_epi32(v, 16)));
  *high = ptc_pair(_mm256_castsi256_ps(_mm256_and_si256(u, top)),
                   _mm256_castsi256_ps(_mm256_and_si256(v, top)));
}
PTC_INLINE void f32x16_store_pcm16(int16_t *p, f32x16 v) {
  __m256i w = _mm256_packs_epi32(_mm256_cvttps_epi32(v.a), _mm256_cvttps_epi32(v.b));
  _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(w, 0xD8));
}

/* -- integers: see quant.h -------------------------------------------------------------------- */
#define PTC_I16_ROWS 1
#define PTC_Q_ROWS 1
#define PTC_Q_PANELS 1
#define PTC_DOT4_OFFSET 0
typedef struct {
  __m256i a, b;
} i32x16;

PTC_INLINE i32x16 ptc_ipair(__m256i a, __m256i b) {
  i32x16 r = {a, b};
  return r;
}
PTC_INLINE i32x16 i32x16_set1(int32_t x) {
  return ptc_ipair(_mm256_set1_epi32(x), _mm256_set1_epi32(x));
}
PTC_INLINE f32x16 f32x16_from_i32(i32x16 v) {
  return ptc_pair(_mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b));
}
PTC_INLINE void f32x16_store_i8(int8_t *p, f32x16 v) {
  __m256i w = _mm256_packs_epi32(_mm256_cvtps_epi32(v.a), _mm256_cvtps_epi32(v.b));
  w = _mm256_permute4x64_epi64(w, 0xD8);
  _mm_storeu_si128((__m128i *)p,
                   _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)));
}
PTC_INLINE i32x16 i32x16_load_dot4(const int8_t *p) {
  return ptc_ipair(_mm256_loadu_si256((const __m256i *)p),
                   _mm256_loadu_si256((const __m256i *)(p + 32)));
}
PTC_INLINE __m256i ptc_dot4_8(__m256i sum, __m256i unsigned_w, __m256i x) {
  __m256i pairs = _mm256_maddubs_epi16(unsigned_w, x);
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
PTC_INLINE i32x16 i32x16_dot4_nibbles(i32x16 sum, i32x16 w, i32x16 x) {
  return ptc_ipair(ptc_dot4_8(sum.a, w.a, x.a), ptc_dot4_8(sum.b, w.b, x.b));
}
/* vpmaddubsw saturates; |w| <= 127 times x with w's sign does not: 2 * 127 * 127 < 2^15. */
PTC_INLINE i32x16 i32x16_dot4(i32x16 sum, i32x16 w, i32x16 x) {
  return ptc_ipair(ptc_dot4_8(sum.a, _mm256_abs_epi8(w.a), _mm256_sign_epi8(x.a, w.a)),
                   ptc_dot4_8(sum.b, _mm256_abs_epi8(w.b), _mm256_sign_epi8(x.b, w.b)));
}
PTC_INLINE void i32x16_load_nibbles(const int8_t *p, i32x16 *low, i32x16 *high) {
  const __m256i mask = _mm256_set1_epi8(0x0F);
  i32x16 v = i32x16_load_dot4(p);
  *low = ptc_ipair(_mm256_and_si256(v.a, mask), _mm256_and_si256(v.b, mask));
  *high = ptc_ipair(_mm256_and_si256(_mm256_srli_epi16(v.a, 4), mask),
                    _mm256_and_si256(_mm256_srli_epi16(v.b, 4), mask));
}

#define PTC_PREFERS_I16 0
PTC_INLINE void f32x16_store_i16(int16_t *p, f32x16 v) {
  __m256i w = _mm256_packs_epi32(_mm256_cvtps_epi32(v.a), _mm256_cvtps_epi32(v.b));
  _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(w, 0xD8));
}
PTC_INLINE i32x16 i32x16_load(const void *p) { return i32x16_load_dot4((const int8_t *)p); }
PTC_INLINE i32x16 i32x16_dot2(i32x16 sum, i32x16 w, i32x16 x) {
  return ptc_ipair(_mm256_add_epi32(sum.a, _mm256_madd_epi16(w.a, x.a)),
                   _mm256_add_epi32(sum.b, _mm256_madd_epi16(w.b, x.b)));
}

#endif /* PTC_SIMD_AVX2_H */
