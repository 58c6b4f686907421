from libc.stdint cimport int64_t

from ._arena cimport Arena
from ._linear cimport Epilogue, Linear, Quantized, WeightStore


# A causal convolution over rows [time, channel]: a product over overlapping rows of a buffer laid
# out [halo | frame].
cdef struct Conv:
    Linear weights              # [out, kernel * channels], taps in time order
    int64_t channels
    int64_t kernel
    int64_t dilation
    int64_t halo                # rows carried from call to call
    int64_t rows                # rows of one call
    bint replicate              # the first halo repeats the first row instead of being zero
    int64_t buffer_offset
    int64_t gather_offset       # dilated taps made consecutive; unused without dilation

cdef int conv_pack(
    Conv *conv, WeightStore store, str name, int64_t dilation, bint replicate) except -1
cdef int conv_pack_transposed(Conv *conv, WeightStore store, str name, int64_t stride) except -1
cdef int conv_reserve(Conv *conv, Arena arena, str what, int64_t rows) except -1

cdef float *conv_input(const Conv *conv, Arena arena) noexcept nogil
cdef void conv_reset(const Conv *conv, Arena arena) noexcept nogil
cdef void conv_run(
    const Conv *conv, Arena arena, float *out, const Epilogue *epilogue,
    const Quantized *x_quantized, bint first, int threads) noexcept nogil
cdef void conv_carry(const Conv *conv, Arena arena) noexcept nogil
cdef void activate_rows(
    float *out, const float *x, int64_t n, int activation, int threads) noexcept nogil
