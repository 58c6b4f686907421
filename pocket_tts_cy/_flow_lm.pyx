"""FlowLM: text and past latents to the next latent, one 80 ms frame per step.

The order of rows in the state is: voice (already cached), text, then one row per frame. The first
frame's row is input_linear(bos_emb), later ones input_linear(previous latent).
"""
import numpy as np

from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from ._arena cimport Arena, PackedMatrices
from ._flow_net cimport FlowNet
from ._kernels cimport active_kernels
from ._linear cimport Kind, WeightStore, linear_rows
from ._transformer cimport KVCache, Scratch, Transformer

from ._linear import widen
from .errors import EngineBusyError

cdef float NORM_EPS = 1e-5
# Rows of one prefill call: bounds the scratch; the weights are read once per call.
cdef enum:
    PREFILL_ROWS = 64
    N_SCRATCH = 7

# More than any machine has; OpenMP ends the process when it cannot start a team.
MAX_THREADS = 1024
# More than any machine has, and small enough for 64-bit sizes.
MAX_CACHE_BYTES = 1 << 46


cdef class FlowLM:
    """Packed weights of the language model; read-only, shared by streams.

    Parameters
    ----------
    config : Config
    tensors : mapping of str to Tensor
    kind : Kind
        F32 or BF16: how matrices outside the backbone are kept.
    backbone : Kind
        How the matrices of the transformer are kept.
    packed : PackedMatrices
    """

    def __init__(self, config, tensors, Kind kind, Kind backbone, PackedMatrices packed):
        cdef WeightStore store = WeightStore(tensors, kind, "flow_lm.", packed)
        flow_lm = config.flow_lm
        shape = flow_lm.transformer
        self.store = store
        self.latent_dim = config.mimi.quantizer.dimension
        self.d_model = shape.d_model
        self.project_z = flow_lm.z_dim is not None
        self.z_dim = flow_lm.z_dim if self.project_z else shape.d_model
        self.transformer = Transformer(store, "transformer.", {
            "d_model": shape.d_model, "n_heads": shape.num_heads, "n_kv_heads": shape.kv_heads,
            "head_dim": shape.head_dim, "ff_dim": shape.ff_dim, "n_layers": shape.num_layers,
            "max_period": shape.max_period, "context": None,
        }, backbone)
        self.flow_net = FlowNet(
            store, flow_lm.flow.type, self.latent_dim, flow_lm.flow.dim, flow_lm.flow.depth)
        self.text_table = tensors["flow_lm.conditioner.embed.weight"]
        self.low_rank = store.has("conditioner.proj.weight")
        if self.low_rank:
            store.linear(&self.text_proj, "conditioner.proj.weight")
        store.linear(&self.input_linear, "input_linear.weight")
        if self.project_z:
            store.linear(&self.z_proj, "z_proj.weight")
        self.bos_emb = store.vector("bos_emb")
        self.out_norm_weight = store.vector("out_norm.weight")
        self.out_norm_bias = store.vector("out_norm.bias")
        self.eos_weight = store.vector("out_eos.weight")
        self.eos_bias = store.values("out_eos.bias").reshape(-1)[0]

    def report(self):
        """(what, bytes) of the weights that are not matrices."""
        return self.store.report()


# Scratch of one step of up to max_rows streams.
cdef struct StepScratch:
    Scratch transformer
    float *previous             # [rows, latent_dim]: what came before, bos_emb at first
    float *rows                 # [rows, d_model]
    float *z                    # [rows, z_dim]
    float *latents              # [rows, latent_dim]
    float *eos                  # [rows]
    float *flow                 # the flow head's


cdef int allocate_step(
    FlowLM model, Arena arena, StepScratch *scratch, int64_t max_rows, int64_t max_steps,
) except -1:
    """Plan, allocate and bind an arena for max_rows rows, of which max_steps are streams."""
    cdef int64_t transformer[N_SCRATCH]
    cdef int64_t previous, rows, z, latents, eos, flow
    model.transformer.reserve_scratch(arena, max_rows, transformer)
    previous = arena.reserve("flow_lm.step", max_steps * model.latent_dim * 4)
    rows = arena.reserve("flow_lm.rows", max_rows * model.d_model * 4)
    z = arena.reserve("flow_lm.step", max_steps * model.z_dim * 4)
    latents = arena.reserve("flow_lm.step", max_steps * model.latent_dim * 4)
    eos = arena.reserve("flow_lm.step", max_steps * 4)
    flow = model.flow_net.reserve_scratch(arena, max_steps)
    arena.allocate()
    model.transformer.bind_scratch(arena, max_rows, transformer, &scratch.transformer)
    scratch.previous = <float *>arena.at(previous)
    scratch.rows = <float *>arena.at(rows)
    scratch.z = <float *>arena.at(z)
    scratch.latents = <float *>arena.at(latents)
    scratch.eos = <float *>arena.at(eos)
    scratch.flow = <float *>arena.at(flow)
    return 0


cdef void step_rows(
    FlowLM model, StepScratch *s, KVCache **caches, int64_t rows, const float *noise,
    const float *times, int64_t decode_steps, int threads,
) noexcept nogil:
    """One frame of `rows` streams: s.latents and s.eos from s.previous and noise.

    noise [rows, latent_dim]; times: of the flow head, [decode_steps, dim].
    """
    linear_rows(
        &model.input_linear, s.previous, model.latent_dim, rows, s.rows, model.d_model, NULL, NULL,
        1)
    model.transformer.run(s.rows, rows, caches, rows, &s.transformer, False, threads)
    active_kernels().layer_norm(
        s.transformer.normed if model.project_z else s.z, model.d_model, s.rows, model.d_model,
        model.out_norm_weight, model.out_norm_bias, NULL, NULL, rows, model.d_model, NORM_EPS)
    if model.project_z:
        linear_rows(
            &model.z_proj, s.transformer.normed, model.d_model, rows, s.z, model.z_dim, NULL, NULL,
            threads)
    active_kernels().dot_rows(
        s.eos, 1, s.z, model.z_dim, model.eos_weight, model.eos_bias, rows, model.z_dim)
    model.flow_net.sample(
        s.z, noise, s.latents, rows, times, decode_steps, s.flow, threads)


cdef class FlowLMStream:
    """One autoregressive state.

    A stream belongs to one thread at a time; a second one gets `EngineBusyError`.

    Parameters
    ----------
    engine : Engine
    """

    cdef FlowLM model
    cdef Arena arena
    cdef StepScratch scratch    # scratch.previous lives from step to step
    cdef KVCache cache
    cdef list prefix_arrays     # keeps the voice's memory alive
    cdef int64_t allocated      # rows for which cache.rows has memory
    cdef bint busy

    def __cinit__(self):
        self.cache.prefix = NULL
        self.cache.rows = NULL

    def __init__(self, engine):
        cdef FlowLM model = engine.flow_lm
        cdef Transformer transformer = model.transformer
        self.model = model
        self.arena = Arena()
        allocate_step(model, self.arena, &self.scratch, PREFILL_ROWS, 1)
        self.cache.prefix = <const float **>malloc(transformer.n_layers * sizeof(float *))
        if self.cache.prefix == NULL:
            raise MemoryError("no memory for a stream's layer table")
        self.prefix_arrays = []
        self.allocated = 0
        self.cache.capacity = self.cache.length = self.cache.position = self.cache.prefix_rows = 0

    def __dealloc__(self):
        free(self.cache.prefix)
        free(self.cache.rows)

    def report(self):
        """(what, bytes) of this stream's memory."""
        cdef Transformer transformer = self.model.transformer
        size = 2 * transformer.n_layers * self.allocated * transformer.kv_dim * 4
        return [*self.arena.report(), ("flow_lm.key/value cache", size)]

    @property
    def length(self):
        """Rows in the state: prefix and appended."""
        return self.cache.prefix_rows + self.cache.length

    def _enter(self, int num_threads=1):
        if not 1 <= num_threads <= MAX_THREADS:
            raise ValueError(
                f"a team needs at least one thread and at most {MAX_THREADS}, not {num_threads}")
        if self.busy:
            raise EngineBusyError(
                "this stream is in use by another thread; give each thread a stream of its own")
        self.busy = True

    def begin(self, list prefix, int64_t prefix_length, int64_t capacity):
        """Start anew behind a voice.

        Parameters
        ----------
        prefix : list of float32 [2, 1, T, n_kv_heads, head_dim]
            Keys and values of the voice, one array per layer, or empty. Read in place: the caller
            must not change them while the stream is in use.
        prefix_length : int
            Rows of the prefix that are valid, at most T.
        capacity : int
            Rows that will be appended at most. Memory is kept and only ever grows.
        """
        cdef Transformer transformer = self.model.transformer
        cdef const float[:, :, :, :, ::1] array
        cdef int64_t i
        cdef int64_t rows = -1
        if capacity < 1 or prefix_length < 0:
            raise ValueError("capacity must be at least 1 and prefix_length at least 0")
        if len(prefix) not in (0, transformer.n_layers) or (prefix_length > 0 and not prefix):
            raise ValueError(
                f"the voice has {len(prefix)} layers, the model {transformer.n_layers}")
        self._enter()
        try:
            for i in range(len(prefix)):
                array = prefix[i]
                if (
                    array.shape[0] != 2 or array.shape[1] != 1
                    or array.shape[3] != transformer.n_kv_heads
                    or array.shape[4] != transformer.head_dim
                    or array.shape[2] < prefix_length or rows not in (-1, array.shape[2])
                ):
                    raise ValueError(
                        f"layer {i} of the voice has shape {tuple(prefix[i].shape)}, expected "
                        f"(2, 1, at least {prefix_length}, {transformer.n_kv_heads}, "
                        f"{transformer.head_dim})")
                rows = array.shape[2]
            if capacity > self.allocated:
                self._grow(capacity)
            # Nothing can fail any more: a refused voice must not leave pointers behind.
            for i in range(len(prefix)):
                array = prefix[i]
                self.cache.prefix[i] = &array[0, 0, 0, 0, 0] if rows else NULL
            self.prefix_arrays = list(prefix)
            self.cache.prefix_rows = prefix_length
            self.cache.prefix_capacity = max(rows, 0)
            self.cache.capacity = capacity
            self.cache.length = 0
            self.cache.position = prefix_length
            self.feed_back(self.model.bos_emb)
        finally:
            self.busy = False

    cdef void feed_back(self, const float *latent) noexcept nogil:
        """Set what the next step continues from."""
        memcpy(self.scratch.previous, latent, self.model.latent_dim * sizeof(float))

    def _grow(self, int64_t capacity):
        cdef Transformer transformer = self.model.transformer
        free(self.cache.rows)
        self.cache.rows = NULL
        self.allocated = self.cache.capacity = self.cache.length = 0
        row_bytes = 2 * int(transformer.n_layers) * int(transformer.kv_dim) * sizeof(float)
        if int(capacity) * row_bytes <= MAX_CACHE_BYTES:
            self.cache.rows = <float *>malloc(<size_t>(capacity * <int64_t>row_bytes))
        if self.cache.rows == NULL:
            raise MemoryError(f"no memory for a key/value cache of {capacity} positions")
        self.allocated = capacity

    def _reserve(self, int64_t rows):
        if self.cache.length + rows > self.cache.capacity:
            raise ValueError(
                f"the stream was begun for {self.cache.capacity} rows; {self.cache.length} are "
                f"used and {rows} more do not fit")

    def prefill_tokens(self, token_ids, int num_threads):
        """Append one row per token.

        Parameters
        ----------
        token_ids : int array [n]
        num_threads : int
        """
        cdef const float[:, ::1] rows
        cdef int64_t begin, n
        ids = np.asarray(token_ids, np.int64).reshape(-1)
        if ids.size and not 0 <= ids.min() <= ids.max() < self.model.text_table.shape[0]:
            raise ValueError(
                f"token ids must lie in 0..{self.model.text_table.shape[0] - 1}, found "
                f"{ids.min()}..{ids.max()}")
        self._enter(num_threads)
        try:
            self._reserve(ids.size)
            for begin in range(0, ids.size, PREFILL_ROWS):
                rows = widen(self.model.text_table, ids[begin:begin + PREFILL_ROWS])
                n = rows.shape[0]
                with nogil:
                    if self.model.low_rank:
                        linear_rows(
                            &self.model.text_proj, &rows[0, 0], rows.shape[1], n, self.scratch.rows,
                            self.model.d_model, NULL, NULL, num_threads)
                    else:
                        memcpy(
                            self.scratch.rows, &rows[0, 0],
                            n * self.model.d_model * sizeof(float))
                    self.append(n, num_threads)
        finally:
            self.busy = False

    def prefill_embeddings(self, rows, int num_threads):
        """Append rows of embeddings, as a voice prompt gives them.

        Parameters
        ----------
        rows : float32 [n, d_model]
        num_threads : int
        """
        cdef const float[:, ::1] view = np.ascontiguousarray(rows, np.float32)
        cdef int64_t begin, n
        if view.shape[1] != self.model.d_model:
            raise ValueError(
                f"embeddings have width {view.shape[1]}, the model {self.model.d_model}")
        self._enter(num_threads)
        try:
            self._reserve(view.shape[0])
            for begin in range(0, view.shape[0], PREFILL_ROWS):
                n = min(<int64_t>PREFILL_ROWS, view.shape[0] - begin)
                with nogil:
                    memcpy(
                        self.scratch.rows, &view[begin, 0],
                        n * self.model.d_model * sizeof(float))
                    self.append(n, num_threads)
        finally:
            self.busy = False

    cdef void append(self, int64_t n, int threads) noexcept nogil:
        """Run n rows of the scratch for their keys and values only."""
        cdef KVCache *cache = &self.cache
        self.model.transformer.run(
            self.scratch.rows, n, &cache, 1, &self.scratch.transformer, True, threads)

    def step(
        self, const float[::1] noise, float[::1] latent, int64_t decode_steps, int num_threads,
    ):
        """Make the next frame.

        Parameters
        ----------
        noise : float32 [latent_dim]
            Normal noise, already scaled by sqrt(temperature).
        latent : float32 [latent_dim]
            Receives the new latent, normalised; it is also fed back by the next step.
        decode_steps : int
            Sampling steps of the flow head.
        num_threads : int

        Returns
        -------
        float
            The EOS logit.
        """
        cdef FlowLM model = self.model
        cdef const float[:, ::1] times
        cdef KVCache *cache = &self.cache
        if noise.shape[0] != model.latent_dim or latent.shape[0] != model.latent_dim:
            raise ValueError(f"noise and latent must hold {model.latent_dim} values")
        if decode_steps < 1:
            raise ValueError(f"decode_steps must be at least 1, not {decode_steps}")
        self._enter(num_threads)
        try:
            self._reserve(1)
            times = model.flow_net.times(decode_steps)
            with nogil:
                step_rows(
                    model, &self.scratch, &cache, 1, &noise[0], &times[0, 0], decode_steps,
                    num_threads)
                self.feed_back(self.scratch.latents)
                memcpy(&latent[0], self.scratch.latents, model.latent_dim * sizeof(float))
        finally:
            self.busy = False
        return self.scratch.eos[0]

    def last_z(self):
        """The backbone's output z [z_dim] of the last step, a copy."""
        return np.array(<float[:self.model.z_dim]>self.scratch.z)

    def export_cache(self):
        """Keys and values of all rows.

        Returns
        -------
        list of float32 [2, 1, length, n_kv_heads, head_dim]
            One copy per layer.
        """
        cdef Transformer transformer = self.model.transformer
        cdef int64_t layer, i, row = transformer.kv_dim
        cdef int64_t before = self.cache.prefix_rows, own = self.cache.length
        cdef float[:, :, ::1] view
        cdef const float *source
        arrays = []
        self._enter()
        try:
            for layer in range(transformer.n_layers):
                array = np.empty((2, before + own, row), np.float32)
                view = array
                for i in range(2):
                    if before:
                        source = self.cache.prefix[layer] + i * self.cache.prefix_capacity * row
                        memcpy(&view[i, 0, 0], source, before * row * sizeof(float))
                    if own:
                        source = self.cache.rows + (2 * layer + i) * self.cache.capacity * row
                        memcpy(&view[i, before, 0], source, own * row * sizeof(float))
                arrays.append(array.reshape(
                    2, 1, before + own, transformer.n_kv_heads, transformer.head_dim))
        finally:
            self.busy = False
        return arrays


cdef class FlowLMBatch:
    """Steps several streams of one engine together: the weights are read once for all of them.

    Each stream gets exactly what it gets alone.

    Parameters
    ----------
    engine : Engine
    max_streams : int
        Streams per step at most.
    """

    cdef FlowLM model
    cdef Arena arena
    cdef StepScratch scratch
    cdef KVCache **caches       # [max_streams]
    cdef readonly int64_t max_streams

    def __cinit__(self):
        self.caches = NULL

    def __init__(self, engine, int64_t max_streams):
        if max_streams < 1:
            raise ValueError(f"max_streams must be at least 1, not {max_streams}")
        self.model = engine.flow_lm
        self.arena = Arena()
        self.max_streams = max_streams
        allocate_step(self.model, self.arena, &self.scratch, max_streams, max_streams)
        self.caches = <KVCache **>malloc(max_streams * sizeof(KVCache *))
        if self.caches == NULL:
            raise MemoryError("no memory for a batch")

    def __dealloc__(self):
        free(self.caches)

    def step(
        self, list streams, const float[:, ::1] noise, float[:, ::1] latents, int64_t decode_steps,
        int num_threads,
    ):
        """Make the next frame of each stream.

        Parameters
        ----------
        streams : list of FlowLMStream
            At most `max_streams`, all different.
        noise : float32 [len(streams), latent_dim]
        latents : float32 [len(streams), latent_dim]
            Receives the new latents.
        decode_steps, num_threads
            As for `FlowLMStream.step`.

        Returns
        -------
        float32 [len(streams)]
            The EOS logits.
        """
        cdef FlowLM model = self.model
        cdef FlowLMStream stream
        cdef const float[:, ::1] times
        cdef int64_t n = len(streams), i, width = model.latent_dim
        if not 1 <= n <= self.max_streams:
            raise ValueError(f"a step takes 1 to {self.max_streams} streams, not {n}")
        if (
            noise.shape[0] != n or latents.shape[0] != n or noise.shape[1] != width
            or latents.shape[1] != width
        ):
            raise ValueError(f"noise and latents must be [{n}, {width}]")
        if decode_steps < 1:
            raise ValueError(f"decode_steps must be at least 1, not {decode_steps}")
        times = model.flow_net.times(decode_steps)
        entered = []
        try:
            for i in range(n):
                stream = streams[i]
                if stream.model is not model:
                    raise ValueError("a stream of another engine")
                stream._enter(num_threads)
                entered.append(stream)
                stream._reserve(1)
                self.caches[i] = &stream.cache
                memcpy(
                    self.scratch.previous + i * width, stream.scratch.previous,
                    width * sizeof(float))
            with nogil:
                step_rows(
                    model, &self.scratch, self.caches, n, &noise[0, 0], &times[0, 0], decode_steps,
                    num_threads)
            for i in range(n):
                stream = streams[i]
                stream.feed_back(self.scratch.latents + i * width)
                memcpy(&latents[i, 0], self.scratch.latents + i * width, width * sizeof(float))
        finally:
            for stream in entered:
                stream.busy = False
        return np.array(<float[:n]>self.scratch.eos)
