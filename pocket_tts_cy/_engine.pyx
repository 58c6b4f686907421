"""The engine: everything compiled that Python files may use.

An `Engine` holds packed weights, which never change, so any number of threads may share it. What
changes is in streams: one `FlowLMStream` and one `MimiStream` per text that is being spoken.
"""
from ._arena cimport PackedMatrices
from ._flow_lm cimport FlowLM
from ._kernels cimport active_kernels
from ._linear cimport BF16, F32, INT4, INT8, Kind
from ._mimi cimport MimiDecoder

from ._flow_lm import FlowLMBatch, FlowLMStream
from ._kernels import checksum, isa_active, isa_available, isa_built
from ._mimi import MimiStream
from ._openmp import max_threads, openmp_enabled

__all__ = [
    "Engine", "FlowLMBatch", "FlowLMStream", "MimiStream", "checksum", "isa_active",
    "isa_available", "isa_built", "max_threads", "openmp_enabled", "packed_layout",
]

# Number of the layout of packed matrices; every change of packing or of its order needs another.
cdef enum:
    PACKED_LAYOUT = 2

# Precision: how the backbone's matrices are kept.
PRECISIONS = {"float32": F32, "bfloat16": BF16, "int8": INT8, "int4": INT4}


cdef bint uses_int16(str precision) noexcept:
    """Whether Mimi computes in 16-bit integers: in the smaller modes, where that is faster."""
    return precision in ("int8", "int4") and active_kernels().prefers_i16


def packed_layout(str precision):
    """What the bytes of packed matrices depend on besides the model: a short text.

    Parameters
    ----------
    precision : str
    """
    return f"{PACKED_LAYOUT} {precision}{' int16' if uses_int16(precision) else ''}"


cdef class Engine:
    """A model ready to run.

    Parameters
    ----------
    config : Config
    tensors : mapping of str to Tensor
        All tensors of the model, checked against the configuration.
    precision : {"float32", "bfloat16", "int8", "int4"}
        How matrices are kept. Arithmetic is float32 in the first two, and with a file stored as
        bfloat16 both give the same samples. In the others the backbone's matrices are 8-bit or
        4-bit integers that meet 8-bit activations; everything else stays as the file has it,
        except that on CPUs with VNNI Mimi computes in 16-bit integers (70 dB, quant16.h).
    packed : buffer, optional
        The packed matrices of an equal engine, see `packed_matrices`: nothing is packed then, and
        of the tensors only shapes and vectors are read. It stays in use with the engine.

    Raises
    ------
    ValueError
        Unknown precision, or a shape the engine does not support.
    """

    cdef readonly FlowLM flow_lm
    cdef readonly MimiDecoder mimi
    cdef PackedMatrices packed
    cdef readonly str precision

    # The largest number of frames worth handing to `MimiStream.decode` at once.
    mimi_frames_max = 16

    def __init__(self, config, tensors, str precision, packed=None):
        if precision not in PRECISIONS:
            raise ValueError(
                f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")
        cdef Kind backbone = PRECISIONS[precision]
        cdef Kind kind = backbone
        if backbone == INT8 or backbone == INT4:
            stored = tensors["flow_lm.transformer.layers.0.self_attn.in_proj.weight"].dtype
            kind = BF16 if stored == "BF16" else F32
        self.precision = precision
        self.packed = PackedMatrices(packed)
        self.flow_lm = FlowLM(config, tensors, kind, backbone, self.packed)
        self.mimi = MimiDecoder(config, tensors, kind, self.packed, uses_int16(precision))
        self.packed.finish()

    def packed_matrices(self):
        """The packed matrices of an engine that was made without `packed`.

        Returns
        -------
        list of buffer
            Joined, they are what `packed` takes. Order and layout depend on the model and on
            `packed_layout`.
        """
        return self.packed.pieces_in_order()

    @property
    def latent_dim(self):
        """Values of one latent."""
        return self.flow_lm.latent_dim

    @property
    def d_model(self):
        """Width of FlowLM's rows."""
        return self.flow_lm.d_model

    @property
    def n_layers(self):
        """Layers of FlowLM."""
        return self.flow_lm.transformer.n_layers

    @property
    def n_kv_heads(self):
        """Key/value heads per layer of FlowLM."""
        return self.flow_lm.transformer.n_kv_heads

    @property
    def head_dim(self):
        """Width of one head of FlowLM."""
        return self.flow_lm.transformer.head_dim

    @property
    def samples_per_frame(self):
        """Samples that one latent becomes."""
        return self.mimi.samples_per_frame

    def memory_report(self):
        """What the engine's memory holds.

        Returns
        -------
        list of (str, int)
            Name and bytes: packed weights, then the arenas of one stream of each kind.
        """
        return [
            *self.packed.report(), *self.flow_lm.report(), *self.mimi.report(),
            *FlowLMStream(self).report(), *MimiStream(self).report(),
        ]
