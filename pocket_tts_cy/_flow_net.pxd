from libc.stdint cimport int64_t

from ._arena cimport Arena
from ._linear cimport Linear, WeightStore


cdef struct ResidualBlock:
    const float *norm_weight
    const float *norm_bias
    Linear mlp_in
    Linear mlp_out


cdef class FlowNet:
    cdef readonly int64_t latent_dim, dim, n_blocks
    cdef readonly str kind
    cdef bint timeless, drifting
    cdef WeightStore store
    cdef Linear input_proj
    cdef Linear cond_embed
    cdef Linear modulation      # [3 dim n_blocks + 2 dim, dim]: all blocks, then the final layer
    cdef Linear final_linear
    cdef ResidualBlock *blocks
    cdef dict time_tables       # number of steps -> float32 [steps, dim]

    cdef int64_t reserve_scratch(self, Arena arena, int64_t max_rows) except -1
    cdef const float[:, ::1] times(self, int64_t steps)
    cdef void head(
        self, const float *x_latent, int64_t rows, float *y, float *out, float *modulation,
        float *x, float *normed, float *hidden, int threads) noexcept nogil
    cdef void modulated_norm(
        self, float *out, const float *x, const float *weight, const float *bias,
        const float *modulation, int64_t rows) noexcept nogil
    cdef void sample(
        self, const float *z, const float *noise, float *latent, int64_t rows, const float *times,
        int64_t steps, float *scratch, int threads) noexcept nogil
