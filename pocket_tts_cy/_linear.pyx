"""Linear layers: weights packed at load, products spread over threads."""
import numpy as np

from cython.parallel cimport prange
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t

from ._arena cimport Blocks, PackedMatrices
from ._kernels cimport (
    PTC_IDENTITY,
    PTC_PANEL,
    PTC_Q_BLOCK,
    active_kernels,
    ptc_linear_args,
    ptc_pack_panel_bf16,
    ptc_pack_panel_f32,
    ptc_pack_panel_i4,
    ptc_pack_panel_i8,
    ptc_pack_panel_i16,
)

from ._kernels import round_bfloat16, widen_bfloat16

# Rows of one task: small enough that they stay in the second-level cache while the panels of the
# weights pass by, large enough that reading the weights is amortised.
cdef enum:
    ROW_BLOCK = 96
    GEMV_GRAIN = 4


cdef class WeightStore:
    """Turns checked tensors into packed weights that live as long as this object.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        Name without the part's prefix is looked up as ``part + name``.
    kind : Kind
        BF16: keep matrices as bfloat16, rounding those that are not. F32: as float32.
    part : str
        Prefix of every name, such as ``"flow_lm."``.
    packed : PackedMatrices
        Where packed matrices go, or come from.
    prefer_int16 : bool
        Keep matrices as 16-bit integers where their shape allows it.
    """

    def __init__(
        self, tensors, Kind kind, str part, PackedMatrices packed, bint prefer_int16=False,
    ):
        self.tensors = tensors
        self.kind = kind
        self.part = part
        self.blocks = Blocks()
        self.packed = packed
        self.prefer_int16 = prefer_int16

    def report(self):
        """(what, bytes) of the vectors; `packed` reports matrices."""
        return self.blocks.report()

    def has(self, str name):
        """Whether the model has this tensor."""
        return self.part + name in self.tensors

    def values(self, str name):
        """The tensor as a float32 array."""
        return self.tensors[self.part + name].as_float32()

    def matrix(self, str name):
        """The tensor in storage precision: float32, or uint16 holding bfloat16 bits.

        When the packed matrix is there already, only the shape counts: zeros that take no memory.
        """
        tensor = self.tensors[self.part + name]
        if self.packed.filled:
            return np.broadcast_to(np.zeros((), np.uint8), tensor.shape)
        if self.kind == F32:
            return tensor.as_float32()
        if tensor.dtype == "BF16":
            return np.asarray(tensor.data)
        values = np.ascontiguousarray(tensor.as_float32())
        return round_bfloat16(values.reshape(-1)).reshape(values.shape)

    cdef const float *array(self, values) except NULL:
        """A float32 copy of an array."""
        cdef const float[::1] source = np.ascontiguousarray(values, np.float32).reshape(-1)
        cdef float *out = <float *>self.blocks.take(self.part + "vectors", source.shape[0] * 4)
        cdef int64_t i
        for i in range(source.shape[0]):
            out[i] = source[i]
        return out

    cdef const float *vector(self, str name) except NULL:
        """A float32 copy of a tensor, flattened."""
        return self.array(self.values(name))

    cdef int pack(self, Linear *linear, weights, bias, int64_t step=0) except -1:
        """Pack a matrix [n_out, n_in] as `matrix` returns it; bias is an array or None.

        step: floats from one input row to the next, when rows overlap; 0 for n_in.
        """
        cdef int64_t n_out = weights.shape[0], n_in = weights.shape[1]
        cdef int64_t panels = (n_out + PTC_PANEL - 1) // PTC_PANEL, p
        cdef int64_t panel_size = PTC_PANEL * n_in
        cdef const uint16_t[:, ::1] narrow
        cdef const float[:, ::1] wide
        cdef const void *source
        cdef void *out
        linear.n_in = n_in
        linear.n_out = n_out
        linear.kind = self.kind
        linear.scales = NULL
        linear.bias = NULL if bias is None else self.array(bias)
        if self.prefer_int16 and n_in % PTC_Q_BLOCK == 0 and step % PTC_Q_BLOCK == 0:
            return self.pack_int16(linear, weights)
        out = self.packed.take(
            self.part + "matrices", panels * panel_size * (2 if self.kind == BF16 else 4))
        linear.weights = out
        if self.packed.filled:
            return 0
        weights = np.ascontiguousarray(weights)
        if self.kind == BF16:
            narrow = weights
            source = &narrow[0, 0]
            for p in prange(panels, nogil=True, schedule="static"):
                ptc_pack_panel_bf16(
                    <uint16_t *>out + p * panel_size, <const uint16_t *>source, n_out, n_in, p)
        else:
            wide = weights
            source = &wide[0, 0]
            for p in prange(panels, nogil=True, schedule="static"):
                ptc_pack_panel_f32(
                    <float *>out + p * panel_size, <const float *>source, n_out, n_in, p)
        return 0

    cdef int pack_int16(self, Linear *linear, weights) except -1:
        """Pack a matrix [n_out, n_in] as INT16; n_in is a multiple of 64."""
        cdef int64_t n_out = weights.shape[0], n_in = weights.shape[1]
        cdef int64_t panels = (n_out + PTC_PANEL - 1) // PTC_PANEL, p
        cdef const float[:, ::1] view
        cdef const float *source
        cdef int16_t *out
        cdef float *scales
        out = <int16_t *>self.packed.take(
            self.part + "int16 matrices", panels * PTC_PANEL * n_in * 2)
        scales = <float *>self.packed.take(self.part + "int16 scales", panels * PTC_PANEL * 4)
        linear.kind = INT16
        linear.weights = out
        linear.scales = scales
        if self.packed.filled:
            return 0
        if weights.dtype == np.uint16:
            weights = widen_bfloat16(np.ascontiguousarray(weights).reshape(-1)).reshape(
                weights.shape)
        view = np.ascontiguousarray(weights)
        source = &view[0, 0]
        for p in prange(panels, nogil=True, schedule="static"):
            ptc_pack_panel_i16(
                out + p * PTC_PANEL * n_in, scales + p * PTC_PANEL, source, n_out, n_in, p)
        return 0

    cdef int quantize(self, Linear *linear, str name, Kind kind) except -1:
        """Pack the tensor `name` [n_out, n_in], without bias, as INT8 or INT4."""
        cdef const float[:, ::1] view
        cdef const float *source
        cdef int64_t n_out = self.tensors[self.part + name].shape[0]
        cdef int64_t n_in = self.tensors[self.part + name].shape[1]
        cdef int64_t panels = (n_out + PTC_PANEL - 1) // PTC_PANEL, p
        cdef int64_t padded = (n_in + PTC_Q_BLOCK - 1) // PTC_Q_BLOCK * PTC_Q_BLOCK
        cdef int64_t panel_size = padded * PTC_PANEL
        cdef int64_t scales_size = PTC_PANEL
        cdef void *out
        cdef void *scales
        linear.n_in = n_in
        linear.n_out = n_out
        linear.kind = kind
        linear.bias = NULL
        if kind == INT8:
            out = self.packed.take(self.part + "int8 matrices", panels * panel_size)
            scales = self.packed.take(self.part + "int8 scales", panels * scales_size * 4)
        else:
            panel_size //= 2
            scales_size = padded // (PTC_Q_BLOCK // 2) * PTC_PANEL
            out = self.packed.take(self.part + "4-bit matrices", panels * panel_size)
            scales = self.packed.take(self.part + "4-bit scales", panels * scales_size * 2)
        linear.weights = out
        linear.scales = scales
        if self.packed.filled:
            return 0
        view = np.ascontiguousarray(self.values(name))
        source = &view[0, 0]
        if kind == INT8:
            for p in prange(panels, nogil=True, schedule="static"):
                ptc_pack_panel_i8(
                    <int8_t *>out + p * panel_size, <float *>scales + p * scales_size, source,
                    n_out, n_in, p)
        else:
            for p in prange(panels, nogil=True, schedule="static"):
                ptc_pack_panel_i4(
                    <uint8_t *>out + p * panel_size, <uint16_t *>scales + p * scales_size, source,
                    n_out, n_in, p)
        return 0

    cdef int linear(self, Linear *linear, str name, str bias=None) except -1:
        """Pack the tensor `name` [n_out, n_in] with the bias tensor of that name, if any."""
        return self.pack(
            linear, self.matrix(name), None if bias is None else self.values(bias))


def widen(tensor, rows):
    """float32 copies of the given rows of a tensor [n, width] that stays in its file."""
    picked = np.ascontiguousarray(tensor.data[rows])
    if tensor.dtype == "BF16":
        return widen_bfloat16(picked.reshape(-1)).reshape(picked.shape)
    return picked.astype(np.float32)


cdef int64_t quantized_blocks(int64_t n_in) noexcept nogil:
    return (n_in + PTC_Q_BLOCK - 1) // PTC_Q_BLOCK


cdef int64_t quantized_bytes(int64_t rows, int64_t n_in) noexcept nogil:
    """Memory that `rows` quantised rows of n_in inputs take."""
    return rows * quantized_blocks(n_in) * (PTC_Q_BLOCK + 3 * 4)


cdef void bind_quantized(Quantized *x, void *memory, int64_t rows, int64_t n_in) noexcept nogil:
    """Lay the parts out in `quantized_bytes(rows, n_in)` bytes."""
    cdef int64_t blocks = quantized_blocks(n_in)
    x.scales = <float *>memory
    x.sums = <int32_t *>(x.scales + rows * blocks)
    x.q = <int8_t *>(x.sums + 2 * rows * blocks)


cdef void linear_rows(
    const Linear *w, const float *x, int64_t ld_x, int64_t rows, float *out, int64_t ld_out,
    const Epilogue *epilogue, const Quantized *x_quantized, int threads,
) noexcept nogil:
    """out [rows, n_out] = epilogue(x [rows, n_in] W^T); see include/ptc/linear.h.

    x_quantized: where the rows go when the matrix is INT8, INT4 or INT16; otherwise unused.
    """
    cdef ptc_linear_args a
    cdef int64_t panels = (w.n_out + PTC_PANEL - 1) // PTC_PANEL
    cdef int64_t row_blocks = (rows + ROW_BLOCK - 1) // ROW_BLOCK
    cdef int64_t groups, tasks, task
    a.x = x
    a.ld_x = ld_x
    a.weights = w.weights
    a.weight_scales = w.scales
    a.n_in = w.n_in
    a.n_out = w.n_out
    a.out = out
    a.ld_out = ld_out
    a.bias = w.bias
    a.scale = NULL
    a.ld_scale = 0
    a.residual = NULL
    a.ld_residual = 0
    a.activation = PTC_IDENTITY
    a.final_activation = PTC_IDENTITY
    if epilogue != NULL:
        a.activation = epilogue.activation
        a.scale = epilogue.scale
        a.ld_scale = epilogue.ld_scale
        a.residual = epilogue.residual
        a.ld_residual = epilogue.ld_residual
        a.final_activation = epilogue.final_activation
    if w.kind == INT8 or w.kind == INT4:
        active_kernels().quantize_rows(
            x_quantized.q, x_quantized.scales, x_quantized.sums, x, ld_x, rows, w.n_in)
        a.x_q = x_quantized.q
        a.x_scales = x_quantized.scales
        a.x_sums = x_quantized.sums
    elif w.kind == INT16:
        active_kernels().quantize_i16(
            x_quantized.q16, x_quantized.scales, x, (rows - 1) * ld_x + w.n_in)
        a.x_q16 = x_quantized.q16
        a.x_scales = x_quantized.scales
    # Panels are shared out only as far as rows do not already occupy the team.
    groups = 1 if row_blocks >= threads else (threads + row_blocks - 1) // row_blocks
    groups = min(groups, (panels + GEMV_GRAIN - 1) // GEMV_GRAIN)
    tasks = row_blocks * groups
    if threads == 1 or tasks == 1:
        for task in range(tasks):
            linear_task(w, &a, rows, row_blocks, panels, groups, task)
    else:
        for task in prange(tasks, schedule="static", num_threads=threads):
            linear_task(w, &a, rows, row_blocks, panels, groups, task)


cdef void linear_task(
    const Linear *w, const ptc_linear_args *a, int64_t rows, int64_t row_blocks, int64_t panels,
    int64_t groups, int64_t task,
) noexcept nogil:
    """One block of rows by one group of panels; groups start at multiples of the GEMV's width."""
    cdef int64_t block = task // groups, group = task % groups
    cdef int64_t row_begin = block * rows // row_blocks
    cdef int64_t row_end = (block + 1) * rows // row_blocks
    cdef int64_t grains = (panels + GEMV_GRAIN - 1) // GEMV_GRAIN
    cdef int64_t panel_begin = group * grains // groups * GEMV_GRAIN
    cdef int64_t panel_end = min((group + 1) * grains // groups * GEMV_GRAIN, panels)
    if w.kind == BF16:
        active_kernels().linear_bf16(a, row_begin, row_end, panel_begin, panel_end)
    elif w.kind == F32:
        active_kernels().linear_f32(a, row_begin, row_end, panel_begin, panel_end)
    elif w.kind == INT16:
        active_kernels().linear_i16(a, row_begin, row_end, panel_begin, panel_end)
    elif w.kind == INT8:
        active_kernels().linear_i8(a, row_begin, row_end, panel_begin, panel_end)
    else:
        active_kernels().linear_i4(a, row_begin, row_end, panel_begin, panel_end)
