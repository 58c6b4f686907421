"""Streaming causal convolutions as matrix products.

Rows are [time, channel], so `kernel` consecutive rows are kernel * channels consecutive floats and
a stride-1 convolution is a product whose input rows overlap. A transposed convolution with kernel
2 s and stride s is one too: s output rows depend on two input rows,

    out[t s + j] = W[:, :, j] x[t] + W[:, :, s + j] x[t - 1] + bias,

which is a kernel-2 convolution with s * channels outputs. No overlap is added and nothing but one
input row is carried.
"""
import numpy as np

from cython.parallel cimport prange
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memmove, memset

from ._arena cimport Arena
from ._kernels cimport active_kernels
from ._linear cimport Epilogue, Quantized, WeightStore, linear_rows


cdef int conv_pack(
    Conv *conv, WeightStore store, str name, int64_t dilation, bint replicate,
) except -1:
    """Convolution `name` with weight [out, in, kernel] and bias [out]."""
    weight = store.matrix(name + ".weight")
    conv.channels = weight.shape[1]
    conv.kernel = weight.shape[2]
    conv.dilation = dilation
    conv.halo = (conv.kernel - 1) * dilation
    conv.replicate = replicate
    store.pack(
        &conv.weights, weight.transpose(0, 2, 1).reshape(weight.shape[0], -1),
        store.values(name + ".bias"), conv.channels)
    return 0


cdef int conv_pack_transposed(Conv *conv, WeightStore store, str name, int64_t stride) except -1:
    """Transposed convolution `name` with weight [in, out, 2 stride] and bias [out].

    An output row of the product is `stride` rows of [out] channels.
    """
    weight = store.matrix(name + ".weight")
    n_in, n_out, kernel = weight.shape
    if kernel != 2 * stride:
        raise ValueError(f"{name}: kernel {kernel} is not twice the stride {stride}")
    conv.channels = n_in
    conv.kernel = 2
    conv.dilation = 1
    conv.halo = 1
    conv.replicate = False
    # [in, out, tap, j] -> [j, out, tap, in]; tap 1 (the later half) meets the earlier row.
    taps = weight.reshape(n_in, n_out, 2, stride)[:, :, ::-1, :].transpose(3, 1, 2, 0)
    store.pack(
        &conv.weights, taps.reshape(stride * n_out, 2 * n_in),
        np.tile(store.values(name + ".bias"), stride), n_in)
    return 0


cdef int conv_reserve(Conv *conv, Arena arena, str what, int64_t rows) except -1:
    """Plan the buffer for calls of exactly `rows` rows."""
    conv.rows = rows
    conv.buffer_offset = arena.reserve(what, (conv.halo + rows) * conv.channels * 4)
    conv.gather_offset = 0
    if conv.dilation > 1:
        conv.gather_offset = arena.reserve(what, rows * conv.kernel * conv.channels * 4)
    return 0


cdef float *conv_input(const Conv *conv, Arena arena) noexcept nogil:
    """Where the caller puts the `rows` new rows [rows, channels]."""
    return <float *>arena.at(conv.buffer_offset) + conv.halo * conv.channels


cdef void conv_reset(const Conv *conv, Arena arena) noexcept nogil:
    """Forget the past: a halo of zeros."""
    memset(arena.at(conv.buffer_offset), 0, conv.halo * conv.channels * sizeof(float))


cdef void conv_run(
    const Conv *conv, Arena arena, float *out, const Epilogue *epilogue,
    const Quantized *x_quantized, bint first, int threads,
) noexcept nogil:
    """out [rows, n_out] from the rows in the buffer; `first`: the first call since the reset."""
    cdef float *buffer = <float *>arena.at(conv.buffer_offset)
    cdef float *gathered
    cdef int64_t c = conv.channels, t, tap
    if first and conv.replicate:
        for t in range(conv.halo):
            memcpy(buffer + t * c, buffer + conv.halo * c, c * sizeof(float))
    if conv.dilation == 1:
        linear_rows(
            &conv.weights, buffer, c, conv.rows, out, conv.weights.n_out, epilogue, x_quantized,
            threads)
        return
    gathered = <float *>arena.at(conv.gather_offset)
    for t in range(conv.rows):
        for tap in range(conv.kernel):
            memcpy(
                gathered + (t * conv.kernel + tap) * c, buffer + (t + tap * conv.dilation) * c,
                c * sizeof(float))
    linear_rows(
        &conv.weights, gathered, conv.kernel * c, conv.rows, out, conv.weights.n_out, epilogue,
        x_quantized, threads)


cdef void conv_carry(const Conv *conv, Arena arena) noexcept nogil:
    """Move the last rows to the front, where the next call finds them."""
    cdef float *buffer = <float *>arena.at(conv.buffer_offset)
    memmove(
        buffer, buffer + conv.rows * conv.channels, conv.halo * conv.channels * sizeof(float))


cdef void activate_rows(
    float *out, const float *x, int64_t n, int activation, int threads,
) noexcept nogil:
    """out [n] = f(x [n]) in pieces of 4096 floats (16 KB, half a first-level cache)."""
    cdef int64_t grain = 4096
    cdef int64_t tasks = (n + grain - 1) // grain, task
    if threads == 1 or tasks == 1:
        active_kernels().activation(out, x, n, activation)
    else:
        for task in prange(tasks, schedule="static", num_threads=threads):
            active_kernels().activation(
                out + task * grain, x + task * grain, min(grain, n - task * grain), activation)
