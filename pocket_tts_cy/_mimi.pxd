from libc.stdint cimport int64_t

from ._conv cimport Conv
from ._linear cimport Linear, WeightStore
from ._transformer cimport Transformer


# One upsampling stage of the SEANet decoder.
cdef struct Stage:
    int64_t ratio
    int64_t channels            # after the transposed convolution
    Conv upsample
    Conv *residual              # [n_residual] kernel-k convolutions to `hidden` channels
    Linear *expand              # [n_residual] kernel-1 convolutions back to `channels`
    int64_t hidden


cdef class MimiDecoder:
    cdef readonly int64_t latent_dim, outer_dim, width, rows_per_frame, samples_per_frame
    cdef readonly int64_t n_stages, n_residual
    cdef WeightStore store
    cdef const float *emb_mean
    cdef const float *emb_std
    cdef Linear quantizer_proj
    cdef const float *upsample_weight   # [2 * rows_per_frame, outer_dim]
    cdef bint has_input_proj, has_output_proj
    cdef Linear input_proj, output_proj
    cdef readonly Transformer transformer
    cdef Conv first_conv
    cdef Stage *stages
    cdef const float *last_weight       # [kernel * channels], one output
    cdef float last_bias
    cdef Conv last_conv
