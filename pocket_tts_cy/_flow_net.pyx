"""The flow head: from the backbone's output z and noise to one latent.

Architecture: MLP with adaptive layer norm (Li et al. 2024, arXiv:2406.11838). Sampling: Lagrangian
self distillation ("lsd", arXiv:2505.18825), Euler integration of a flow ("flow_matching",
arXiv:2210.02747), or one step without time ("drifting", "pointwise").
"""
import numpy as np

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from ._arena cimport Arena
from ._kernels cimport PTC_IDENTITY, PTC_SILU, active_kernels
from ._linear cimport Epilogue, WeightStore, linear_rows

cdef float NORM_EPS = 1e-6
TIME_CONDITIONS = {"lsd": 2, "flow_matching": 1, "drifting": 0, "pointwise": 0}


cdef class FlowNet:
    """Weights of the head.

    Parameters
    ----------
    store : WeightStore
        Where the tensors come from (``flow_net.*``).
    kind : str
        ``"lsd"``, ``"flow_matching"``, ``"drifting"`` or ``"pointwise"``.
    latent_dim, dim, n_blocks : int
        Width of a latent, width and depth of the MLP.
    """

    def __cinit__(self):
        self.blocks = NULL

    def __init__(
        self, WeightStore store, str kind, int64_t latent_dim, int64_t dim, int64_t n_blocks,
    ):
        cdef int64_t i
        self.store = store
        self.kind = kind
        self.timeless = TIME_CONDITIONS[kind] == 0
        self.drifting = kind == "drifting"
        self.latent_dim = latent_dim
        self.dim = dim
        self.n_blocks = n_blocks
        self.time_tables = {}
        self.blocks = <ResidualBlock *>calloc(n_blocks + 1, sizeof(ResidualBlock))
        if self.blocks == NULL:
            raise MemoryError("no memory for the flow head's block table")
        store.linear(&self.input_proj, "flow_net.input_proj.weight", "flow_net.input_proj.bias")
        store.linear(&self.cond_embed, "flow_net.cond_embed.weight", "flow_net.cond_embed.bias")
        store.linear(
            &self.final_linear, "flow_net.final_layer.linear.weight",
            "flow_net.final_layer.linear.bias")
        # SiLU(y) is the same for every block, so all modulations are one product.
        owners = [f"flow_net.res_blocks.{i}" for i in range(n_blocks)] + ["flow_net.final_layer"]
        self.store.pack(
            &self.modulation,
            np.concatenate([store.matrix(f"{o}.adaLN_modulation.1.weight") for o in owners]),
            np.concatenate([store.values(f"{o}.adaLN_modulation.1.bias") for o in owners]))
        for i in range(n_blocks):
            name = f"flow_net.res_blocks.{i}."
            self.blocks[i].norm_weight = store.vector(name + "in_ln.weight")
            self.blocks[i].norm_bias = store.vector(name + "in_ln.bias")
            store.linear(&self.blocks[i].mlp_in, name + "mlp.0.weight", name + "mlp.0.bias")
            store.linear(&self.blocks[i].mlp_out, name + "mlp.2.weight", name + "mlp.2.bias")

    def __dealloc__(self):
        free(self.blocks)

    cdef int64_t reserve_scratch(self, Arena arena, int64_t max_rows) except -1:
        """Plan the scratch of `sample` [max_rows]: y, x, normed, hidden, modulation, output."""
        return arena.reserve(
            "flow_lm.flow head scratch",
            max_rows * (4 * self.dim + self.modulation.n_out + self.latent_dim) * 4)

    def embed_time(self, int64_t which, double time):
        """Embedding [dim] of one time by embedder `which`.

        The last step is not an RMS norm although the checkpoint names it so: it divides by the
        unbiased standard deviation.
        """
        name = f"flow_net.time_embed.{which}."
        angles = self.store.values(name + "freqs") * np.float32(time)
        x = np.concatenate([np.cos(angles), np.sin(angles)]).astype(np.float64)
        x = self.store.values(name + "mlp.0.weight") @ x + self.store.values(name + "mlp.0.bias")
        x = x / (1 + np.exp(-x))
        x = self.store.values(name + "mlp.2.weight") @ x + self.store.values(name + "mlp.2.bias")
        return x * self.store.values(name + "mlp.3.alpha") / np.sqrt(1e-5 + x.var(ddof=1))

    cdef const float[:, ::1] times(self, int64_t steps):
        """Mean time embedding [steps, dim] of each sampling step; computed once per step count."""
        table = self.time_tables.get(steps)
        if table is None:
            table = np.zeros((steps, self.dim), np.float32)
            for i in range(steps):
                if self.kind == "lsd":
                    start = self.embed_time(0, i / steps)
                    table[i] = (start + self.embed_time(1, (i + 1) / steps)) / 2
                elif self.kind == "flow_matching":
                    table[i] = self.embed_time(0, i / steps)
            self.time_tables[steps] = table
        return table

    cdef void modulated_norm(
        self, float *out, const float *x, const float *weight, const float *bias,
        const float *modulation, int64_t rows,
    ) noexcept nogil:
        """out, x [rows, dim]; each row has its own shift and scale at `modulation`."""
        cdef int64_t r
        cdef const float *shift
        for r in range(rows):
            shift = modulation + r * self.modulation.n_out
            active_kernels().layer_norm(
                out + r * self.dim, self.dim, x + r * self.dim, self.dim, weight, bias,
                shift + self.dim, shift, 1, self.dim, NORM_EPS)

    cdef void head(
        self, const float *x_latent, int64_t rows, float *y, float *out, float *modulation,
        float *x, float *normed, float *hidden, int threads,
    ) noexcept nogil:
        """out [rows, latent_dim] = head(x_latent [rows, latent_dim]) given SiLU(y) [rows, dim]."""
        cdef Epilogue silu, gated
        cdef const float *m = modulation
        cdef int64_t i
        cdef const ResidualBlock *block
        silu.activation = PTC_SILU
        silu.final_activation = PTC_IDENTITY
        silu.scale = NULL
        silu.ld_scale = 0
        silu.residual = NULL
        silu.ld_residual = 0
        gated.activation = gated.final_activation = PTC_IDENTITY
        gated.ld_scale = self.modulation.n_out
        gated.residual = x
        gated.ld_residual = self.dim
        linear_rows(
            &self.modulation, y, self.dim, rows, modulation, self.modulation.n_out, NULL, NULL,
            threads)
        linear_rows(&self.input_proj, x_latent, self.latent_dim, rows, x, self.dim, NULL, NULL, 1)
        for i in range(self.n_blocks):
            block = &self.blocks[i]
            # shift, scale, gate
            self.modulated_norm(normed, x, block.norm_weight, block.norm_bias, m, rows)
            linear_rows(
                &block.mlp_in, normed, self.dim, rows, hidden, self.dim, &silu, NULL,
                threads)
            gated.scale = m + 2 * self.dim
            linear_rows(
                &block.mlp_out, hidden, self.dim, rows, x, self.dim, &gated, NULL,
                threads)
            m += 3 * self.dim
        self.modulated_norm(normed, x, NULL, NULL, m, rows)
        linear_rows(
            &self.final_linear, normed, self.dim, rows, out, self.latent_dim, NULL, NULL, 1)

    cdef void sample(
        self, const float *z, const float *noise, float *latent, int64_t rows, const float *times,
        int64_t steps, float *scratch, int threads,
    ) noexcept nogil:
        """latent [rows, latent_dim] from z [rows, z_dim] and noise [rows, latent_dim].

        times [steps, dim]; kinds without time take one step. latent must not overlap noise.
        """
        cdef float *y = scratch
        cdef float *x = y + rows * self.dim
        cdef float *normed = x + rows * self.dim
        cdef float *hidden = normed + rows * self.dim
        cdef float *modulation = hidden + rows * self.dim
        cdef float *output = modulation + rows * self.modulation.n_out
        cdef Epilogue add_time
        cdef int64_t i, j
        add_time.activation = PTC_IDENTITY
        add_time.final_activation = PTC_SILU
        add_time.scale = NULL
        add_time.ld_scale = 0
        add_time.residual = NULL
        add_time.ld_residual = 0
        memcpy(latent, noise, rows * self.latent_dim * sizeof(float))
        for i in range(1 if self.timeless else steps):
            if not self.timeless:
                add_time.residual = times + i * self.dim
            linear_rows(
                &self.cond_embed, z, self.cond_embed.n_in, rows, y, self.dim, &add_time, NULL,
                threads)
            self.head(latent, rows, y, output, modulation, x, normed, hidden, threads)
            for j in range(rows * self.latent_dim):
                if self.drifting:
                    latent[j] = output[j]
                elif self.timeless:
                    latent[j] = latent[j] + output[j]
                else:
                    latent[j] = latent[j] + output[j] / <float>steps
