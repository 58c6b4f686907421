"""The kernel table: chosen once at import, and each kernel callable from Python for tests.

The test entry points take typed memoryviews and the name of an instruction set, check every shape
and call one kernel on one thread.
"""
import os

import numpy as np

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint64_t


cdef extern from "ptc/kernels.h" nogil:
    const ptc_kernels *ptc_kernels_built(int index)
    int ptc_kernels_supported(const ptc_kernels *table)
    uint64_t ptc_checksum(const unsigned char *p, size_t n)


cdef const ptc_kernels *_active = NULL


cdef const ptc_kernels *active_kernels() noexcept nogil:
    return _active


cdef const ptc_kernels *table_named(str name) except NULL:
    cdef int index = 0
    cdef const ptc_kernels *table = ptc_kernels_built(0)
    while table != NULL:
        if table.name.decode() == name:
            if not ptc_kernels_supported(table):
                raise ImportError(
                    f"this CPU cannot run the instruction set {name!r}; it can run: "
                    f"{', '.join(isa_available())}"
                )
            return table
        index += 1
        table = ptc_kernels_built(index)
    raise ImportError(
        f"unknown instruction set {name!r} (POCKET_TTS_CY_ISA); this build and CPU offer: "
        f"{', '.join(isa_available())}"
    )


def isa_built():
    """Names of the instruction sets in this build, best first."""
    names = []
    cdef int index = 0
    while ptc_kernels_built(index) != NULL:
        names.append(ptc_kernels_built(index).name.decode())
        index += 1
    return names


def isa_available():
    """Names of the instruction sets that this build has and this CPU can run, best first."""
    names = []
    cdef int index = 0
    while ptc_kernels_built(index) != NULL:
        if ptc_kernels_supported(ptc_kernels_built(index)):
            names.append(ptc_kernels_built(index).name.decode())
        index += 1
    return names


def isa_active():
    """Name of the instruction set in use."""
    return _active.name.decode()


_active = table_named(os.environ.get("POCKET_TTS_CY_ISA") or isa_available()[0])


ACTIVATIONS = {
    "identity": PTC_IDENTITY, "gelu_tanh": PTC_GELU_TANH, "silu": PTC_SILU, "elu": PTC_ELU,
}


def _require(condition, message):
    if not condition:
        raise ValueError(message)


cdef object bind_product(
    ptc_linear_args *a, const float[:, :] x, int64_t n_out, int64_t n_in, bias, scale, residual,
    str activation, str final_activation,
):
    """Fill `a` but for weights and quantised rows; return the array [rows, n_out] it writes to.

    `a` points into the arrays given, which must outlive it.
    """
    _require(x.shape[1] == n_in, "x and weights differ in n_in")
    out = np.empty((x.shape[0], n_out), np.float32)
    cdef float[:, ::1] out_view = out
    cdef const float[::1] vector
    cdef const float[:, ::1] residual_view
    a.x = &x[0, 0]
    a.ld_x = x.strides[0] // 4
    a.n_in = n_in
    a.n_out = n_out
    a.out = &out_view[0, 0]
    a.ld_out = n_out
    a.bias = a.scale = a.residual = NULL
    a.ld_residual = n_out
    a.ld_scale = 0
    a.activation = ACTIVATIONS[activation]
    a.final_activation = ACTIVATIONS[final_activation]
    if bias is not None:
        vector = bias
        _require(vector.shape[0] == n_out, "bias has the wrong size")
        a.bias = &vector[0]
    if scale is not None:
        vector = scale
        _require(vector.shape[0] == n_out, "scale has the wrong size")
        a.scale = &vector[0]
    if residual is not None:
        residual_view = residual
        _require(residual.shape == out.shape, "residual has the wrong shape")
        a.residual = &residual_view[0, 0]
    return out


def linear(
    str isa, const float[:, :] x, weights, *, bias=None, scale=None, residual=None,
    str activation="identity", str final_activation="identity",
):
    """Call the linear kernel: see ``include/ptc/linear.h``.

    Parameters
    ----------
    isa : str
        Instruction set.
    x : float32 [rows, n_in]
        Rows may overlap when made with ``numpy.lib.stride_tricks``; the last axis is contiguous.
    weights : float32 or uint16 (bfloat16 bits) [n_out, n_in]
    bias, scale : float32 [n_out], optional
    residual : float32 [rows, n_out], optional

    Returns
    -------
    float32 [rows, n_out]
    """
    cdef const ptc_kernels *table = table_named(isa)
    cdef int64_t n_out = weights.shape[0], n_in = weights.shape[1]
    cdef int64_t panels = (n_out + PTC_PANEL - 1) // PTC_PANEL, p
    cdef const float[:, ::1] w_f32
    cdef const uint16_t[:, ::1] w_bf16
    cdef float[::1] packed_f32
    cdef uint16_t[::1] packed_bf16
    cdef ptc_linear_args a
    out = bind_product(&a, x, n_out, n_in, bias, scale, residual, activation, final_activation)
    if weights.dtype == np.uint16:
        w_bf16 = weights
        packed_bf16 = np.empty(panels * PTC_PANEL * n_in, np.uint16)
        for p in range(panels):
            ptc_pack_panel_bf16(
                &packed_bf16[p * PTC_PANEL * n_in], &w_bf16[0, 0], n_out, n_in, p)
        a.weights = &packed_bf16[0]
        table.linear_bf16(&a, 0, x.shape[0], 0, panels)
    else:
        w_f32 = weights
        packed_f32 = np.empty(panels * PTC_PANEL * n_in, np.float32)
        for p in range(panels):
            ptc_pack_panel_f32(&packed_f32[p * PTC_PANEL * n_in], &w_f32[0, 0], n_out, n_in, p)
        a.weights = &packed_f32[0]
        table.linear_f32(&a, 0, x.shape[0], 0, panels)
    return out


def quantize_rows(str isa, const float[:, :] x):
    """Rows of x [rows, n_in] as 8-bit integers; see ``include/ptc/quant.h``.

    Returns
    -------
    q : int8 [rows, padded]
        `padded` is n_in rounded up to a multiple of 64.
    scales : float32 [rows, padded / 64]
    sums : int32 [rows, padded / 32]
        Sums of 32 values of `q`.
    """
    cdef int64_t rows = x.shape[0], n_in = x.shape[1]
    cdef int64_t blocks = (n_in + PTC_Q_BLOCK - 1) // PTC_Q_BLOCK
    q = np.empty((rows, blocks * PTC_Q_BLOCK), np.int8)
    scales = np.empty((rows, blocks), np.float32)
    sums = np.empty((rows, 2 * blocks), np.int32)
    cdef int8_t[:, ::1] q_view = q
    cdef float[:, ::1] scales_view = scales
    cdef int32_t[:, ::1] sums_view = sums
    table_named(isa).quantize_rows(
        &q_view[0, 0], &scales_view[0, 0], &sums_view[0, 0], &x[0, 0], x.strides[0] // 4, rows,
        n_in)
    return q, scales, sums


def quantize_int16(str isa, const float[::1] x):
    """x [n] as 16-bit integers, n a multiple of 64; see ``include/ptc/quant16.h``.

    Returns
    -------
    q : int16 [n]
    scales : float32 [n / 64]
    """
    _require(x.shape[0] % PTC_Q_BLOCK == 0, f"the size must be a multiple of {PTC_Q_BLOCK}")
    q = np.empty(x.shape[0], np.int16)
    scales = np.empty(x.shape[0] // PTC_Q_BLOCK, np.float32)
    cdef int16_t[::1] q_view = q
    cdef float[::1] scales_view = scales
    table_named(isa).quantize_i16(&q_view[0], &scales_view[0], &x[0], x.shape[0])
    return q, scales


def linear_quantized(
    str isa, const float[:, :] x, const float[:, ::1] weights, str kind, *, bias=None, scale=None,
    residual=None, str activation="identity", str final_activation="identity",
):
    """Quantise x and weights and multiply them; see ``quant.h`` and ``quant16.h``.

    Parameters
    ----------
    isa : str
        Instruction set.
    x : float32 [rows, n_in]
        Rows may overlap. For "int16" n_in and the distance of rows are multiples of 64.
    weights : float32 [n_out, n_in]
    kind : {"int8", "int4", "int16"}
        How weights are kept.
    bias, scale, residual, activation, final_activation
        As in `linear`.

    Returns
    -------
    float32 [rows, n_out]
    """
    cdef const ptc_kernels *table = table_named(isa)
    cdef int64_t rows = x.shape[0], n_out = weights.shape[0], n_in = weights.shape[1]
    cdef int64_t panels = (n_out + PTC_PANEL - 1) // PTC_PANEL, p
    cdef int64_t blocks = (n_in + PTC_Q_BLOCK - 1) // PTC_Q_BLOCK
    cdef int64_t panel_size = blocks * PTC_Q_BLOCK * PTC_PANEL
    cdef int8_t[:, ::1] q
    cdef int16_t[::1] q16
    cdef float[:, ::1] x_scales
    cdef float[::1] x_scales16
    cdef int32_t[:, ::1] sums
    cdef int8_t[::1] packed_i8
    cdef uint8_t[::1] packed_i4
    cdef int16_t[::1] packed_i16
    cdef float[::1] w_scales
    cdef uint16_t[::1] w_scales_bf16
    cdef ptc_linear_args a
    _require(kind in ("int8", "int4", "int16"), f"unknown kind {kind!r}")
    out = bind_product(&a, x, n_out, n_in, bias, scale, residual, activation, final_activation)
    if kind == "int16":
        _require(
            n_in % PTC_Q_BLOCK == 0 and (rows == 1 or a.ld_x % PTC_Q_BLOCK == 0),
            f"n_in and the distance of rows must be multiples of {PTC_Q_BLOCK}")
        memory = np.lib.stride_tricks.as_strided(
            np.asarray(x), ((rows - 1) * a.ld_x + n_in,), (4,), writeable=False)
        q16, x_scales16 = quantize_int16(isa, memory)
        packed_i16 = np.empty(panels * panel_size, np.int16)
        w_scales = np.empty(panels * PTC_PANEL, np.float32)
        for p in range(panels):
            ptc_pack_panel_i16(
                &packed_i16[p * panel_size], &w_scales[p * PTC_PANEL], &weights[0, 0], n_out,
                n_in, p)
        a.x_q16 = &q16[0]
        a.x_scales = &x_scales16[0]
        a.weights = &packed_i16[0]
        a.weight_scales = &w_scales[0]
        table.linear_i16(&a, 0, rows, 0, panels)
        return out
    q, x_scales, sums = quantize_rows(isa, x)
    a.x_q = &q[0, 0]
    a.x_scales = &x_scales[0, 0]
    a.x_sums = &sums[0, 0]
    if kind == "int8":
        packed_i8 = np.empty(panels * panel_size, np.int8)
        w_scales = np.empty(panels * PTC_PANEL, np.float32)
        for p in range(panels):
            ptc_pack_panel_i8(
                &packed_i8[p * panel_size], &w_scales[p * PTC_PANEL], &weights[0, 0], n_out, n_in,
                p)
        a.weights = &packed_i8[0]
        a.weight_scales = &w_scales[0]
        table.linear_i8(&a, 0, rows, 0, panels)
    else:
        packed_i4 = np.empty(panels * panel_size // 2, np.uint8)
        w_scales_bf16 = np.empty(panels * 2 * blocks * PTC_PANEL, np.uint16)
        for p in range(panels):
            ptc_pack_panel_i4(
                &packed_i4[p * panel_size // 2], &w_scales_bf16[p * 2 * blocks * PTC_PANEL],
                &weights[0, 0], n_out, n_in, p)
        a.weights = &packed_i4[0]
        a.weight_scales = &w_scales_bf16[0]
        table.linear_i4(&a, 0, rows, 0, panels)
    return out


def dot_rows(str isa, const float[:, :] x, const float[::1] w, float bias):
    """Dot product of each row of x [rows, n] with w [n], plus bias: float32 [rows]."""
    _require(x.shape[1] == w.shape[0], "x and w differ in size")
    out = np.empty(x.shape[0], np.float32)
    cdef float[::1] view = out
    table_named(isa).dot_rows(
        &view[0], 1, &x[0, 0], x.strides[0] // 4, &w[0], bias, x.shape[0], x.shape[1])
    return out


def layer_norm(
    str isa, const float[:, ::1] x, float eps, weight=None, bias=None, scale=None, shift=None,
):
    """Layer normalisation of the rows of x [rows, n]; see ``include/ptc/norm.h``."""
    cdef int64_t n = x.shape[1]
    cdef const float[::1] vector
    cdef const float *pointers[4]
    for i, values in enumerate((weight, bias, scale, shift)):
        pointers[i] = NULL
        if values is not None:
            vector = values
            _require(vector.shape[0] == n, "a vector has the wrong size")
            pointers[i] = &vector[0]
    out = np.empty((x.shape[0], n), np.float32)
    cdef float[:, ::1] view = out
    table_named(isa).layer_norm(
        &view[0, 0], n, &x[0, 0], n, pointers[0], pointers[1], pointers[2], pointers[3],
        x.shape[0], n, eps)
    return out


def activate(str isa, const float[::1] x, str activation):
    """Activation function of each element of x [n]."""
    out = np.empty(x.shape[0], np.float32)
    cdef float[::1] view = out
    table_named(isa).activation(&view[0], &x[0], x.shape[0], ACTIVATIONS[activation])
    return out


def rope(str isa, const float[:, ::1] x, const float[::1] cosines, const float[::1] sines):
    """Rotary embedding of x [n_heads, head_dim]; see ``include/ptc/rope.h``."""
    _require(
        cosines.shape[0] == x.shape[1] and sines.shape[0] == x.shape[1], "tables: [head_dim]")
    out = np.empty((x.shape[0], x.shape[1]), np.float32)
    cdef float[:, ::1] view = out
    table_named(isa).rope(
        &view[0, 0], &x[0, 0], &cosines[0], &sines[0], x.shape[0], x.shape[1])
    return out


def attention(
    str isa, const float[:, ::1] q, segments, int64_t first_position, float scale, context=None,
):
    """Attention of one head.

    Parameters
    ----------
    q : float32 [rows, head_dim]
        Query row r stands at position ``first_position + r``.
    segments : list of one or two (k, v) pairs, float32 [n, head_dim]
        Keys and values at positions 0, 1, ... in the order given.
    context : int, optional
        Number of positions that a query can see, itself included.
    """
    cdef const ptc_kernels *table = table_named(isa)
    cdef ptc_attention_args a
    cdef const float[:, ::1] k, v
    cdef int64_t position = 0
    _require(1 <= len(segments) <= 2, "one or two segments")
    _require(q.shape[1] <= PTC_MAX_HEAD_DIM, "head_dim is too large")
    out = np.empty((q.shape[0], q.shape[1]), np.float32)
    cdef float[:, ::1] view = out
    a.q = &q[0, 0]
    a.out = &view[0, 0]
    a.ld_q = a.ld_out = a.head_dim = q.shape[1]
    a.n_segments = len(segments)
    for i in range(len(segments)):
        k, v = segments[i]
        _require(k.shape[1] == q.shape[1] and v.shape[1] == q.shape[1], "head_dim differs")
        a.segments[i].k = &k[0, 0]
        a.segments[i].v = &v[0, 0]
        a.segments[i].ld = k.shape[1]
        a.segments[i].n_rows = k.shape[0]
        a.segments[i].position = position
        position += k.shape[0]
    a.first_position = first_position
    a.context = PTC_NO_CONTEXT if context is None else <int64_t>context
    a.scale = scale
    table.attention(&a, 0, q.shape[0])
    return out


def upsample_depthwise(str isa, const float[:, ::1] x, const float[:, ::1] w):
    """Depthwise transposed convolution: x [1 + rows, channels] from row -1, w [2 stride, channels].

    Returns float32 [rows * stride, channels].
    """
    cdef int64_t stride = w.shape[0] // 2, rows = x.shape[0] - 1
    _require(w.shape[1] == x.shape[1], "channels differ")
    out = np.empty((rows * stride, x.shape[1]), np.float32)
    cdef float[:, ::1] view = out
    table_named(isa).upsample_depthwise(
        &view[0, 0], &x[1, 0], &w[0, 0], rows, x.shape[1], stride)
    return out


def pcm16(str isa, const float[::1] x):
    """Samples in [-1, 1] as 16-bit integers: clamped, times 32767, truncated; NaN gives 0."""
    out = np.empty(x.shape[0], np.int16)
    cdef int16_t[::1] view = out
    table_named(isa).pcm16(&view[0], &x[0], x.shape[0])
    return out


def round_bfloat16(const float[::1] x):
    """Nearest bfloat16 (ties to even) of each element of x [n], as its 16 bits."""
    out = np.empty(x.shape[0], np.uint16)
    cdef uint16_t[::1] view = out
    if x.shape[0]:
        ptc_round_bf16(&view[0], &x[0], x.shape[0])
    return out


def widen_bfloat16(const uint16_t[::1] x):
    """float32 values of bfloat16 bits x [n]; exact."""
    out = np.empty(x.shape[0], np.float32)
    cdef float[::1] view = out
    if x.shape[0]:
        ptc_widen_bf16(&view[0], &x[0], x.shape[0])
    return out


def checksum(const unsigned char[::1] data, uint64_t start=0):
    """64-bit checksum of bytes; any change of a single 8-byte word changes it. Not cryptographic.

    Parameters
    ----------
    data : buffer
    start : int
        Checksum of what came before.
    """
    cdef uint64_t result = 0
    cdef const unsigned char *p = &data[0] if data.shape[0] else NULL
    cdef size_t n = data.shape[0]
    with nogil:
        result = ptc_checksum(p, n)
    return (start * 0x9E3779B97F4A7C15 + result) & 0xFFFFFFFFFFFFFFFF
