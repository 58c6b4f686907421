"""Mimi's decoder: latents to 24 kHz samples, streaming.

latent -> de-normalise -> output_proj -> depthwise upsampling -> transformer -> SEANet decoder.

Source: Mimi (Defossez et al. 2024, Moshi), SEANet (Tagliasacchi et al. 2020). The transformer takes
a few frames per call so that its weights are read less often; SEANet runs frame by frame so that a
frame's activations stay in the second-level cache. Neither depends on how frames are split.
"""
import numpy as np

from libc.stdint cimport int16_t, int64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memmove, memset

from ._arena cimport Arena, PackedMatrices
from ._conv cimport (
    Conv,
    activate_rows,
    conv_carry,
    conv_input,
    conv_pack,
    conv_pack_transposed,
    conv_reserve,
    conv_reset,
    conv_run,
)
from ._kernels cimport PTC_ELU, PTC_IDENTITY, active_kernels
from ._linear cimport Epilogue, Kind, Linear, WeightStore, linear_rows
from ._transformer cimport KVCache, Scratch, Transformer

from .errors import EngineBusyError

cdef enum:
    FRAMES_PER_BLOCK = 4        # frames per transformer call
    KV_SLACK_BLOCKS = 8         # transformer calls between two moves of its cache
    N_SCRATCH = 7

# More than any machine has; OpenMP ends the process when it cannot start a team.
MAX_THREADS = 1024


cdef class MimiDecoder:
    """Packed weights of the decoder; read-only, shared by streams.

    Parameters
    ----------
    config : Config
    tensors : mapping of str to Tensor
    kind : Kind
        F32 or BF16: how matrices are kept.
    packed : PackedMatrices
    prefer_int16 : bool
        Keep matrices as 16-bit integers where their shape allows it.
    """

    def __cinit__(self):
        self.stages = NULL
        self.n_stages = 0

    def __init__(
        self, config, tensors, Kind kind, PackedMatrices packed, bint prefer_int16,
    ):
        cdef WeightStore store = WeightStore(tensors, kind, "mimi.", packed, prefer_int16)
        cdef Stage *stage
        cdef int64_t index, i, j
        seanet = config.decoder_seanet
        shape = config.decoder_transformer
        mimi = config.mimi
        self.store = store
        self.latent_dim = mimi.quantizer.dimension
        self.outer_dim = mimi.quantizer.output_dimension
        self.width = seanet.dimension
        self.rows_per_frame = mimi.upsample_stride
        self.samples_per_frame = self.rows_per_frame * int(np.prod(seanet.ratios))
        self.n_residual = seanet.n_residual_layers
        if self.outer_dim != self.width or seanet.channels != 1:
            raise ValueError(
                "the engine decodes mono models whose quantizer.output_dimension equals the "
                f"decoder's dimension; found {self.outer_dim}, {self.width} and {seanet.channels} "
                "channels")
        self.emb_mean = store.array(tensors["flow_lm.emb_mean"].as_float32())
        self.emb_std = store.array(tensors["flow_lm.emb_std"].as_float32())
        store.pack(
            &self.quantizer_proj, store.matrix("quantizer.output_proj.weight")[:, :, 0], None)
        self.upsample_weight = store.array(
            store.values("upsample.convtr.convtr.weight")[:, 0, :].T)
        self.has_input_proj = store.has("decoder_transformer.input_proj.weight")
        if self.has_input_proj:
            store.linear(&self.input_proj, "decoder_transformer.input_proj.weight")
        self.has_output_proj = store.has("decoder_transformer.output_projs.0.weight")
        if self.has_output_proj:
            store.linear(&self.output_proj, "decoder_transformer.output_projs.0.weight")
        self.transformer = Transformer(store, "decoder_transformer.transformer.", {
            "d_model": shape.d_model, "n_heads": shape.num_heads, "n_kv_heads": shape.num_heads,
            "head_dim": shape.d_model // shape.num_heads, "ff_dim": shape.dim_feedforward,
            "n_layers": shape.num_layers, "max_period": shape.max_period,
            "context": shape.context,
        }, kind)
        replicate = seanet.pad_mode == "replicate"
        conv_pack(&self.first_conv, store, "decoder.model.0.conv", 1, replicate)
        self.n_stages = len(seanet.ratios)
        self.stages = <Stage *>calloc(self.n_stages, sizeof(Stage))
        if self.stages == NULL:
            raise MemoryError("no memory for the decoder's stage table")
        index = 1
        for i in range(self.n_stages):
            stage = &self.stages[i]
            stage.ratio = seanet.ratios[i]
            stage.channels = seanet.n_filters << (self.n_stages - 1 - i)
            stage.hidden = stage.channels // seanet.compress
            stage.residual = <Conv *>calloc(self.n_residual + 1, sizeof(Conv))
            stage.expand = <Linear *>calloc(self.n_residual + 1, sizeof(Linear))
            if stage.residual == NULL or stage.expand == NULL:
                raise MemoryError("no memory for the decoder's stage table")
            # An ELU stands before each transposed convolution in the list of modules.
            conv_pack_transposed(
                &stage.upsample, store, f"decoder.model.{index + 1}.convtr", stage.ratio)
            index += 2
            for j in range(self.n_residual):
                conv_pack(
                    &stage.residual[j], store, f"decoder.model.{index}.block.1.conv",
                    seanet.dilation_base ** j, replicate)
                name = f"decoder.model.{index}.block.3.conv"
                store.pack(
                    &stage.expand[j], store.matrix(name + ".weight")[:, :, 0],
                    store.values(name + ".bias"))
                index += 1
        name = f"decoder.model.{index + 1}.conv"
        weight = store.values(name + ".weight")
        self.last_conv.channels = weight.shape[1]
        self.last_conv.kernel = weight.shape[2]
        self.last_conv.dilation = 1
        self.last_conv.halo = weight.shape[2] - 1
        self.last_conv.replicate = replicate
        self.last_weight = store.array(weight[0].T)
        self.last_bias = store.values(name + ".bias")[0]

    def __dealloc__(self):
        cdef int64_t i
        if self.stages != NULL:
            for i in range(self.n_stages):
                free(self.stages[i].residual)
                free(self.stages[i].expand)
        free(self.stages)

    def report(self):
        """(what, bytes) of the weights that are not matrices."""
        return self.store.report()


cdef class MimiStream:
    """State of one decoding: what the causal layers carry from frame to frame.

    A stream belongs to one thread at a time; a second one gets `EngineBusyError`.

    Parameters
    ----------
    engine : Engine
    """

    cdef MimiDecoder model
    cdef Arena arena
    cdef Scratch scratch
    cdef KVCache cache
    cdef Conv first_conv        # copies of the model's, with this arena's offsets
    cdef Conv last_conv
    cdef Stage *stages
    # The stream's own count: the garbage collector may clear `model` before it frees the stream.
    cdef int64_t n_stages
    cdef float *latents         # [FRAMES_PER_BLOCK, latent_dim]
    cdef float *projected       # [1 + FRAMES_PER_BLOCK, outer_dim], row 0 carried
    cdef float *wide            # [block rows, width]
    cdef float *x               # [block rows, d_model]
    cdef float *raw             # a stage's rows before ELU
    cdef float *hidden          # a residual block's inner rows
    cdef bint first             # no frame since the reset
    cdef bint busy

    def __cinit__(self):
        self.stages = NULL

    def __init__(self, engine):
        cdef MimiDecoder model = engine.mimi
        cdef Transformer transformer = model.transformer
        cdef Arena arena = Arena()
        cdef int64_t scratch[N_SCRATCH]
        cdef int64_t block_rows = FRAMES_PER_BLOCK * model.rows_per_frame
        cdef int64_t rows = model.rows_per_frame
        cdef int64_t raw_size = 1, hidden_size = 1, i, j
        cdef int64_t latents, projected, wide, x, raw, hidden, kv, longest, widest, q16, q16_scales
        self.model = model
        self.arena = arena
        transformer.reserve_scratch(arena, block_rows, scratch)
        self.cache.capacity = transformer.context + (KV_SLACK_BLOCKS + 1) * block_rows
        kv = arena.reserve(
            "mimi.key/value cache",
            2 * transformer.n_layers * self.cache.capacity * transformer.kv_dim * 4)
        latents = arena.reserve("mimi.frames", FRAMES_PER_BLOCK * model.latent_dim * 4)
        projected = arena.reserve("mimi.frames", (1 + FRAMES_PER_BLOCK) * model.outer_dim * 4)
        wide = arena.reserve("mimi.frames", block_rows * model.width * 4)
        x = arena.reserve("mimi.frames", block_rows * transformer.d_model * 4)
        self.first_conv = model.first_conv
        conv_reserve(&self.first_conv, arena, "mimi.seanet", rows)
        self.stages = <Stage *>calloc(model.n_stages, sizeof(Stage))
        if self.stages == NULL:
            raise MemoryError("no memory for the decoder's stage table")
        for i in range(model.n_stages):
            self.stages[i] = model.stages[i]
            self.stages[i].residual = NULL
        self.n_stages = model.n_stages
        for i in range(model.n_stages):
            conv_reserve(&self.stages[i].upsample, arena, "mimi.seanet", rows)
            rows *= self.stages[i].ratio
            raw_size = max(raw_size, rows * self.stages[i].channels)
            hidden_size = max(hidden_size, rows * self.stages[i].hidden)
            self.stages[i].residual = <Conv *>malloc((model.n_residual + 1) * sizeof(Conv))
            if self.stages[i].residual == NULL:
                raise MemoryError("no memory for the decoder's stage table")
            for j in range(model.n_residual):
                self.stages[i].residual[j] = model.stages[i].residual[j]
                conv_reserve(&self.stages[i].residual[j], arena, "mimi.seanet", rows)
        self.last_conv = model.last_conv
        conv_reserve(&self.last_conv, arena, "mimi.seanet", rows)
        # The longest run of floats that a product reads: a stage's rows with their halo, or the
        # transformer's hidden rows.
        widest = max(transformer.ff_dim, transformer.d_model, transformer.q_dim, model.width)
        longest = max(block_rows * widest, <int64_t>self.first_conv.channels * (
            self.first_conv.rows + self.first_conv.halo), hidden_size)
        for i in range(model.n_stages):
            longest = max(longest, self.stages[i].upsample.channels * (
                self.stages[i].upsample.rows + self.stages[i].upsample.halo))
            for j in range(model.n_residual):
                longest = max(longest, self.stages[i].residual[j].channels * (
                    self.stages[i].residual[j].rows + self.stages[i].residual[j].halo))
                if self.stages[i].residual[j].dilation > 1:
                    longest = max(longest, self.stages[i].residual[j].channels * (
                        self.stages[i].residual[j].rows * self.stages[i].residual[j].kernel))
        int16 = model.store.prefer_int16
        q16 = arena.reserve("mimi.16-bit activations", longest * 2 if int16 else 0)
        q16_scales = arena.reserve("mimi.16-bit activations", longest // 16 + 64 if int16 else 0)
        raw = arena.reserve("mimi.seanet", raw_size * 4)
        hidden = arena.reserve("mimi.seanet", hidden_size * 4)
        arena.allocate()
        transformer.bind_scratch(arena, block_rows, scratch, &self.scratch)
        if int16:
            self.scratch.quantized.q16 = <int16_t *>arena.at(q16)
            self.scratch.quantized.scales = <float *>arena.at(q16_scales)
        self.cache.rows = <float *>arena.at(kv)
        self.cache.prefix = NULL
        self.cache.prefix_rows = self.cache.prefix_capacity = 0
        self.latents = <float *>arena.at(latents)
        self.projected = <float *>arena.at(projected)
        self.wide = <float *>arena.at(wide)
        self.x = <float *>arena.at(x)
        self.raw = <float *>arena.at(raw)
        self.hidden = <float *>arena.at(hidden)
        self.reset()

    def __dealloc__(self):
        cdef int64_t i
        if self.stages != NULL:
            for i in range(self.n_stages):
                free(self.stages[i].residual)
        free(self.stages)

    def report(self):
        """(what, bytes) of this stream's memory."""
        return self.arena.report()

    def _enter(self, int num_threads=1):
        if not 1 <= num_threads <= MAX_THREADS:
            raise ValueError(
                f"a team needs at least one thread and at most {MAX_THREADS}, not {num_threads}")
        if self.busy:
            raise EngineBusyError(
                "this stream is in use by another thread; give each thread a stream of its own")
        self.busy = True

    def reset(self):
        """Start anew: the next frame is the first."""
        cdef int64_t i, j
        self._enter()
        self.cache.length = self.cache.position = 0
        memset(self.projected, 0, self.model.outer_dim * sizeof(float))
        conv_reset(&self.first_conv, self.arena)
        conv_reset(&self.last_conv, self.arena)
        for i in range(self.model.n_stages):
            conv_reset(&self.stages[i].upsample, self.arena)
            for j in range(self.model.n_residual):
                conv_reset(&self.stages[i].residual[j], self.arena)
        self.first = True
        self.busy = False

    def decode(
        self, const float[:, ::1] latents, float[::1] audio, int num_threads,
    ):
        """Decode frames that follow those decoded before.

        Parameters
        ----------
        latents : float32 [n, latent_dim]
            Normalised latents as FlowLM makes them.
        audio : float32 [n * samples_per_frame]
            Receives the samples.
        num_threads : int
        """
        cdef MimiDecoder model = self.model
        cdef int64_t n = latents.shape[0], begin, block
        if n and latents.shape[1] != model.latent_dim:
            raise ValueError(f"latents must be [n, {model.latent_dim}]")
        if audio.shape[0] != n * model.samples_per_frame:
            raise ValueError(
                f"audio must hold {model.samples_per_frame} samples for each of {n} frames")
        self._enter(num_threads)
        try:
            with nogil:
                begin = 0
                while begin < n:
                    block = min(<int64_t>FRAMES_PER_BLOCK, n - begin)
                    self.decode_block(
                        model, &latents[begin, 0], block, &audio[begin * model.samples_per_frame],
                        num_threads)
                    begin += block
        finally:
            self.busy = False

    cdef void decode_block(
        self, MimiDecoder model, const float *latents, int64_t n, float *audio, int threads,
    ) noexcept nogil:
        """audio [n * samples_per_frame] from latents [n, latent_dim], n <= FRAMES_PER_BLOCK."""
        cdef int64_t rows = n * model.rows_per_frame
        cdef int64_t d_model = model.transformer.d_model
        cdef KVCache *cache
        cdef int64_t i, f
        cdef float *x = self.wide
        for i in range(n * model.latent_dim):
            f = i % model.latent_dim
            self.latents[i] = latents[i] * model.emb_std[f] + model.emb_mean[f]
        linear_rows(
            &model.quantizer_proj, self.latents, model.latent_dim, n,
            self.projected + model.outer_dim, model.outer_dim, NULL, &self.scratch.quantized, 1)
        active_kernels().upsample_depthwise(
            self.wide, self.projected + model.outer_dim, model.upsample_weight, n, model.outer_dim,
            model.rows_per_frame)
        memmove(
            self.projected, self.projected + n * model.outer_dim, model.outer_dim * sizeof(float))
        if model.has_input_proj:
            x = self.x
            linear_rows(
                &model.input_proj, self.wide, model.width, rows, x, d_model, NULL,
                &self.scratch.quantized, threads)
        self.make_room(model.transformer, rows)
        cache = &self.cache
        model.transformer.run(x, rows, &cache, 1, &self.scratch, False, threads)
        if model.has_output_proj:
            linear_rows(
                &model.output_proj, x, d_model, rows, self.wide, model.width, NULL,
                &self.scratch.quantized, threads)
            x = self.wide
        for f in range(n):
            self.decode_seanet(
                model, x + f * model.rows_per_frame * model.width,
                audio + f * model.samples_per_frame, threads)

    cdef void make_room(self, Transformer transformer, int64_t rows) noexcept nogil:
        """Drop cache rows that no later query can see, when new rows would not fit."""
        cdef int64_t drop = self.cache.length - (transformer.context - 1)
        cdef int64_t half
        cdef float *base
        if self.cache.length + rows <= self.cache.capacity:
            return
        for half in range(2 * transformer.n_layers):
            base = self.cache.rows + half * self.cache.capacity * transformer.kv_dim
            memmove(
                base, base + drop * transformer.kv_dim,
                (self.cache.length - drop) * transformer.kv_dim * sizeof(float))
        self.cache.position += drop
        self.cache.length -= drop

    cdef void decode_seanet(
        self, MimiDecoder model, const float *x, float *audio, int threads,
    ) noexcept nogil:
        """audio [samples_per_frame] from the rows x [rows_per_frame, width] of one frame.

        Each buffer holds rows after ELU, because that is all a convolution reads; `raw` keeps a
        stage's rows before it for the residual sum.
        """
        cdef int64_t i, j
        cdef Stage *stage
        cdef Conv *residual
        cdef bint last
        cdef float *after
        cdef Epilogue elu, add_raw
        elu.activation = PTC_ELU
        elu.scale = NULL
        elu.ld_scale = 0
        elu.residual = NULL
        elu.ld_residual = 0
        elu.final_activation = PTC_IDENTITY
        add_raw.activation = PTC_IDENTITY
        add_raw.scale = NULL
        add_raw.ld_scale = 0
        add_raw.residual = self.raw
        memcpy(
            conv_input(&self.first_conv, self.arena), x,
            model.rows_per_frame * model.width * sizeof(float))
        after = conv_input(
            &self.stages[0].upsample if model.n_stages else &self.last_conv, self.arena)
        conv_run(
            &self.first_conv, self.arena, after, &elu, &self.scratch.quantized, self.first, threads)
        conv_carry(&self.first_conv, self.arena)
        for i in range(model.n_stages):
            stage = &self.stages[i]
            after = conv_input(
                &self.stages[i + 1].upsample if i + 1 < model.n_stages else &self.last_conv,
                self.arena)
            conv_run(
                &stage.upsample, self.arena, self.raw, NULL, &self.scratch.quantized, self.first,
                threads)
            conv_carry(&stage.upsample, self.arena)
            for j in range(model.n_residual):
                residual = &stage.residual[j]
                activate_rows(
                    conv_input(residual, self.arena), self.raw, residual.rows * stage.channels,
                    PTC_ELU, threads)
                conv_run(
                    residual, self.arena, self.hidden, &elu, &self.scratch.quantized, self.first,
                    threads)
                conv_carry(residual, self.arena)
                last = j == model.n_residual - 1
                add_raw.ld_residual = stage.channels
                add_raw.final_activation = PTC_ELU if last else PTC_IDENTITY
                linear_rows(
                    &stage.expand[j], self.hidden, stage.hidden, residual.rows,
                    after if last else self.raw, stage.channels, &add_raw,
                    &self.scratch.quantized, threads)
            if model.n_residual == 0:
                activate_rows(
                    after, self.raw, stage.upsample.rows * stage.ratio * stage.channels, PTC_ELU,
                    threads)
        self.synthesize(audio)
        conv_carry(&self.last_conv, self.arena)
        self.first = False

    cdef void synthesize(self, float *audio) noexcept nogil:
        """The last convolution: one output channel, so a dot product per sample."""
        cdef const Conv *conv = &self.last_conv
        cdef float *buffer = conv_input(conv, self.arena) - conv.halo * conv.channels
        cdef int64_t t
        if self.first and conv.replicate:
            for t in range(conv.halo):
                memcpy(
                    buffer + t * conv.channels, buffer + conv.halo * conv.channels,
                    conv.channels * sizeof(float))
        active_kernels().dot_rows(
            audio, 1, buffer, conv.channels, self.model.last_weight, self.model.last_bias,
            conv.rows, conv.kernel * conv.channels)
