# The only module that names a C header of ours. See include/ptc/kernels.h.
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t


cdef extern from "ptc/kernels.h" nogil:
    enum:
        PTC_PANEL
        PTC_MAX_HEAD_DIM
        PTC_Q_BLOCK
        PTC_IDENTITY
        PTC_GELU_TANH
        PTC_SILU
        PTC_ELU
    int64_t PTC_NO_CONTEXT

    ctypedef struct ptc_linear_args:
        const float *x
        int64_t ld_x
        const int16_t *x_q16
        const int8_t *x_q
        const float *x_scales
        const int32_t *x_sums
        const void *weights
        const void *weight_scales
        int64_t n_in
        int64_t n_out
        float *out
        int64_t ld_out
        const float *bias
        const float *scale
        int64_t ld_scale
        const float *residual
        int64_t ld_residual
        int activation
        int final_activation

    ctypedef struct ptc_kv_segment:
        const float *k
        const float *v
        int64_t ld
        int64_t n_rows
        int64_t position

    ctypedef struct ptc_attention_args:
        const float *q
        int64_t ld_q
        float *out
        int64_t ld_out
        ptc_kv_segment segments[2]
        int n_segments
        int64_t head_dim
        int64_t first_position
        int64_t context
        float scale

    ctypedef struct ptc_kernels:
        const char *name
        int prefers_i16
        void (*linear_f32)(
            const ptc_linear_args *a, int64_t row_begin, int64_t row_end,
            int64_t panel_begin, int64_t panel_end) noexcept nogil
        void (*linear_bf16)(
            const ptc_linear_args *a, int64_t row_begin, int64_t row_end,
            int64_t panel_begin, int64_t panel_end) noexcept nogil
        void (*linear_i8)(
            const ptc_linear_args *a, int64_t row_begin, int64_t row_end,
            int64_t panel_begin, int64_t panel_end) noexcept nogil
        void (*linear_i4)(
            const ptc_linear_args *a, int64_t row_begin, int64_t row_end,
            int64_t panel_begin, int64_t panel_end) noexcept nogil
        void (*linear_i16)(
            const ptc_linear_args *a, int64_t row_begin, int64_t row_end,
            int64_t panel_begin, int64_t panel_end) noexcept nogil
        void (*quantize_i16)(int16_t *q, float *scales, const float *x, int64_t n) noexcept nogil
        void (*quantize_rows)(
            int8_t *q, float *scales, int32_t *sums, const float *x, int64_t ld_x,
            int64_t n_rows, int64_t n_in) noexcept nogil
        void (*dot_rows)(
            float *out, int64_t ld_out, const float *x, int64_t ld_x, const float *w,
            float bias, int64_t n_rows, int64_t n_in) noexcept nogil
        void (*layer_norm)(
            float *out, int64_t ld_out, const float *x, int64_t ld_x, const float *weight,
            const float *bias, const float *scale, const float *shift, int64_t n_rows,
            int64_t n, float eps) noexcept nogil
        void (*activation)(float *out, const float *x, int64_t n, int kind) noexcept nogil
        void (*rope)(
            float *out, const float *x, const float *cosines, const float *sines,
            int64_t n_heads, int64_t head_dim) noexcept nogil
        void (*attention)(
            const ptc_attention_args *a, int64_t row_begin, int64_t row_end) noexcept nogil
        void (*upsample_depthwise)(
            float *out, const float *x, const float *w, int64_t n_rows, int64_t channels,
            int64_t stride) noexcept nogil
        void (*pcm16)(int16_t *out, const float *x, int64_t n) noexcept nogil

    void ptc_pack_panel_f32(
        float *out, const float *w, int64_t n_out, int64_t n_in, int64_t panel)
    void ptc_pack_panel_bf16(
        uint16_t *out, const uint16_t *w, int64_t n_out, int64_t n_in, int64_t panel)
    void ptc_pack_panel_i8(
        int8_t *out, float *scales, const float *w, int64_t n_out, int64_t n_in, int64_t panel)
    void ptc_pack_panel_i16(
        int16_t *out, float *scales, const float *w, int64_t n_out, int64_t n_in, int64_t panel)
    void ptc_pack_panel_i4(
        uint8_t *out, uint16_t *scales, const float *w, int64_t n_out, int64_t n_in, int64_t panel)
    void ptc_round_bf16(uint16_t *out, const float *x, int64_t n)
    void ptc_widen_bf16(float *out, const uint16_t *x, int64_t n)


# The table chosen at import; never NULL.
cdef const ptc_kernels *active_kernels() noexcept nogil
