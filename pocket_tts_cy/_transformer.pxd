from libc.stdint cimport int64_t

from ._arena cimport Arena
from ._linear cimport Linear, Quantized, WeightStore


cdef struct Layer:
    const float *norm1_weight
    const float *norm1_bias
    const float *norm2_weight
    const float *norm2_bias
    Linear in_proj
    Linear out_proj
    Linear linear1
    Linear linear2
    const float *layer_scale_1
    const float *layer_scale_2

# Keys and values of one stream: an optional read-only prefix (a voice) and rows of its own.
cdef struct KVCache:
    const float **prefix        # per layer [2, prefix_capacity, kv_dim]
    int64_t prefix_rows
    int64_t prefix_capacity
    float *rows                 # [n_layers, 2, capacity, kv_dim]
    int64_t capacity
    int64_t length              # rows of its own
    int64_t position            # absolute position of its row 0

# Scratch of one call of at most max_rows rows.
cdef struct Scratch:
    float *normed               # [rows, d_model]
    float *qkv                  # [rows, q_dim + 2 kv_dim]
    float *attended             # [rows, q_dim]
    float *hidden               # [rows, ff_dim]
    float *cosines              # [rows, head_dim]
    float *sines                # [rows, head_dim]
    Quantized quantized         # rows of the widest input


cdef class Transformer:
    cdef readonly int64_t d_model, n_heads, n_kv_heads, head_dim, q_dim, kv_dim, ff_dim
    cdef readonly int64_t n_layers, context
    cdef Layer *layers
    cdef float *frequencies     # [head_dim / 2]
    cdef WeightStore store      # owns the weights
    cdef bint is_quantized

    cdef int64_t reserve_scratch(self, Arena arena, int64_t max_rows, int64_t *offsets) except -1
    cdef void bind_scratch(
        self, Arena arena, int64_t max_rows, const int64_t *offsets, Scratch *scratch) noexcept
    cdef int64_t widest(self) noexcept
    cdef void rotations(self, int64_t position, int64_t row, Scratch *scratch) noexcept nogil
    cdef void attend(
        self, int64_t n, const KVCache *cache, int64_t added, const Scratch *scratch, int64_t row,
        int64_t rows, int threads) noexcept nogil
    cdef void run(
        self, float *x, int64_t rows, KVCache **caches, int64_t n_caches, Scratch *scratch,
        bint cache_only, int threads) noexcept nogil
