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
from ._linear cimport Epilogue, Linear, WeightStore, linear_rows
from ._openmp cimport ptc_team, ptc_team_size

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

    def __init__(self, WeightStore store, str kind, int64_t latent_dim, int64_t dim, int64_t n_blocks):
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

    cdef int64_t reserve_scratch(self, Arena arena) except -1:
        """Plan the scratch of `sample`: y, modulations, x, normed, hidden, output."""
        cdef int64_t floats = (
            self.dim + self.modulation.n_out + 3 * self.dim + self.latent_dim)
        return arena.reserve("flow_lm.flow head scratch", (floats + 6 * 16) * 4)

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

    cdef void head(
        self, const float *x_latent, float *y, float *out, float *modulation, float *x,
        float *normed, float *hidden, const ptc_team *team,
    ) noexcept nogil:
        """out [latent_dim] = head(x_latent [latent_dim]) given SiLU(y) [dim]."""
        cdef Epilogue silu, gated
        cdef const float *m = modulation
        cdef int64_t i
        cdef const ResidualBlock *block
        silu.activation = PTC_SILU
        silu.final_activation = PTC_IDENTITY
        silu.scale = NULL
        silu.residual = NULL
        silu.ld_residual = 0
        gated.activation = gated.final_activation = PTC_IDENTITY
        gated.residual = x
        gated.ld_residual = self.dim
        linear_rows(&self.modulation, y, self.dim, 1, modulation, self.modulation.n_out, NULL, NULL,
            ptc_team_size(team))
        linear_rows(&self.input_proj, x_latent, self.latent_dim, 1, x, self.dim, NULL, NULL, 1)
        for i in range(self.n_blocks):
            block = &self.blocks[i]
            # shift, scale, gate
            active_kernels().layer_norm(
                normed, self.dim, x, self.dim, block.norm_weight, block.norm_bias, m + self.dim, m,
                1, self.dim, NORM_EPS)
            linear_rows(&block.mlp_in, normed, self.dim, 1, hidden, self.dim, &silu, NULL,
            ptc_team_size(team))
            gated.scale = m + 2 * self.dim
            linear_rows(&block.mlp_out, hidden, self.dim, 1, x, self.dim, &gated, NULL,
            ptc_team_size(team))
            m += 3 * self.dim
        active_kernels().layer_norm(
            normed, self.dim, x, self.dim, NULL, NULL, m + self.dim, m, 1, self.dim, NORM_EPS)
        linear_rows(&self.final_linear, normed, self.dim, 1, out, self.latent_dim, NULL, NULL, 1)

    cdef void sample(
        self, const float *z, const float *noise, float *latent, const float *times, int64_t steps,
        float *scratch, const ptc_team *team,
    ) noexcept nogil:
        """latent [latent_dim] from z and noise [latent_dim]; times [steps, dim]; kinds without time
        take one step. latent must not overlap noise."""
        cdef float *y = scratch
        cdef float *modulation = y + self.dim + 16
        cdef float *x = modulation + self.modulation.n_out + 16
        cdef float *normed = x + self.dim + 16
        cdef float *hidden = normed + self.dim + 16
        cdef float *output = hidden + self.dim + 16
        cdef Epilogue add_time
        cdef int64_t i, j
        add_time.activation = PTC_IDENTITY
        add_time.final_activation = PTC_SILU
        add_time.scale = NULL
        add_time.residual = NULL
        add_time.ld_residual = self.dim
        memcpy(latent, noise, self.latent_dim * sizeof(float))
        for i in range(1 if self.timeless else steps):
            if not self.timeless:
                add_time.residual = times + i * self.dim
            linear_rows(
                &self.cond_embed, z, self.cond_embed.n_in, 1, y, self.dim, &add_time, NULL,
            ptc_team_size(team))
            self.head(latent, y, output, modulation, x, normed, hidden, team)
            for j in range(self.latent_dim):
                if self.drifting:
                    latent[j] = output[j]
                elif self.timeless:
                    latent[j] = latent[j] + output[j]
                else:
                    latent[j] = latent[j] + output[j] / <float>steps
