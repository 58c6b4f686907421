"""Multi-head attention: heads and blocks of queries spread over threads."""
from cython.parallel cimport prange
from libc.math cimport sqrt
from libc.stdint cimport int64_t

from ._kernels cimport active_kernels, ptc_attention_args, ptc_kv_segment

# Queries of one task: the kernel's own block.
cdef enum:
    QUERY_BLOCK = 16


cdef void attention_heads(
    float *out, int64_t ld_out, const float *q, int64_t ld_q, const ptc_kv_segment *segments,
    int n_segments, int64_t rows, int64_t n_heads, int64_t n_kv_heads, int64_t head_dim,
    int64_t first_position, int64_t context, int threads,
) noexcept nogil:
    """out, q [rows, n_heads * head_dim]; segments point at kv head 0 of their rows.

    Query head h uses kv head h // (n_heads // n_kv_heads).
    """
    cdef int64_t blocks = (rows + QUERY_BLOCK - 1) // QUERY_BLOCK
    cdef int64_t tasks = blocks * n_heads, task
    if threads == 1:
        for task in range(tasks):
            attention_task(
                out, ld_out, q, ld_q, segments, n_segments, rows, n_heads, n_kv_heads, head_dim,
                first_position, context, task)
    else:
        for task in prange(tasks, schedule="static", num_threads=threads):
            attention_task(
                out, ld_out, q, ld_q, segments, n_segments, rows, n_heads, n_kv_heads, head_dim,
                first_position, context, task)


cdef void attention_task(
    float *out, int64_t ld_out, const float *q, int64_t ld_q, const ptc_kv_segment *segments,
    int n_segments, int64_t rows, int64_t n_heads, int64_t n_kv_heads, int64_t head_dim,
    int64_t first_position, int64_t context, int64_t task,
) noexcept nogil:
    cdef ptc_attention_args a
    cdef int64_t head = task % n_heads, block = task // n_heads
    cdef int64_t kv_offset = head // (n_heads // n_kv_heads) * head_dim
    cdef int s
    a.q = q + head * head_dim
    a.ld_q = ld_q
    a.out = out + head * head_dim
    a.ld_out = ld_out
    a.n_segments = n_segments
    for s in range(n_segments):
        a.segments[s] = segments[s]
        a.segments[s].k = segments[s].k + kv_offset
        a.segments[s].v = segments[s].v + kv_offset
    a.head_dim = head_dim
    a.first_position = first_position
    a.context = context
    a.scale = <float>(1.0 / sqrt(<double>head_dim))
    active_kernels().attention(
        &a, block * QUERY_BLOCK, min((block + 1) * QUERY_BLOCK, rows))
