"""Every kernel against float64 (or wider) NumPy within its error bound, on every instruction set.

What is tested of each kernel: the bound, odd sizes, unaligned pointers, that a row does not depend
on the rows beside it, and that all vector instruction sets give the same bits. Writes past the end
and NEON are the business of ``test_c_kernels.py``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from pocket_tts_cy import _kernels as kernels

ISAS = kernels.isa_available()
# The unit roundoff of float32.
UNIT = 2.0**-24
WIDTHS = [1, 3, 12, 17, 24, 31, 33, 96, 112, 513, 1100]
ROWS = [1, 2, 3, 7, 12, 13, 16, 25, 40]
HEAD_DIMS = [2, 6, 12, 16, 24, 30, 48, 64, 96, 112, 128, 200, 256]
FAR = [87.33, 88.02, 89, 1e4, 1e20, 3e38]
EXTREMES = np.array([0, 1e-40, 1e-30, 1e-7, 1, 20, 87, 88, *FAR], np.float32)
EXTREMES = np.concatenate([-EXTREMES, EXTREMES])

Floats = NDArray[np.float32]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    return request.param


def normal(rng: np.random.Generator, *shape: int) -> Floats:
    """Normal values at an address that is a multiple of 4 but not of 8."""
    flat = np.empty(int(np.prod(shape)) + 2, np.float32)
    first = 1 if flat.ctypes.data % 8 == 0 else 0
    values = flat[first : first + int(np.prod(shape))].reshape(shape)
    values[...] = rng.standard_normal(shape, np.float32)
    assert values.ctypes.data % 8 == 4
    return values


def wide(array: NDArray) -> NDArray[np.longdouble]:
    return array.astype(np.longdouble)


def ulp(values: NDArray) -> NDArray[np.float64]:
    """Distance of neighbouring float32 numbers at each value."""
    return np.spacing(np.abs(values.astype(np.float32))).astype(np.float64)


def activated(x: NDArray, name: str) -> NDArray[np.longdouble]:
    x = wide(x)
    with np.errstate(over="ignore"):
        if name == "silu":
            return x / (1 + np.exp(-x))
        if name == "gelu_tanh":
            u = np.sqrt(2 / wide(np.array(np.pi))) * (x + np.longdouble("0.044715") * x**3)
            return x / (1 + np.exp(-2 * u))
        if name == "elu":
            return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))
    return x


# -- choice of instruction set ---------------------------------------------------------------------


def test_instruction_sets() -> None:
    assert ISAS[-1] == "scalar"
    assert set(ISAS) <= set(kernels.isa_built())
    assert kernels.isa_active() in ISAS


def test_unknown_instruction_set() -> None:
    with pytest.raises(ImportError, match=r"'mmx'.*scalar"):
        kernels.activate("mmx", np.zeros(1, np.float32), "elu")


# -- activations -----------------------------------------------------------------------------------


def activation_inputs(rng: np.random.Generator) -> Floats:
    small = rng.standard_normal(20000) * np.exp(rng.uniform(-25, 4, 20000))
    return np.concatenate([np.linspace(-100, 100, 40001), small, EXTREMES]).astype(np.float32)


@pytest.mark.parametrize(("name", "bound", "least"), [("silu", 4, -87.3), ("elu", 4, -np.inf)])
def test_activation_within_its_ulp_bound(isa: str, name: str, bound: float, least: float) -> None:
    x = activation_inputs(np.random.default_rng(1))
    x = x[x >= least]
    expected = activated(x, name)
    error = np.abs(kernels.activate(isa, x, name) - expected) / ulp(expected)
    assert error.max() <= bound


def test_gelu_within_its_absolute_bound(isa: str) -> None:
    x = activation_inputs(np.random.default_rng(2))
    error = np.abs(kernels.activate(isa, x, "gelu_tanh") - activated(x, "gelu_tanh"))
    assert (error <= 3e-7 * np.maximum(1, np.abs(wide(x)))).all()


@pytest.mark.parametrize("name", ["silu", "gelu_tanh", "elu"])
def test_activation_far_out(isa: str, name: str) -> None:
    """Where the exponential saturates results stay finite and next to their limits."""
    far = EXTREMES[np.abs(EXTREMES) > 87]
    actual = kernels.activate(isa, far, name)
    limit = np.where(far > 0, far, -1.0 if name == "elu" else 0.0)
    # The exponential ends near 2^127, so what should vanish is about |x| 2^-127.
    assert (np.abs(actual - limit) <= 2.0**-125 * np.abs(far)).all()


@pytest.mark.parametrize("name", ["silu", "gelu_tanh", "elu"])
def test_activation_of_zero_is_zero(isa: str, name: str) -> None:
    actual = kernels.activate(isa, np.array([0.0, -0.0], np.float32), name)
    np.testing.assert_array_equal(actual, [0, 0])


def test_identity(isa: str) -> None:
    np.testing.assert_array_equal(kernels.activate(isa, EXTREMES, "identity"), EXTREMES)


@pytest.mark.parametrize("name", ["silu", "gelu_tanh", "elu"])
@pytest.mark.parametrize("n", WIDTHS)
def test_activation_of_a_piece_is_a_piece_of_the_activation(isa: str, name: str, n: int) -> None:
    x = normal(np.random.default_rng(n), n + 5)
    whole = kernels.activate(isa, x, name)
    for start in range(5):
        piece = kernels.activate(isa, x[start : start + n], name)
        np.testing.assert_array_equal(piece, whole[start : start + n])


# -- linear ----------------------------------------------------------------------------------------


def bfloat16(weights: Floats) -> tuple[NDArray[np.uint16], Floats]:
    """Bits and values of weights rounded to bfloat16."""
    bits = kernels.round_bfloat16(weights.reshape(-1))
    return bits.reshape(weights.shape), kernels.widen_bfloat16(bits).reshape(weights.shape)


def linear_bound(x: NDArray, weights: NDArray) -> NDArray[np.float64]:
    """The bound of ``linear.h`` on the sum before bias and activation."""
    n_in = weights.shape[1]
    absolute = np.abs(x).astype(np.float64) @ np.abs(weights).astype(np.float64).T
    return (512 + n_in / 512) * UNIT * absolute


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
@pytest.mark.parametrize("n_in", WIDTHS)
def test_linear_within_its_bound(isa: str, storage: str, n_in: int) -> None:
    rng = np.random.default_rng(n_in)
    for n_out in (1, 3, 12, 16, 17, 24, 31, 32, 33, 96, 112, 130, 513):
        x, weights = normal(rng, 5, n_in), normal(rng, n_out, n_in)
        stored: NDArray = weights
        if storage == "bfloat16":
            stored, weights = bfloat16(weights)
        actual = kernels.linear(isa, x, stored)
        error = np.abs(actual - x.astype(np.float64) @ weights.astype(np.float64).T)
        assert (error <= linear_bound(x, weights)).all()


@pytest.mark.parametrize(
    ("x_value", "w_value"), [(1 / 3, 1 / 7), (1 + 2**-23, 1 + 2**-22), (1e18, 1e-18), (1e-30, 1e30)]
)
def test_linear_with_equal_terms(isa: str, x_value: float, w_value: float) -> None:
    """Equal terms round in the same direction: the worst case for a sum."""
    for n_in in WIDTHS:
        x = np.full((3, n_in), x_value, np.float32)
        weights = np.full((33, n_in), w_value, np.float32)
        error = np.abs(kernels.linear(isa, x, weights) - x.astype(float) @ weights.astype(float).T)
        assert (error <= linear_bound(x, weights)).all()


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
@pytest.mark.parametrize("n_in", WIDTHS)
@pytest.mark.parametrize("n_out", [1, 17, 31, 33, 96, 112, 260])
def test_linear_row_alone_has_the_bits_it_has_among_others(
    isa: str, storage: str, n_in: int, n_out: int
) -> None:
    rng = np.random.default_rng(n_out)
    x, weights = normal(rng, 40, n_in), normal(rng, n_out, n_in)
    stored = bfloat16(weights)[0] if storage == "bfloat16" else weights
    whole = kernels.linear(isa, x, stored, activation="gelu_tanh")
    for rows in ROWS:
        some = kernels.linear(isa, x[:rows], stored, activation="gelu_tanh")
        np.testing.assert_array_equal(some, whole[:rows])
    last = kernels.linear(isa, x[39:], stored, activation="gelu_tanh")
    np.testing.assert_array_equal(last, whole[39:])


def test_linear_columns_do_not_depend_on_each_other(isa: str) -> None:
    rng = np.random.default_rng(3)
    for rows in (1, 2, 13):
        x, weights = normal(rng, rows, 70), normal(rng, 300, 70)
        whole = kernels.linear(isa, x, weights)
        for n_out in (1, 15, 16, 17, 32, 33, 64, 65, 128, 129, 299):
            np.testing.assert_array_equal(kernels.linear(isa, x, weights[:n_out]), whole[:, :n_out])


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_linear_over_overlapping_rows(isa: str, storage: str) -> None:
    """A causal convolution: the rows of the product share their memory."""
    rng = np.random.default_rng(4)
    for kernel, channels, stride in ((3, 12, 1), (7, 5, 1), (2, 33, 1), (4, 6, 2)):
        buffer = normal(rng, 60 * channels)
        rows = np.lib.stride_tricks.sliding_window_view(buffer, kernel * channels)
        rows = rows[:: stride * channels]
        weights = normal(rng, 24, kernel * channels)
        stored = bfloat16(weights)[0] if storage == "bfloat16" else weights
        assert rows.strides[0] < rows.shape[1] * 4
        np.testing.assert_array_equal(
            kernels.linear(isa, rows, stored), kernels.linear(isa, rows.copy(), stored)
        )


@pytest.mark.parametrize("activation", ["identity", "gelu_tanh", "silu", "elu"])
@pytest.mark.parametrize("final_activation", ["identity", "elu"])
def test_linear_epilogue(isa: str, activation: str, final_activation: str) -> None:
    """The parts after the sum are those of the formula, in its order."""
    rng = np.random.default_rng(5)
    for rows, n_in, n_out in ((1, 24, 12), (1, 30, 257), (5, 17, 33), (14, 96, 112)):
        x, weights = normal(rng, rows, n_in), normal(rng, n_out, n_in)
        bias, scale = normal(rng, n_out), normal(rng, n_out)
        residual = normal(rng, rows, n_out)
        actual = kernels.linear(
            isa, x, weights, bias=bias, scale=scale, residual=residual,
            activation=activation, final_activation=final_activation,
        )  # fmt: skip
        sums = wide(x) @ wide(weights).T + bias
        expected = activated(residual + scale * activated(sums, activation), final_activation)
        # Derivatives of the activations are at most 1.13.
        terms = np.abs(scale) * (np.abs(sums) + 1) + np.abs(residual) + 1
        bound = 1.3 * (np.abs(scale) * linear_bound(x, weights)) + 16 * UNIT * terms
        assert (np.abs(actual - expected) <= bound).all()


@pytest.mark.parametrize("given", ["bias", "scale", "residual"])
def test_each_part_of_the_linear_epilogue_alone(isa: str, given: str) -> None:
    """With sums that are exact in float32 each part is one correctly rounded operation."""
    rng = np.random.default_rng(6)
    for rows, n_out in ((1, 33), (1, 300), (9, 31)):
        x = rng.integers(-8, 9, (rows, 20)).astype(np.float32)
        weights = rng.integers(-8, 9, (n_out, 20)).astype(np.float32)
        sums = x @ weights.T
        values = normal(rng, rows, n_out) if given == "residual" else normal(rng, n_out)
        expected = sums * values if given == "scale" else sums + values
        actual = kernels.linear(isa, x, weights, **{given: values})
        np.testing.assert_array_equal(actual, expected)


def test_bfloat16_weights_give_the_bits_of_their_float32_values(isa: str) -> None:
    rng = np.random.default_rng(7)
    for rows in (1, 2, 5, 24):
        for n_in in (1, 33, 600):
            for n_out in (1, 16, 33, 290):
                x = normal(rng, rows, n_in)
                bits, values = bfloat16(normal(rng, n_out, n_in))
                np.testing.assert_array_equal(
                    kernels.linear(isa, x, bits), kernels.linear(isa, x, values)
                )


def test_linear_checks_shapes(isa: str) -> None:
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match="n_in"):
        kernels.linear(isa, x, np.zeros((4, 2), np.float32))
    with pytest.raises(ValueError, match="bias"):
        kernels.linear(isa, x, np.zeros((4, 3), np.float32), bias=np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="scale"):
        kernels.linear(isa, x, np.zeros((4, 3), np.float32), scale=np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="residual"):
        kernels.linear(isa, x, np.zeros((4, 3), np.float32), residual=np.zeros((1, 4), np.float32))


# -- dot product -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", WIDTHS)
def test_dot_rows_within_its_bound(isa: str, n: int) -> None:
    rng = np.random.default_rng(n)
    for rows in ROWS:
        for bias in (0.0, -0.7):
            x, w = normal(rng, rows, n), normal(rng, n)
            actual = kernels.dot_rows(isa, x, w, bias)
            exact = x.astype(np.float64) @ w.astype(np.float64) + np.float32(bias)
            absolute = np.abs(x).astype(np.float64) @ np.abs(w).astype(np.float64)
            # 16 partial sums, a tree of four additions, the bias.
            bound = (np.ceil(n / 16) + 4) * UNIT * absolute + UNIT * np.abs(exact) * 1.001
            assert (np.abs(actual - exact) <= bound).all()
            alone = [kernels.dot_rows(isa, x[r : r + 1], w, bias)[0] for r in range(rows)]
            np.testing.assert_array_equal(actual, alone)


def test_dot_rows_over_overlapping_rows(isa: str) -> None:
    rng = np.random.default_rng(8)
    buffer, w = normal(rng, 40 * 5), normal(rng, 15)
    rows = np.lib.stride_tricks.sliding_window_view(buffer, 15)[::5]
    np.testing.assert_array_equal(
        kernels.dot_rows(isa, rows, w, 0.5), kernels.dot_rows(isa, rows.copy(), w, 0.5)
    )


# -- layer normalisation ---------------------------------------------------------------------------


def normalised(x: Floats, eps: float) -> NDArray[np.longdouble]:
    x = wide(x)
    centred = x - x.mean(1, keepdims=True)
    variance = (centred**2).mean(1, keepdims=True)
    return centred / np.sqrt(variance + np.longdouble(np.float32(eps)))


def norm_bound(x: Floats, eps: float) -> NDArray[np.float64]:
    """Bound of ``norm.h`` for y: rounding of y itself, and of a mean far from zero."""
    n = x.shape[1]
    deviation = np.sqrt(x.astype(np.float64).var(1) + eps)
    largest = np.abs(normalised(x, eps)).max(1).astype(np.float64)
    offset = np.abs(x).max(1) / deviation
    return ((n / 16 + 12) * largest + (n / 16 + 6) * offset)[:, None] * UNIT


@pytest.mark.parametrize("eps", [1e-5, 1e-6])
@pytest.mark.parametrize("offset", [0, 1, 1000])
@pytest.mark.parametrize("n", WIDTHS)
def test_layer_norm_within_its_bound(isa: str, n: int, offset: float, eps: float) -> None:
    rng = np.random.default_rng(n)
    for size in (1e-3, 1, 100):
        x = (normal(rng, 6, n) * np.float32(size) + np.float32(offset)).astype(np.float32)
        error = np.abs(kernels.layer_norm(isa, x, eps) - normalised(x, eps))
        assert (error <= norm_bound(x, eps)).all()


@pytest.mark.parametrize("n", WIDTHS)
def test_layer_norm_modulated(isa: str, n: int) -> None:
    rng = np.random.default_rng(n)
    x = normal(rng, 4, n)
    weight, bias, scale, shift = (normal(rng, n) for _ in range(4))
    plain = normalised(x, 1e-6)
    gain = 1 + wide(scale)
    cases: list[tuple[dict[str, Floats], NDArray, NDArray]] = [
        ({"weight": weight}, plain * weight, np.abs(weight)),
        ({"weight": weight, "bias": bias}, plain * weight + bias, np.abs(weight)),
        ({"scale": scale, "shift": shift}, plain * gain + shift, np.abs(gain)),
        (
            {"weight": weight, "bias": bias, "scale": scale, "shift": shift},
            (plain * weight + bias) * gain + shift,
            np.abs(weight * gain),
        ),
    ]
    for arguments, expected, slope in cases:
        actual = kernels.layer_norm(isa, x, 1e-6, **arguments)
        terms = (np.abs(plain) * np.abs(weight) + np.abs(bias)) * (1 + np.abs(scale))
        bound = norm_bound(x, 1e-6) * slope + 4 * UNIT * (terms + np.abs(shift) + np.abs(plain))
        assert (np.abs(actual - expected) <= bound).all()


def test_layer_norm_of_equal_values_is_the_bias(isa: str) -> None:
    bias = normal(np.random.default_rng(9), 33)
    x = np.full((2, 33), 3.0, np.float32)
    actual = kernels.layer_norm(isa, x, 1e-5, np.ones(33, np.float32), bias)
    np.testing.assert_array_equal(actual, [bias, bias])


@pytest.mark.parametrize("n", WIDTHS)
def test_layer_norm_row_alone_has_the_bits_it_has_among_others(isa: str, n: int) -> None:
    x = normal(np.random.default_rng(n), 40, n)
    whole = kernels.layer_norm(isa, x, 1e-5)
    for row in range(40):
        alone = kernels.layer_norm(isa, x[row : row + 1], 1e-5)
        np.testing.assert_array_equal(alone[0], whole[row])


def test_layer_norm_checks_shapes(isa: str) -> None:
    with pytest.raises(ValueError, match="size"):
        kernels.layer_norm(isa, np.zeros((2, 3), np.float32), 1e-5, np.ones(2, np.float32))


# -- rotary positions ------------------------------------------------------------------------------


def rotation(angles: NDArray) -> tuple[Floats, Floats]:
    """Tables of ``rope.h`` for the angles of the pairs."""
    cosines = np.repeat(np.cos(angles), 2).astype(np.float32)
    sines = np.stack([-np.sin(angles), np.sin(angles)], 1).reshape(-1).astype(np.float32)
    return cosines, sines


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_rope_within_its_bound(isa: str, head_dim: int) -> None:
    rng = np.random.default_rng(head_dim)
    for angles in (
        rng.uniform(0, 4000, head_dim // 2),
        # Both terms alike: the largest error relative to either.
        np.pi / 4 + rng.uniform(-0.01, 0.01, head_dim // 2),
    ):
        cosines, sines = rotation(angles)
        x = normal(rng, 7, head_dim)
        x[:, 1::2] = x[:, ::2] * (1 + rng.uniform(-1e-3, 1e-3, (7, head_dim // 2)))
        swapped = x.reshape(7, -1, 2)[:, :, ::-1].reshape(7, -1)
        first, second = wide(x) * cosines, wide(swapped) * sines
        larger = np.maximum(np.abs(first), np.abs(second))
        error = np.abs(kernels.rope(isa, x, cosines, sines) - (first + second))
        # One rounding of a term and one of the sum, which may be twice as large; without a fused
        # multiply-add the other term is rounded too.
        assert (error <= (2.0 if isa == "scalar" else 1.5) * ulp(larger)).all()


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_rope_keeps_lengths_and_turns_back(isa: str, head_dim: int) -> None:
    rng = np.random.default_rng(head_dim)
    x = normal(rng, 3, head_dim)
    cosines, sines = rotation(rng.uniform(0, 7, head_dim // 2))
    turned = kernels.rope(isa, x, cosines, sines)
    np.testing.assert_allclose(kernels.rope(isa, turned, cosines, -sines), x, atol=2e-6)
    lengths, turned_lengths = (np.hypot(v[:, ::2], v[:, 1::2]) for v in (x, turned))
    np.testing.assert_allclose(turned_lengths, lengths, rtol=1e-6)


def test_rope_by_zero_changes_nothing(isa: str) -> None:
    x = normal(np.random.default_rng(10), 4, 64)
    np.testing.assert_array_equal(kernels.rope(isa, x, *rotation(np.zeros(32))), x)


# -- attention -------------------------------------------------------------------------------------


def attended(
    q: Floats, k: Floats, v: Floats, first: int, scale: float, context: int | None
) -> tuple[NDArray[np.float64], float]:
    """Attention in float64, and the largest sum of |q k| scale that a score was made of."""
    scores = q.astype(np.float64) @ k.astype(np.float64).T * np.float32(scale)
    largest = np.abs(q).astype(np.float64) @ np.abs(k).astype(np.float64).T * scale
    distance = first + np.arange(len(q))[:, None] - np.arange(len(k))[None]
    visible = distance >= 0
    if context is not None:
        visible &= distance < context
    scores = np.where(visible, scores, -np.inf)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    return weights @ v.astype(np.float64), float(largest[visible].max())


def attention_bound(head_dim: int, n_keys: int, magnitude: float, v: Floats) -> float:
    """Bound of ``attention.h``.

    A score made of terms of total size `magnitude` is off by (head_dim + 3) roundings of that
    size, which is the relative error of its weight, and every weight may be off in the other
    direction than the sum of all; then one rounding per key in the weighted sum and in the sum of
    weights, and a few per exponential.
    """
    roundings = 2 * (head_dim + 3) * magnitude + 2 * n_keys + 16
    return 1.01 * roundings * UNIT * float(np.abs(v).max())


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("rows", [1, 2, 7, 15, 16, 17, 33])
def test_attention_within_its_bound(isa: str, head_dim: int, rows: int) -> None:
    rng = np.random.default_rng(100 * head_dim + rows)
    scale = 1 / np.sqrt(head_dim)
    for n_keys in (rows, rows + 5, rows + 190):
        for context in (None, 1, 7, 50):
            q, k, v = (normal(rng, n, head_dim) for n in (rows, n_keys, n_keys))
            first = n_keys - rows
            actual = kernels.attention(isa, q, [(k, v)], first, scale, context)
            expected, magnitude = attended(q, k, v, first, scale, context)
            bound = attention_bound(head_dim, n_keys, magnitude, v)
            assert np.abs(actual - expected).max() <= bound


@pytest.mark.parametrize("rows", [1, 16, 20])
@pytest.mark.parametrize("head_dim", [2, 64, 112])
def test_attention_over_long_pasts(isa: str, rows: int, head_dim: int) -> None:
    rng = np.random.default_rng(rows)
    for n_keys in (1000, 3001):
        q, k, v = (normal(rng, n, head_dim) for n in (rows, n_keys, n_keys))
        for constant in (False, True):
            if constant:  # equal terms: the worst case for the sums
                k[...], v[...] = 0, 4 / 3
            actual = kernels.attention(isa, q, [(k, v)], n_keys - rows, 0.1)
            expected, magnitude = attended(q, k, v, n_keys - rows, 0.1, None)
            bound = attention_bound(head_dim, n_keys, magnitude, v)
            assert np.abs(actual - expected).max() <= bound


@pytest.mark.parametrize("rows", [1, 2, 18])
@pytest.mark.parametrize("size", [10, 100, 1e4, 1e15])
def test_attention_with_large_scores(isa: str, rows: int, size: float) -> None:
    """Scores up to 1e31 neither overflow nor lose the largest one."""
    rng = np.random.default_rng(11)
    q, k, v = (normal(rng, n, 24) for n in (rows, 60, 60))
    q, k = q * np.float32(size), k * np.float32(size)
    actual = kernels.attention(isa, q, [(k, v)], 60 - rows, 0.2)
    assert np.isfinite(actual).all()
    expected, magnitude = attended(q, k, v, 60 - rows, 0.2, None)
    if size <= 100:
        assert np.abs(actual - expected).max() <= attention_bound(24, 60, magnitude, v)
    else:
        scores = q.astype(np.float64) @ k.astype(np.float64).T
        clear = np.array([
            np.diff(np.sort(scores[r, : 61 - rows + r])[-2:])[0] > 1e-4 * size**2 * 24
            for r in range(rows)
        ])  # fmt: skip
        assert clear.any()
        np.testing.assert_allclose(actual[clear], expected[clear], atol=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 17, 40])
@pytest.mark.parametrize("context", [None, 9])
def test_attention_over_two_segments(isa: str, rows: int, context: int | None) -> None:
    rng = np.random.default_rng(12)
    for head_dim in (12, 64):
        for cut in (1, 3, 16, 39, 40, 59):
            q, k, v = (normal(rng, n, head_dim) for n in (rows, 60, 60))
            segments = [(k[:cut], v[:cut]), (k[cut:], v[cut:])]
            actual = kernels.attention(isa, q, segments, 60 - rows, 0.3, context)
            expected, magnitude = attended(q, k, v, 60 - rows, 0.3, context)
            bound = attention_bound(head_dim, 60, magnitude, v)
            assert np.abs(actual - expected).max() <= bound


@pytest.mark.parametrize("rows", [1, 5, 16, 30])
def test_attention_does_not_look_at_hidden_keys(isa: str, rows: int) -> None:
    """Later keys, and keys out of the context, do not change a single bit."""
    rng = np.random.default_rng(13)
    q, k, v = (normal(rng, n, 24) for n in (rows, 100, 100))
    before = kernels.attention(isa, q, [(k, v)], 60, 0.2, 20)
    k[60 + rows :], v[60 + rows :] = 1e30, 1e30
    k[:41], v[:41] = -1e30, 1e30
    np.testing.assert_array_equal(kernels.attention(isa, q, [(k, v)], 60, 0.2, 20), before)


@pytest.mark.parametrize("head_dim", [12, 24, 64, 112])
def test_attention_row_has_the_bits_it_has_in_any_block(isa: str, head_dim: int) -> None:
    """Blocks of two queries and more agree exactly, however they are cut.

    A single query runs in another loop order (lanes are dimensions, not queries): it agrees within
    the bound.
    """
    rng = np.random.default_rng(14)
    q, k, v = (normal(rng, n, head_dim) for n in (40, 140, 140))
    whole = kernels.attention(isa, q[:32], [(k, v)], 100, 0.2)
    magnitude = attended(q[:32], k, v, 100, 0.2, None)[1]
    bound = 2 * attention_bound(head_dim, 140, magnitude, v)
    for start in range(32):
        for rows in (2, 5, 15, 16, 18):
            block = q[start : min(start + rows, 32)]
            some = kernels.attention(isa, block, [(k, v)], 100 + start, 0.2)
            if len(block) > 1:
                np.testing.assert_array_equal(some, whole[start : start + rows])
        alone = kernels.attention(isa, q[start : start + 1], [(k, v)], 100 + start, 0.2)
        assert np.abs(alone[0] - whole[start]).max() <= bound


def test_attention_checks_shapes(isa: str) -> None:
    q, k = np.zeros((1, 4), np.float32), np.zeros((3, 4), np.float32)
    with pytest.raises(ValueError, match="segments"):
        kernels.attention(isa, q, [], 0, 1.0)
    with pytest.raises(ValueError, match="segments"):
        kernels.attention(isa, q, [(k, k)] * 3, 0, 1.0)
    with pytest.raises(ValueError, match="head_dim"):
        kernels.attention(isa, q, [(k[:, :2].copy(), k)], 0, 1.0)
    long = np.zeros((1, 258), np.float32)
    with pytest.raises(ValueError, match="head_dim"):
        kernels.attention(isa, long, [(long, long)], 0, 1.0)


# -- upsampling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", WIDTHS)
@pytest.mark.parametrize("stride", [1, 2, 16])
def test_upsampling_within_its_bound(isa: str, channels: int, stride: int) -> None:
    rng = np.random.default_rng(channels)
    for rows in (1, 2, 5):
        x, w = normal(rng, 1 + rows, channels), normal(rng, 2 * stride, channels)
        actual = kernels.upsample_depthwise(isa, x, w).reshape(rows, stride, channels)
        now = wide(x)[1:, None] * wide(w)[None, :stride]
        before = wide(x)[:-1, None] * wide(w)[None, stride:]
        # One rounding of each product (the fused one has none) and one of the sum.
        bound = 2 * UNIT * (np.abs(now) + np.abs(before))
        assert (np.abs(actual - (now + before)) <= bound).all()
        for row in range(rows):
            alone = kernels.upsample_depthwise(isa, x[row : row + 2], w)
            np.testing.assert_array_equal(alone, actual[row])


def test_upsampling_checks_shapes(isa: str) -> None:
    with pytest.raises(ValueError, match="channels"):
        kernels.upsample_depthwise(isa, np.zeros((2, 3), np.float32), np.zeros((4, 2), np.float32))


# -- 16-bit samples and bfloat16 -------------------------------------------------------------------


@pytest.mark.parametrize("n", WIDTHS)
def test_pcm16_is_clamped_and_truncated(isa: str, n: int) -> None:
    rng = np.random.default_rng(n)
    x = normal(rng, n) * np.float32(0.7)
    expected = (np.clip(x, -1, 1) * np.float32(32767)).astype(np.int16)
    np.testing.assert_array_equal(kernels.pcm16(isa, x), expected)


def test_pcm16_of_special_values(isa: str) -> None:
    tiny = float(np.nextafter(np.float32(1 / 32767), np.float32(0)))
    cases = {
        1.0: 32767, -1.0: -32767, 2.0: 32767, -2.0: -32767, np.inf: 32767, -np.inf: -32767,
        np.nan: 0, 0.0: 0, 1e-40: 0, 3e38: 32767, -3e38: -32767, tiny: 0, -tiny: 0,
        0.5: 16383, -0.5: -16383,
    }  # fmt: skip
    for repeat in (1, 2):  # in the tail and in a whole vector
        x = np.array(list(cases) * repeat, np.float32)
        np.testing.assert_array_equal(kernels.pcm16(isa, x), list(cases.values()) * repeat)


def test_pcm16_of_every_step(isa: str) -> None:
    x = (np.arange(-32767, 32768) / 32767).astype(np.float32)
    expected = (x * np.float32(32767)).astype(np.int16)
    np.testing.assert_array_equal(kernels.pcm16(isa, x), expected)


def test_widening_bfloat16_is_exact() -> None:
    bits = np.arange(65536, dtype=np.uint16)
    expected = (bits.astype(np.uint32) << 16).view(np.float32)
    actual = kernels.widen_bfloat16(bits)
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


def test_bfloat16_values_survive_rounding() -> None:
    bits = np.arange(65536, dtype=np.uint16)
    values = kernels.widen_bfloat16(bits)
    rounded = kernels.round_bfloat16(values)
    number = ~np.isnan(values)
    np.testing.assert_array_equal(rounded[number], bits[number])
    assert np.isnan(kernels.widen_bfloat16(rounded[~number])).all()


def test_rounding_to_bfloat16_takes_the_nearest() -> None:
    rng = np.random.default_rng(15)
    patterns = rng.integers(0, 2**32, 200_000, dtype=np.uint64).astype(np.uint32)
    x = patterns.view(np.float32)
    x = np.concatenate([x[np.abs(x) < 3e38], EXTREMES])
    rounded = kernels.widen_bfloat16(kernels.round_bfloat16(x))
    below = (x.view(np.uint32) & 0xFFFF0000).view(np.float32)
    above = ((x.view(np.uint32) & 0xFFFF0000) + np.uint32(0x10000)).view(np.float32)
    assert ((rounded == below) | (rounded == above)).all()
    inside = np.isfinite(above)
    error, least = (
        np.abs(wide(x[inside]) - wide(rounded[inside])),
        np.minimum(
            np.abs(wide(x[inside]) - wide(below[inside])),
            np.abs(wide(x[inside]) - wide(above[inside])),
        ),
    )
    assert (error == least).all()


def test_rounding_to_bfloat16_ties_and_special_values() -> None:
    patterns = np.array(
        [0x3F808000, 0x3F818000, 0x3F808001, 0xBF808000, 0x7F800000, 0xFF800000, 0x7F7FFFFF,
         0x7F800001, 0x7FC00000, 0xFFFFFFFF], np.uint32,
    )  # fmt: skip
    rounded = kernels.round_bfloat16(patterns.view(np.float32))
    np.testing.assert_array_equal(
        rounded[:7], [0x3F80, 0x3F82, 0x3F81, 0xBF80, 0x7F80, 0xFF80, 0x7F80]
    )
    assert np.isnan(kernels.widen_bfloat16(rounded[7:])).all()


def test_bfloat16_of_nothing() -> None:
    assert kernels.round_bfloat16(np.zeros(0, np.float32)).shape == (0,)
    assert kernels.widen_bfloat16(np.zeros(0, np.uint16)).shape == (0,)


# -- the same bits on every vector instruction set -------------------------------------------------


def every_linear(isa: str, rng: np.random.Generator) -> list[NDArray]:
    results = []
    for rows in ROWS:
        for n_in, n_out in ((1, 3), (17, 33), (96, 300), (1100, 112)):
            x, weights = normal(rng, rows, n_in), normal(rng, n_out, n_in)
            bias, residual = normal(rng, n_out), normal(rng, rows, n_out)
            results.append(kernels.linear(isa, x, weights, bias=bias, activation="gelu_tanh"))
            bits = bfloat16(weights)[0]
            results.append(kernels.linear(isa, x, bits, scale=bias, residual=residual))
    return results


def every_norm(isa: str, rng: np.random.Generator) -> list[NDArray]:
    results = []
    for n in WIDTHS:
        vectors = [normal(rng, n) for _ in range(4)]
        results.append(kernels.layer_norm(isa, normal(rng, 3, n), 1e-5, *vectors))
        results.append(kernels.dot_rows(isa, normal(rng, 3, n), vectors[0], 0.3))
    return results


def every_activation(isa: str, rng: np.random.Generator) -> list[NDArray]:
    x = activation_inputs(rng)
    return [kernels.activate(isa, x, name) for name in ("silu", "gelu_tanh", "elu")]


def every_attention(isa: str, rng: np.random.Generator) -> list[NDArray]:
    results = []
    for head_dim in HEAD_DIMS:
        for rows in (1, 2, 16, 21):
            q, k, v = (normal(rng, n, head_dim) for n in (rows, 70, 70))
            for context in (None, 13):
                segments = [(k[:30], v[:30]), (k[30:], v[30:])]
                results.append(kernels.attention(isa, q, segments, 70 - rows, 0.3, context))
    return results


def every_other(isa: str, rng: np.random.Generator) -> list[NDArray]:
    results = []
    for n in WIDTHS:
        results.append(kernels.upsample_depthwise(isa, normal(rng, 4, n), normal(rng, 32, n)))
        results.append(kernels.pcm16(isa, normal(rng, n)))
    for head_dim in HEAD_DIMS:
        tables = rotation(rng.uniform(0, 9, head_dim // 2))
        results.append(kernels.rope(isa, normal(rng, 3, head_dim), *tables))
    return results


@pytest.mark.parametrize(
    "family", [every_linear, every_norm, every_activation, every_attention, every_other]
)
def test_vector_instruction_sets_agree_bit_for_bit(
    family: Callable[[str, np.random.Generator], list[NDArray]],
) -> None:
    vector = [name for name in ISAS if name != "scalar"]
    if len(vector) < 2:
        pytest.skip(f"this CPU has fewer than two vector instruction sets: {ISAS}")
    expected = family(vector[0], np.random.default_rng(16))
    for name in vector[1:]:
        for one, other in zip(expected, family(name, np.random.default_rng(16)), strict=True):
            np.testing.assert_array_equal(one.view(np.uint8), other.view(np.uint8))
