"""Pre-norm transformer over a key/value cache: FlowLM's backbone and Mimi's decoder transformer.

Source: Vaswani et al. 2017; pre-norm (Xiong et al. 2020), rotary positions (Su et al. 2021),
grouped-query attention (Ainslie et al. 2023), layer scale (Touvron et al. 2021).
"""
import numpy as np

from libc.math cimport cos, sin
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from ._arena cimport Arena
from ._attention cimport attention_heads
from ._kernels cimport (
    PTC_GELU_TANH,
    PTC_IDENTITY,
    PTC_MAX_HEAD_DIM,
    PTC_NO_CONTEXT,
    active_kernels,
    ptc_kv_segment,
)
from ._linear cimport (
    INT4,
    INT8,
    Epilogue,
    Kind,
    WeightStore,
    bind_quantized,
    linear_rows,
    quantized_bytes,
)

cdef float NORM_EPS = 1e-5
cdef enum:
    N_SCRATCH = 7


cdef class Transformer:
    """Weights of a stack of layers.

    Parameters
    ----------
    store : WeightStore
        Where the tensors come from.
    prefix : str
        Name of the stack within the store's part, such as ``"transformer."``.
    shape : dict
        ``d_model, n_heads, n_kv_heads, head_dim, ff_dim, n_layers, max_period, context`` (context
        None: the whole past).
    kind : Kind
        How the matrices are kept; F32 and BF16 must agree with the store.
    """

    def __cinit__(self):
        self.layers = NULL
        self.frequencies = NULL

    def __init__(self, WeightStore store, str prefix, dict shape, Kind kind):
        cdef Layer *layer
        cdef int64_t i
        cdef const float[::1] frequencies
        self.store = store
        self.is_quantized = kind == INT8 or kind == INT4
        self.d_model = shape["d_model"]
        self.n_heads = shape["n_heads"]
        self.n_kv_heads = shape["n_kv_heads"]
        self.head_dim = shape["head_dim"]
        self.ff_dim = shape["ff_dim"]
        self.n_layers = shape["n_layers"]
        self.q_dim = self.n_heads * self.head_dim
        self.kv_dim = self.n_kv_heads * self.head_dim
        self.context = PTC_NO_CONTEXT if shape["context"] is None else <int64_t>shape["context"]
        if self.head_dim > PTC_MAX_HEAD_DIM:
            raise ValueError(
                f"{store.part}{prefix}: head dimension {self.head_dim} is over the engine's "
                f"limit of {PTC_MAX_HEAD_DIM}")
        self.layers = <Layer *>calloc(self.n_layers, sizeof(Layer))
        self.frequencies = <float *>calloc(self.head_dim // 2 + 1, sizeof(float))
        if self.layers == NULL or self.frequencies == NULL:
            raise MemoryError("no memory for a transformer's layer table")
        for i in range(self.n_layers):
            name = f"{prefix}layers.{i}."
            layer = &self.layers[i]
            layer.norm1_weight = store.vector(name + "norm1.weight")
            layer.norm1_bias = store.vector(name + "norm1.bias")
            layer.norm2_weight = store.vector(name + "norm2.weight")
            layer.norm2_bias = store.vector(name + "norm2.bias")
            if self.is_quantized:
                store.quantize(&layer.in_proj, name + "self_attn.in_proj.weight", kind)
                store.quantize(&layer.out_proj, name + "self_attn.out_proj.weight", kind)
                store.quantize(&layer.linear1, name + "linear1.weight", kind)
                store.quantize(&layer.linear2, name + "linear2.weight", kind)
            else:
                store.linear(&layer.in_proj, name + "self_attn.in_proj.weight")
                store.linear(&layer.out_proj, name + "self_attn.out_proj.weight")
                store.linear(&layer.linear1, name + "linear1.weight")
                store.linear(&layer.linear2, name + "linear2.weight")
            if store.has(name + "layer_scale_1.scale"):
                layer.layer_scale_1 = store.vector(name + "layer_scale_1.scale")
                layer.layer_scale_2 = store.vector(name + "layer_scale_2.scale")
        # The reference computes frequencies and angles in float32, and at position 1000 the
        # rounding of an angle is visible: round where it rounds.
        exponents = np.arange(self.head_dim // 2, dtype=np.float32) * np.float32(
            -np.log(shape["max_period"]) * 2 / self.head_dim)
        frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
        for i in range(frequencies.shape[0]):
            self.frequencies[i] = frequencies[i]

    def __dealloc__(self):
        free(self.layers)
        free(self.frequencies)

    cdef int64_t reserve_scratch(self, Arena arena, int64_t max_rows, int64_t *offsets) except -1:
        """Plan the scratch for calls of up to max_rows rows; offsets [N_SCRATCH]."""
        cdef int64_t widths[N_SCRATCH - 1]
        cdef int i
        widths[:] = [
            self.d_model, self.q_dim + 2 * self.kv_dim, self.q_dim, self.ff_dim, self.head_dim,
            self.head_dim,
        ]
        what = self.store.part + "transformer scratch"
        for i in range(N_SCRATCH - 1):
            offsets[i] = arena.reserve(what, max_rows * widths[i] * 4)
        offsets[N_SCRATCH - 1] = arena.reserve(
            what, quantized_bytes(max_rows, self.widest()) if self.is_quantized else 0)
        return 0

    cdef void bind_scratch(
        self, Arena arena, int64_t max_rows, const int64_t *offsets, Scratch *scratch,
    ) noexcept:
        scratch.normed = <float *>arena.at(offsets[0])
        scratch.qkv = <float *>arena.at(offsets[1])
        scratch.attended = <float *>arena.at(offsets[2])
        scratch.hidden = <float *>arena.at(offsets[3])
        scratch.cosines = <float *>arena.at(offsets[4])
        scratch.sines = <float *>arena.at(offsets[5])
        bind_quantized(&scratch.quantized, arena.at(offsets[6]), max_rows, self.widest())

    cdef int64_t widest(self) noexcept:
        """The largest number of inputs of a layer's matrices."""
        return max(self.d_model, self.q_dim, self.ff_dim)

    cdef void rotations(self, int64_t position, int64_t row, Scratch *scratch) noexcept nogil:
        """Row `row` of the cos and sin tables, as include/ptc/rope.h wants it."""
        cdef float *cosines = scratch.cosines + row * self.head_dim
        cdef float *sines = scratch.sines + row * self.head_dim
        cdef int64_t i
        cdef float angle, c, s
        for i in range(self.head_dim // 2):
            angle = self.frequencies[i] * <float>position
            c = <float>cos(<double>angle)
            s = <float>sin(<double>angle)
            cosines[2 * i] = c
            cosines[2 * i + 1] = c
            sines[2 * i] = -s
            sines[2 * i + 1] = s

    cdef void attend(
        self, int64_t n, const KVCache *cache, int64_t added, const Scratch *scratch, int64_t row,
        int64_t rows, int threads,
    ) noexcept nogil:
        """Attention of layer n for `rows` queries from `row` on; the cache has `added` new rows."""
        cdef int64_t qkv_dim = self.q_dim + 2 * self.kv_dim
        cdef ptc_kv_segment segments[2]
        cdef int n_segments = 0
        if cache.prefix_rows > 0:
            segments[0].k = cache.prefix[n]
            segments[0].v = cache.prefix[n] + cache.prefix_capacity * self.kv_dim
            segments[0].ld = self.kv_dim
            segments[0].n_rows = cache.prefix_rows
            segments[0].position = 0
            n_segments = 1
        segments[n_segments].k = cache.rows + 2 * n * cache.capacity * self.kv_dim
        segments[n_segments].v = segments[n_segments].k + cache.capacity * self.kv_dim
        segments[n_segments].ld = self.kv_dim
        segments[n_segments].n_rows = cache.length + added
        segments[n_segments].position = cache.position
        attention_heads(
            scratch.attended + row * self.q_dim, self.q_dim, scratch.qkv + row * qkv_dim, qkv_dim,
            segments, n_segments + 1, rows, self.n_heads, self.n_kv_heads, self.head_dim,
            cache.position + cache.length, self.context, threads)

    cdef void run(
        self, float *x, int64_t rows, KVCache **caches, int64_t n_caches, Scratch *scratch,
        bint cache_only, int threads,
    ) noexcept nogil:
        """x [rows, d_model] through all layers, in place; appends the rows to the caches.

        One cache: the rows follow each other in it. As many caches as rows: each row is the next
        one of its own stream, and the weights are read once for all of them.

        cache_only: nobody reads the result, only the caches matter, so the last layer stops after
        its keys and values.
        """
        cdef int64_t qkv_dim = self.q_dim + 2 * self.kv_dim
        cdef int64_t n, r, slot
        cdef bint together = n_caches == 1
        cdef const Layer *layer
        cdef KVCache *cache
        cdef Epilogue add_residual, gelu
        cdef float *keys
        cdef float *row
        add_residual.activation = add_residual.final_activation = PTC_IDENTITY
        add_residual.ld_scale = 0
        add_residual.residual = x
        add_residual.ld_residual = self.d_model
        gelu.activation = PTC_GELU_TANH
        gelu.final_activation = PTC_IDENTITY
        gelu.scale = NULL
        gelu.ld_scale = 0
        gelu.residual = NULL
        gelu.ld_residual = 0
        for r in range(rows):
            cache = caches[0 if together else r]
            self.rotations(cache.position + cache.length + (r if together else 0), r, scratch)
        for n in range(self.n_layers):
            layer = &self.layers[n]
            active_kernels().layer_norm(
                scratch.normed, self.d_model, x, self.d_model, layer.norm1_weight,
                layer.norm1_bias, NULL, NULL, rows, self.d_model, NORM_EPS)
            linear_rows(
                &layer.in_proj, scratch.normed, self.d_model, rows, scratch.qkv, qkv_dim, NULL,
                &scratch.quantized, threads)
            for r in range(rows):
                cache = caches[0 if together else r]
                slot = cache.length + (r if together else 0)
                keys = cache.rows + (2 * n * cache.capacity + slot) * self.kv_dim
                row = scratch.qkv + r * qkv_dim
                active_kernels().rope(
                    row, row, scratch.cosines + r * self.head_dim,
                    scratch.sines + r * self.head_dim, self.n_heads, self.head_dim)
                active_kernels().rope(
                    keys, row + self.q_dim, scratch.cosines + r * self.head_dim,
                    scratch.sines + r * self.head_dim, self.n_kv_heads, self.head_dim)
                memcpy(
                    keys + cache.capacity * self.kv_dim, row + self.q_dim + self.kv_dim,
                    self.kv_dim * sizeof(float))
            if cache_only and n == self.n_layers - 1:
                break
            if together:
                self.attend(n, caches[0], rows, scratch, 0, rows, threads)
            else:
                for r in range(rows):
                    self.attend(n, caches[r], 1, scratch, r, 1, threads)
            add_residual.scale = layer.layer_scale_1
            linear_rows(
                &layer.out_proj, scratch.attended, self.q_dim, rows, x, self.d_model,
                &add_residual, &scratch.quantized, threads)
            active_kernels().layer_norm(
                scratch.normed, self.d_model, x, self.d_model, layer.norm2_weight,
                layer.norm2_bias, NULL, NULL, rows, self.d_model, NORM_EPS)
            linear_rows(
                &layer.linear1, scratch.normed, self.d_model, rows, scratch.hidden, self.ff_dim,
                &gelu, &scratch.quantized, threads)
            add_residual.scale = layer.layer_scale_2
            linear_rows(
                &layer.linear2, scratch.hidden, self.ff_dim, rows, x, self.d_model, &add_residual,
                &scratch.quantized, threads)
        for r in range(n_caches):
            caches[r].length += rows if together else 1
