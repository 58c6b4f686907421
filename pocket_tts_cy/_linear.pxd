from libc.stdint cimport int64_t

from ._arena cimport Blocks


# A packed weight matrix [n_out, n_in] with optional bias [n_out].
cdef struct Linear:
    const void *weights
    const float *bias
    int64_t n_in
    int64_t n_out
    bint bf16

# What follows the product: out = final(residual + scale * f(product + bias)).
cdef struct Epilogue:
    int activation
    const float *scale
    const float *residual
    int64_t ld_residual
    int final_activation


cdef class WeightStore:
    cdef object tensors
    cdef readonly bint bf16
    cdef Blocks blocks
    cdef readonly str part

    cdef const float *vector(self, str name) except NULL
    cdef const float *array(self, values) except NULL
    cdef int pack(self, Linear *linear, weights, bias) except -1
    cdef int linear(self, Linear *linear, str name, str bias=*) except -1


cdef void linear_rows(
    const Linear *w, const float *x, int64_t ld_x, int64_t rows, float *out, int64_t ld_out,
    const Epilogue *epilogue, int threads) noexcept nogil
