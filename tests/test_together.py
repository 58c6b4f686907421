"""Generations stepped together: the same samples as alone, in order, and nothing left behind."""

from __future__ import annotations

import threading
from contextlib import closing

import numpy as np
import pytest

from pocket_tts_cy import TTSModel
from pocket_tts_cy.errors import TextError
from pocket_tts_cy.together import MAX_FRAMES_AHEAD
from pocket_tts_cy.voices import ModelState

TEXTS = [
    "Good morning.",
    "This is a longer sentence, which takes a little more time to say. And here is another one.",
    "Yes!",
    "Three blind mice, see how they run.",
    "The end of the story is near, but it has not come yet.",
    "One. Two. Three. " * 12,
]


@pytest.fixture(scope="module")
def model() -> TTSModel:
    return TTSModel.load_model("embedded")


@pytest.fixture(scope="module")
def voice(model: TTSModel) -> ModelState:
    return model.get_state_for_audio_prompt("heart")


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> None:
    yield
    assert not [t for t in threading.enumerate() if t.name.startswith("pocket-tts-")]


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_each_text_gets_the_samples_it_gets_alone(precision: str) -> None:
    model = TTSModel.load_model("embedded", precision=precision)
    voice = model.get_state_for_audio_prompt("heart")
    alone = [model.generate_audio(voice, text, seed=seed) for seed, text in enumerate(TEXTS)]
    together = model.generate_audio_batch([(voice, text, seed) for seed, text in enumerate(TEXTS)])
    assert len(together) == len(TEXTS)
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one, other)


def test_frames_after_eos_and_chunk_length_reach_each_text(
    model: TTSModel, voice: ModelState
) -> None:
    options = {"frames_after_eos": 0, "max_tokens": 12}
    alone = [model.generate_audio(voice, text, seed=4, **options) for text in TEXTS[:4]]
    together = model.generate_audio_batch([(voice, text, 4) for text in TEXTS[:4]], **options)
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_batch_of_none_and_of_one(model: TTSModel, voice: ModelState) -> None:
    assert model.generate_audio_batch([]) == []
    (audio,) = model.generate_audio_batch([(voice, "Hello.", 9)])
    np.testing.assert_array_equal(audio, model.generate_audio(voice, "Hello.", seed=9))


def test_a_text_with_nothing_to_say_stops_the_batch_before_it_begins(
    model: TTSModel, voice: ModelState
) -> None:
    with pytest.raises(TextError):
        model.generate_audio_batch([(voice, "Hello.", 1), (voice, " ", 1)])


def test_a_long_text_without_a_seed_is_complete_and_in_order(
    model: TTSModel, voice: ModelState
) -> None:
    text = " ".join(TEXTS[1:5] * 3)
    generation, chunks = model._prepare(
        voice, text, None, None, True, threading.Event(), seed=None, normalize=None, together=True
    )
    assert len(chunks) > 4
    numbers, frames = [], dict.fromkeys(range(len(chunks)), 0)
    for number, samples in generation.audio():
        numbers.append(number)
        frames[number] += len(samples) // 1920
        assert len(samples) % 1920 == 0
    assert numbers == sorted(numbers)
    assert all(count > 6 for count in frames.values())


def test_no_seed_gives_other_noise_each_time(model: TTSModel, voice: ModelState) -> None:
    text = " ".join(TEXTS[1:5])
    one, other = (model.generate_audio(voice, text) for _ in range(2))
    assert len(one) != len(other) or not np.array_equal(one, other)


def test_stop_ends_it(model: TTSModel, voice: ModelState) -> None:
    stop = threading.Event()
    generation, _ = model._prepare(
        voice, " ".join(TEXTS * 4), None, None, True, stop, seed=None, normalize=None, together=True
    )
    heard = 0
    for _, samples in generation.audio():
        heard += len(samples)
        stop.set()
    assert heard == len(samples)


def test_closing_early_ends_it(model: TTSModel, voice: ModelState) -> None:
    generation, _ = model._prepare(
        voice,
        " ".join(TEXTS * 4),
        None,
        None,
        True,
        threading.Event(),
        seed=None,
        normalize=None,
        together=True,
    )
    with closing(generation.audio()) as audio:
        next(audio)
        next(audio)


def test_an_error_in_a_stage_reaches_the_caller(
    model: TTSModel, voice: ModelState, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation, _ = model._prepare(
        voice,
        " ".join(TEXTS),
        None,
        None,
        True,
        threading.Event(),
        seed=None,
        normalize=None,
        together=True,
    )

    def fail(*_: object) -> None:
        raise ArithmeticError("no such step")

    monkeypatch.setattr(generation, "_step", fail)
    with pytest.raises(ArithmeticError, match="no such step"):
        list(generation.audio())


def test_a_listener_who_does_not_listen_stops_the_work(model: TTSModel, voice: ModelState) -> None:
    generation, chunks = model._prepare(
        voice,
        " ".join(TEXTS[1:5] * 20),
        None,
        None,
        True,
        threading.Event(),
        seed=None,
        normalize=None,
        together=True,
    )
    with closing(generation.audio()) as audio:
        next(audio)
        settled, before = threading.Event(), -1
        for _ in range(200):
            made = sum(job.made for job in generation._jobs)
            if made == before:
                break
            before = made
            settled.wait(0.2)
        begun = sum(job.made > 0 for job in generation._jobs)
        assert begun < len(chunks)
        waiting = sum(job.waiting for job in generation._jobs)
        assert waiting <= MAX_FRAMES_AHEAD * 5
