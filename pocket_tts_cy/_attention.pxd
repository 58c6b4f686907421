from libc.stdint cimport int64_t

from ._kernels cimport ptc_kv_segment


cdef void attention_heads(
    float *out, int64_t ld_out, const float *q, int64_t ld_q, const ptc_kv_segment *segments,
    int n_segments, int64_t rows, int64_t n_heads, int64_t n_kv_heads, int64_t head_dim,
    int64_t first_position, int64_t context, int threads) noexcept nogil
