from libc.stdint cimport int8_t, int16_t, int32_t, int64_t

from ._arena cimport Blocks, PackedMatrices


# How a matrix is kept; see include/ptc/linear.h, quant.h and quant16.h.
cdef enum Kind:
    F32
    BF16
    INT8
    INT4
    INT16

# A packed weight matrix [n_out, n_in] with optional bias [n_out].
cdef struct Linear:
    const void *weights
    const void *scales          # INT8, INT4, INT16
    const float *bias
    int64_t n_in
    int64_t n_out
    Kind kind

# Where quantised activations go.
cdef struct Quantized:
    int8_t *q                   # INT8, INT4
    int16_t *q16                # INT16
    float *scales
    int32_t *sums

# What follows the product: out = final(residual + scale * f(product + bias)).
cdef struct Epilogue:
    int activation
    const float *scale
    int64_t ld_scale            # 0: the same for all rows
    const float *residual
    int64_t ld_residual
    int final_activation


cdef class WeightStore:
    cdef object tensors
    cdef readonly Kind kind     # of matrices for which nothing else is asked
    cdef readonly bint prefer_int16
    cdef Blocks blocks
    cdef PackedMatrices packed
    cdef readonly str part

    cdef const float *vector(self, str name) except NULL
    cdef const float *array(self, values) except NULL
    cdef int pack(self, Linear *linear, weights, bias, int64_t step=*) except -1
    cdef int pack_int16(self, Linear *linear, weights) except -1
    cdef int quantize(self, Linear *linear, str name, Kind kind) except -1
    cdef int linear(self, Linear *linear, str name, str bias=*) except -1


cdef int64_t quantized_bytes(int64_t rows, int64_t n_in) noexcept nogil
cdef void bind_quantized(Quantized *x, void *memory, int64_t rows, int64_t n_in) noexcept nogil

cdef void linear_rows(
    const Linear *w, const float *x, int64_t ld_x, int64_t rows, float *out, int64_t ld_out,
    const Epilogue *epilogue, const Quantized *x_quantized, int threads) noexcept nogil
