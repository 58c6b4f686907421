"""The noise stream against torch 2.13 (goldens of ``scripts/make_text_goldens.py``).

Measured largest differences from torch: 2.4e-7 without a limit (std up to 1), 3.6e-7 with one. They
come from float32 log, cos and sin, so they grow with the standard deviation.
"""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocket_tts_cy.noise import NoiseSource

BAR = 5e-7
GOLDEN = np.load(Path(__file__).parent / "data" / "noise" / "torch_2.13.npz", allow_pickle=False)
CASES = [name for name in GOLDEN.files if name.count(",") == 3]


def draws(n, *parameters):
    source = NoiseSource(*parameters)
    return np.stack([source.draw() for _ in range(n)])


def test_goldens_are_complete():
    assert len(CASES) == 52


def test_500_consecutive_draws_equal_torch():
    ours = draws(500, 42, 32, 0.3, None)
    difference = np.abs(ours - GOLDEN["seed_42_500_draws"]).max()
    assert ours.dtype == np.float32
    assert difference <= BAR, f"largest difference {difference:.3g}"


@pytest.mark.parametrize("case", CASES)
def test_parity_with_torch(case):
    seed, dim, temp, clamp = case.split(",")
    limit = None if clamp == "None" else float(clamp)
    ours = draws(500, int(seed), int(dim), float(temp), limit)[GOLDEN["kept"]]
    difference = np.abs(ours - GOLDEN[case]).max()
    assert difference <= BAR * max(1.0, math.sqrt(float(temp))), f"difference {difference:.3g}"
    if limit is not None:
        assert np.abs(ours).max() <= np.float32(limit)


@pytest.mark.parametrize("clamp", [None, 0.1, 1.0])
def test_interleaved_sources_do_not_disturb_each_other(clamp):
    first, second = NoiseSource(1, 32, 0.3, clamp), NoiseSource(2, 32, 0.3, clamp)
    pairs = [(first.draw(), second.draw()) for _ in range(600)]
    np.testing.assert_array_equal(np.stack([a for a, _ in pairs]), draws(600, 1, 32, 0.3, clamp))
    np.testing.assert_array_equal(np.stack([b for _, b in pairs]), draws(600, 2, 32, 0.3, clamp))


def test_only_the_low_32_bits_of_a_seed_count():
    np.testing.assert_array_equal(draws(3, 7, 32, 0.3, None), draws(3, 7 + 2**32, 32, 0.3, None))
    np.testing.assert_array_equal(draws(3, -1, 32, 0.3, None), draws(3, 2**64 - 1, 32, 0.3, None))


def test_a_drawn_vector_is_never_changed_later():
    source = NoiseSource(0, 32, 0.3, None)
    first = source.draw()
    copy = first.copy()
    for _ in range(1000):
        source.draw()
    np.testing.assert_array_equal(first, copy)


def test_no_seed_gives_fresh_noise():
    assert not np.array_equal(draws(2, None, 32, 0.3, None), draws(2, None, 32, 0.3, None))


def test_zero_temperature_is_silence():
    assert not draws(4, 1, 32, 0.0, None).any()
    assert not draws(4, 1, 32, 0.0, 0.5).any()


@given(clamp=st.floats(0.01, 3), temp=st.floats(0.01, 4), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_limit_holds_and_distribution_is_right(clamp, temp, seed):
    sample = draws(300, seed, 32, temp, clamp)
    assert np.abs(sample).max() <= np.float32(clamp)
    # Variance of a normal truncated to +-b standard deviations, against 9600 draws.
    b = clamp / math.sqrt(temp)
    density = math.exp(-0.5 * b * b) / math.sqrt(2 * math.pi)
    variance = temp * (1 - 2 * b * density / math.erf(b / math.sqrt(2)))
    assert np.mean(sample**2) == pytest.approx(variance, rel=0.12)


@pytest.mark.parametrize(
    "parameters",
    [
        (0, 15, 0.3, None),
        (0, 32, -0.1, None),
        (0, 32, math.nan, None),
        (0, 32, math.inf, None),
        (0, 32, 0.3, -1.0),
        (0, 32, 0.3, math.nan),
        (2**64, 32, 0.3, None),
        (-(2**63) - 1, 32, 0.3, None),
    ],
)
def test_senseless_parameters(parameters):
    with pytest.raises(ValueError, match=r"dim|temp|noise_clamp|seed"):
        NoiseSource(*parameters)


def test_a_seed_must_be_whole():
    with pytest.raises(TypeError):
        NoiseSource(1.5, 32, 0.3, None)


def test_limit_of_infinity_is_no_limit():
    np.testing.assert_array_equal(draws(40, 9, 32, 0.3, math.inf), draws(40, 9, 32, 0.3, None))
