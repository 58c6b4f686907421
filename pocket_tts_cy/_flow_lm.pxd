from libc.stdint cimport int64_t

from ._flow_net cimport FlowNet
from ._linear cimport Linear, WeightStore
from ._transformer cimport Transformer


cdef class FlowLM:
    cdef readonly int64_t latent_dim, d_model, z_dim
    cdef WeightStore store
    cdef readonly Transformer transformer
    cdef readonly FlowNet flow_net
    cdef object text_table      # Tensor [n_bins + 1, d_model or rank], stays in its file
    cdef bint low_rank, project_z
    cdef Linear text_proj, input_linear, z_proj
    cdef const float *bos_emb
    cdef const float *out_norm_weight
    cdef const float *out_norm_bias
    cdef const float *eos_weight
    cdef float eos_bias
