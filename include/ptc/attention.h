/* Causal attention of one head over a key/value cache, in one pass.
 *
 *   out[q] = sum_k softmax_k( scale * Q[q].K[k] ) V[k]   over keys with
 *   position(k) <= position(q) and position(q) - position(k) < context
 *
 * Online softmax (Milakov and Gimelshein 2018; FlashAttention): keys are taken 16 at a time with a
 * running maximum, so no score row is kept and memory does not grow with the length.
 *
 * One query (the autoregressive step): lanes are dimensions of the head; the 16 scores of a block
 * share one exponential. Up to 16 queries (prefill, Mimi): lanes are queries, so that scores and
 * weighted sums need no sum across lanes at all; Q is transposed once per block of queries.
 *
 * The two add in different orders, so a query alone and among others agree up to rounding only.
 *
 * Error relative to the largest |V|: (2 (head_dim + 3) A + 2 n_keys + 16) 2^-24, where A is the
 * largest scale * sum |q k|.
 */
#ifndef PTC_ATTENTION_H
#define PTC_ATTENTION_H

#include "ptc/kernels.h"
#include "ptc/math.h"

#define PTC_MASKED -1e30f

PTC_INLINE int64_t ptc_max64(int64_t a, int64_t b) { return a > b ? a : b; }
PTC_INLINE int64_t ptc_min64(int64_t a, int64_t b) { return a < b ? a : b; }

/* One query row. `vectors` = ceil(head_dim / 16) is a constant for the usual sizes. */
PTC_INLINE void ptc_attention_row(const ptc_attention_args *a, const float *q, float *out,
                                  int64_t position, const int64_t vectors) {
  f32x16 query[PTC_MAX_HEAD_DIM / 16], sum[PTC_MAX_HEAD_DIM / 16];
  const int64_t last = a->head_dim - 16 * (vectors - 1);
  for (int64_t i = 0; i < vectors; i++) {
    query[i] =
        f32x16_mul(f32x16_load_n(q + 16 * i, i == vectors - 1 ? last : 16), f32x16_set1(a->scale));
    sum[i] = f32x16_zero();
  }
  float maximum = PTC_MASKED, weight_sum = 0.0f;
  for (int s = 0; s < a->n_segments; s++) {
    const ptc_kv_segment *kv = &a->segments[s];
    int64_t begin = ptc_max64(0, position - a->context + 1 - kv->position);
    int64_t end = ptc_min64(kv->n_rows, position + 1 - kv->position);
    for (int64_t k0 = begin; k0 < end; k0 += 16) {
      int64_t n = ptc_min64(16, end - k0);
      float scores[16];
      for (int64_t j = 0; j < 16; j++) scores[j] = PTC_MASKED;
      for (int64_t j = 0; j < n; j++) {
        const float *key = kv->k + (k0 + j) * kv->ld;
        f32x16 product = f32x16_zero();
        for (int64_t i = 0; i < vectors - 1; i++)
          product = f32x16_fma(query[i], f32x16_load(key + 16 * i), product);
        product =
            f32x16_fma(query[vectors - 1], f32x16_load_n(key + 16 * (vectors - 1), last), product);
        scores[j] = f32x16_sum(product);
      }
      f32x16 score = f32x16_load(scores);
      float block_maximum = f32x16_hmax(score);
      if (block_maximum > maximum) {
        f32x16 shrink = f32x16_exp(f32x16_set1(maximum - block_maximum));
        float factor[16];
        f32x16_store(factor, shrink);
        if (maximum == PTC_MASKED) factor[0] = 0.0f;
        weight_sum *= factor[0];
        for (int64_t i = 0; i < vectors; i++) sum[i] = f32x16_mul(sum[i], f32x16_set1(factor[0]));
        maximum = block_maximum;
      }
      f32x16 weight = f32x16_keep_n(f32x16_exp(f32x16_sub(score, f32x16_set1(maximum))), n);
      weight_sum += f32x16_sum(weight);
      float weights[16];
      f32x16_store(weights, weight);
      for (int64_t j = 0; j < n; j++) {
        const float *value = kv->v + (k0 + j) * kv->ld;
        f32x16 w = f32x16_set1(weights[j]);
        for (int64_t i = 0; i < vectors - 1; i++)
          sum[i] = f32x16_fma(w, f32x16_load(value + 16 * i), sum[i]);
        sum[vectors - 1] =
            f32x16_fma(w, f32x16_load_n(value + 16 * (vectors - 1), last), sum[vectors - 1]);
      }
    }
  }
  f32x16 total = f32x16_set1(weight_sum);
  for (int64_t i = 0; i < vectors; i++)
    f32x16_store_n(out + 16 * i, f32x16_div(sum[i], total), i == vectors - 1 ? last : 16);
}

/* Up to 16 query rows from `row`; lane r is query row + r. */
PTC_INLINE void ptc_attention_rows16(const ptc_attention_args *a, int64_t row, int64_t n_queries) {
  const int64_t dim = a->head_dim;
  const int64_t position = a->first_position + row;
  PTC_ALIGN(64) float query[PTC_MAX_HEAD_DIM][16];
  PTC_ALIGN(64) float sum[PTC_MAX_HEAD_DIM][16];
  for (int64_t d = 0; d < dim; d++) {
    for (int64_t r = 0; r < 16; r++)
      query[d][r] = r < n_queries ? a->q[(row + r) * a->ld_q + d] * a->scale : 0.0f;
    f32x16_store(sum[d], f32x16_zero());
  }
  const f32x16 lane = f32x16_iota();
  f32x16 maximum = f32x16_set1(PTC_MASKED), weight_sum = f32x16_zero();
  for (int s = 0; s < a->n_segments; s++) {
    const ptc_kv_segment *kv = &a->segments[s];
    int64_t begin = ptc_max64(0, position - a->context + 1 - kv->position);
    int64_t end = ptc_min64(kv->n_rows, position + n_queries - kv->position);
    for (int64_t k0 = begin; k0 < end; k0 += 8) {
      int64_t n = ptc_min64(8, end - k0);
      f32x16 score[8];
      for (int j = 0; j < 8; j++) score[j] = f32x16_zero();
      if (n == 8) {
        const float *key = kv->k + k0 * kv->ld;
        for (int64_t d = 0; d < dim; d++) {
          f32x16 qd = f32x16_load(query[d]);
          PTC_UNROLL
          for (int j = 0; j < 8; j++)
            score[j] = f32x16_fma(qd, f32x16_set1(key[j * kv->ld + d]), score[j]);
        }
      } else {
        for (int64_t d = 0; d < dim; d++)
          for (int64_t j = 0; j < n; j++)
            score[j] = f32x16_fma(f32x16_load(query[d]), f32x16_set1(kv->k[(k0 + j) * kv->ld + d]),
                                  score[j]);
      }
      /* Key j is visible to lanes [first, first + context): earlier queries must not see it yet,
       * later ones no longer. */
      f32x16 block_maximum = maximum;
      for (int64_t j = 0; j < n; j++) {
        float first = (float)(kv->position + k0 + j - position);
        f32x16 masked = f32x16_set1(PTC_MASKED);
        score[j] = f32x16_select_gt(f32x16_set1(first), lane, masked, score[j]);
        if (a->context < PTC_NO_CONTEXT)
          score[j] =
              f32x16_select_gt(f32x16_set1(first + (float)a->context), lane, score[j], masked);
        block_maximum = f32x16_max(block_maximum, score[j]);
      }
      f32x16 shrink = f32x16_exp(f32x16_sub(maximum, block_maximum));
      maximum = block_maximum;
      weight_sum = f32x16_mul(weight_sum, shrink);
      f32x16 floor = f32x16_set1(0.5f * PTC_MASKED);
      for (int64_t j = 0; j < n; j++) {
        f32x16 w = f32x16_exp(f32x16_sub(score[j], maximum));
        score[j] = f32x16_select_gt(score[j], floor, w, f32x16_zero());
        weight_sum = f32x16_add(weight_sum, score[j]);
      }
      const float *value = kv->v + k0 * kv->ld;
      if (n == 8) {
        for (int64_t d = 0; d < dim; d++) {
          f32x16 total = f32x16_mul(f32x16_load(sum[d]), shrink);
          PTC_UNROLL
          for (int j = 0; j < 8; j++)
            total = f32x16_fma(score[j], f32x16_set1(value[j * kv->ld + d]), total);
          f32x16_store(sum[d], total);
        }
      } else {
        for (int64_t d = 0; d < dim; d++) {
          f32x16 total = f32x16_mul(f32x16_load(sum[d]), shrink);
          for (int64_t j = 0; j < n; j++)
            total = f32x16_fma(score[j], f32x16_set1(value[j * kv->ld + d]), total);
          f32x16_store(sum[d], total);
        }
      }
    }
  }
  for (int64_t d = 0; d < dim; d++) {
    f32x16_store(sum[d], f32x16_div(f32x16_load(sum[d]), weight_sum));
    for (int64_t r = 0; r < n_queries; r++) a->out[(row + r) * a->ld_out + d] = sum[d][r];
  }
}

/* Query rows [row_begin, row_end) of one head. */
PTC_INLINE void ptc_attention(const ptc_attention_args *a, int64_t row_begin, int64_t row_end) {
  if (row_end - row_begin == 1) {
    const float *q = a->q + row_begin * a->ld_q;
    float *out = a->out + row_begin * a->ld_out;
    int64_t position = a->first_position + row_begin;
    if (a->head_dim == 64)
      ptc_attention_row(a, q, out, position, 4);
    else
      ptc_attention_row(a, q, out, position, (a->head_dim + 15) / 16);
    return;
  }
  for (int64_t row = row_begin; row < row_end; row += 16)
    ptc_attention_rows16(a, row, ptc_min64(16, row_end - row));
}

#endif /* PTC_ATTENTION_H */
