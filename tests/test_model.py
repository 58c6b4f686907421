"""The public interface: parameters, streaming, seeds, states, concurrency, memory."""

from __future__ import annotations

import gc
import logging
import math
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import pocket_tts_cy
from pocket_tts_cy import TTSModel, export_model_state
from pocket_tts_cy.errors import ConfigError, VoiceError
from pocket_tts_cy.model import PRECISIONS
from pocket_tts_cy.safetensors_reader import Tensor
from pocket_tts_cy.safetensors_writer import write_safetensors
from pocket_tts_cy.voices import ModelState

VOICE_FOLDER = Path(pocket_tts_cy.__file__).parent / "voice"
FRAME = 1920
TEXT = "The birch canoe slid on the smooth planks. Glue the sheet to the dark blue background."


@pytest.fixture(scope="module")
def shared() -> TTSModel:
    return TTSModel.load_model(language="embedded")


@pytest.fixture
def model(shared: TTSModel) -> Iterator[TTSModel]:
    """The shared model; the settings that a test changes are put back."""
    names = ("temp", "sampler_decode_steps", "noise_clamp", "eos_threshold", "num_threads")
    before = {name: getattr(shared, name) for name in names}
    yield shared
    for name, value in before.items():
        setattr(shared, name, value)


@pytest.fixture
def voice(shared: TTSModel) -> ModelState:
    return shared.get_state_for_audio_prompt("heart")


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    assert not [t for t in threading.enumerate() if t.name.startswith("pocket-tts-")]


# -- loading --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"language": "klingon"}, FileNotFoundError, "klingon.*embedded"),
        ({"language": "../english"}, FileNotFoundError, "english"),
        ({"language": "embedded", "config": "x.yaml"}, ValueError, "not both"),
        ({"config": "x.txt"}, ValueError, "YAML"),
        ({"config": "nowhere.yaml"}, FileNotFoundError, "nowhere.yaml"),
        ({"language": "embedded", "precision": "int3"}, ValueError, "float32, bfloat16.*int3"),
        ({"language": "embedded", "quantize": True, "precision": "float32"}, ValueError, "contra"),
        ({"language": "embedded", "checkpoint": "x.pt"}, ValueError, "not available"),
        ({"language": "embedded", "temp": -1}, ValueError, "temp"),
        ({"language": "embedded", "temp": math.nan}, ValueError, "temp"),
        ({"language": "embedded", "temp": math.inf}, ValueError, "temp"),
        ({"language": "embedded", "sampler_decode_steps": 0}, ValueError, "sampler_decode_steps"),
        ({"language": "embedded", "noise_clamp": -0.1}, ValueError, "noise_clamp"),
        ({"language": "embedded", "eos_threshold": math.nan}, ValueError, "eos_threshold"),
        ({"language": "embedded", "num_threads": 0}, ValueError, "num_threads"),
    ],
)
def test_senseless_arguments(arguments: dict, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        TTSModel.load_model(**arguments)


def test_unknown_entry_of_a_configuration(tmp_path: Path) -> None:
    text = (VOICE_FOLDER / "config.yaml").read_text()
    (tmp_path / "model.yaml").write_text(text + "\nlanguages: [en]\n")
    with pytest.raises(ConfigError, match="languages"):
        TTSModel.load_model(config=tmp_path / "model.yaml")


def test_settings_of_a_model() -> None:
    model = TTSModel.load_model(
        "embedded", None, 0.5, 2, 1.5, -3, precision="float32", num_threads=1
    )
    assert (model.temp, model.sampler_decode_steps) == (0.5, 2)
    assert (model.noise_clamp, model.eos_threshold) == (1.5, -3)
    assert (model.precision, model.num_threads) == ("float32", 1)


def test_deprecated_name_of_the_steps(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="pocket_tts_cy"):
        model = TTSModel.load_model("embedded", lsd_decode_steps=3)
    assert model.sampler_decode_steps == 3
    assert "deprecated" in caplog.text


# -- speech ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_threads", [1, 2])
def test_streaming_equals_collecting(model: TTSModel, voice: ModelState, num_threads: int) -> None:
    model.num_threads = num_threads
    whole = model.generate_audio(voice, TEXT, seed=7)
    parts = list(model.generate_audio_stream(voice, TEXT, seed=7))
    assert len(parts) > 2
    assert len(parts[0]) == FRAME  # the first frame does not wait
    assert all(len(part) % FRAME == 0 for part in parts)
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_audio_answers_like_a_tensor(model: TTSModel, voice: ModelState) -> None:
    audio = model.generate_audio(voice, "Yes.", seed=1)
    plain = audio.detach().cpu().numpy()
    assert type(plain) is np.ndarray
    assert plain.shape == audio.shape
    first = next(iter(model.generate_audio_stream(voice, "Yes.", seed=1)))
    np.testing.assert_array_equal(first.numpy(), plain[:FRAME])


def test_seeds(model: TTSModel, voice: ModelState) -> None:
    first, again, other = (model.generate_audio(voice, "Good day.", seed=s) for s in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert len(first) != len(other) or not np.allclose(first, other, atol=1e-3)
    free = [model.generate_audio(voice, "Good day.") for _ in range(2)]
    assert len(free[0]) != len(free[1]) or not np.allclose(free[0], free[1], atol=1e-3)


def test_number_of_threads_does_not_change_the_samples(model: TTSModel, voice: ModelState) -> None:
    audio = []
    for num_threads in (1, 2, 3):
        model.num_threads = num_threads
        audio.append(model.generate_audio(voice, TEXT, seed=2))
    np.testing.assert_array_equal(audio[0], audio[1])
    np.testing.assert_array_equal(audio[0], audio[2])


def test_generations_at_the_same_time_give_what_they_give_alone(
    model: TTSModel, voice: ModelState
) -> None:
    jobs = [(TEXT, seed) for seed in range(3)] + [("A short one.", 9)]
    speak: Callable = lambda job: model.generate_audio(voice, job[0], seed=job[1])  # noqa: E731
    alone = [speak(job) for job in jobs]
    with ThreadPoolExecutor(len(jobs)) as pool:
        together = list(pool.map(speak, jobs))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_two_streams_pulled_in_turns(model: TTSModel, voice: ModelState) -> None:
    alone = [model.generate_audio(voice, TEXT, seed=seed) for seed in (1, 2)]
    streams = [iter(model.generate_audio_stream(voice, TEXT, seed=seed)) for seed in (1, 2)]
    parts: list[list[np.ndarray]] = [[], []]
    open_streams = [0, 1]
    while open_streams:
        for index in list(open_streams):
            part = next(streams[index], None)
            if part is None:
                open_streams.remove(index)
            else:
                parts[index].append(part)
    for part_list, expected in zip(parts, alone, strict=True):
        np.testing.assert_array_equal(np.concatenate(part_list), expected)


def test_stop_ends_the_stream(model: TTSModel, voice: ModelState) -> None:
    stop = threading.Event()
    stream = model.generate_audio_stream(voice, TEXT * 20, stop=stop, seed=1)
    next(stream)
    stop.set()
    assert list(stream) == []


def test_closing_ends_the_stream(model: TTSModel, voice: ModelState) -> None:
    stream = model.generate_audio_stream(voice, TEXT * 20, seed=1)
    next(stream)
    stream.close()
    assert list(stream) == []


def test_the_cap_ends_a_text_without_an_end(
    model: TTSModel, voice: ModelState, caplog: pytest.LogCaptureFixture
) -> None:
    model.eos_threshold = math.inf
    with caplog.at_level(logging.WARNING, logger="pocket_tts_cy"):
        audio = model.generate_audio(voice, "Hello world.", seed=1)
    tokens = len(model._chunks("Hello world.", 32, True)[0].token_ids)
    assert len(audio) == FRAME * math.ceil((tokens / 3 + 2) * 12.5)
    assert "without an end of speech" in caplog.text


@pytest.mark.parametrize("frames_after_eos", [0, 1, 4])
def test_frames_after_the_end(model: TTSModel, voice: ModelState, frames_after_eos: int) -> None:
    model.eos_threshold = -math.inf  # the first step that may end it does: number 6
    audio = model.generate_audio(voice, "Hello.", frames_after_eos=frames_after_eos, seed=1)
    assert len(audio) == (6 + frames_after_eos) * FRAME
    if frames_after_eos == 0:
        default = model.generate_audio(voice, "Hello.", seed=1)
        # The configuration of the embedded model recommends 3.
        assert len(default) == 9 * FRAME
        np.testing.assert_array_equal(default[: len(audio)], audio)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"frames_after_eos": -1}, "frames_after_eos"),
        ({"seed": 2**64}, "seed"),
    ],
)
def test_senseless_settings(
    model: TTSModel, voice: ModelState, arguments: dict, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        model.generate_audio(voice, "Hello.", **arguments)


def test_settings_changed_later_are_checked_too(model: TTSModel, voice: ModelState) -> None:
    model.temp = -1.0
    with pytest.raises(ValueError, match="temp"):
        model.generate_audio(voice, "Hello.")


def test_text_of_another_type(model: TTSModel, voice: ModelState) -> None:
    with pytest.raises(TypeError, match="bytes"):
        model.generate_audio(voice, b"Hello.")  # type: ignore[arg-type]


def test_steps_of_the_sampler_and_noise_count(model: TTSModel, voice: ModelState) -> None:
    model.temp = 0.0
    silent = [model.generate_audio(voice, "Hello.", seed=seed) for seed in (1, 2)]
    np.testing.assert_array_equal(*silent)
    model.temp, model.noise_clamp = 0.15, 0.05
    clamped = model.generate_audio(voice, "Hello.", seed=1)
    model.noise_clamp = None
    free = model.generate_audio(voice, "Hello.", seed=1)
    assert len(clamped) != len(free) or not np.allclose(clamped, free, atol=1e-3)


# -- voices ---------------------------------------------------------------------------------------


def copied(state: ModelState) -> ModelState:
    return {name: {key: array.copy() for key, array in e.items()} for name, e in state.items()}


def assert_same_state(one: ModelState, other: ModelState) -> None:
    assert one.keys() == other.keys()
    for name, entry in one.items():
        for key in ("cache", "offset"):
            np.testing.assert_array_equal(entry[key], other[name][key])


def test_a_state_that_was_written_and_read_speaks_the_same(
    model: TTSModel, voice: ModelState, tmp_path: Path
) -> None:
    export_model_state(voice, tmp_path / "voice.safetensors")
    for reference in (tmp_path / "voice.safetensors", str(tmp_path / "voice.safetensors")):
        back = model.get_state_for_audio_prompt(reference)
        assert_same_state(voice, back)
        np.testing.assert_array_equal(
            model.generate_audio(voice, "Hello.", seed=1),
            model.generate_audio(back, "Hello.", seed=1),
        )


def test_unused_rows_of_a_state_do_not_matter(model: TTSModel, voice: ModelState) -> None:
    padded = copied(voice)
    for entry in padded.values():
        tail = np.full_like(entry["cache"][:, :, :7], np.nan)
        entry["cache"] = np.concatenate([entry["cache"], tail], axis=2)
    np.testing.assert_array_equal(
        model.generate_audio(voice, "Hello.", seed=1),
        model.generate_audio(padded, "Hello.", seed=1),
    )


def test_a_state_stays_as_it_is(model: TTSModel, voice: ModelState) -> None:
    before = copied(voice)
    model.generate_audio(voice, TEXT, seed=1)
    assert_same_state(before, voice)


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_state_that_is_not_copied_grows(
    model: TTSModel, voice: ModelState, num_threads: int
) -> None:
    model.num_threads = num_threads
    model.eos_threshold = -math.inf
    before, state = copied(voice), copied(voice)
    length = int(state["transformer.layers.0.self_attn"]["offset"][0])
    audio = model.generate_audio(
        state, TEXT, max_tokens=30, frames_after_eos=2, copy_state=False, seed=3
    )
    chunks = model._chunks(TEXT, 30, True)
    assert len(chunks) == 2
    assert len(audio) == len(chunks) * 8 * FRAME
    # Per chunk its tokens, 8 frames, and the step after them whose frame is dropped.
    grown = length + sum(len(chunk.token_ids) + 9 for chunk in chunks)
    for name, entry in state.items():
        assert entry["offset"].tolist() == [grown]
        assert entry["cache"].shape[2] >= grown
        assert np.isfinite(entry["cache"][:, :, :grown]).all()
        np.testing.assert_array_equal(
            entry["cache"][:, :, :length], before[name]["cache"][:, :, :length]
        )
    # The first chunk is what it would be with a copy; the second one continues from it.
    kept = model.generate_audio(before, TEXT, max_tokens=30, frames_after_eos=2, seed=3)
    np.testing.assert_array_equal(audio[: 8 * FRAME], kept[: 8 * FRAME])
    assert not np.allclose(audio[8 * FRAME :], kept[8 * FRAME :], atol=1e-3)
    # And the state is a voice like any other.
    assert len(model.generate_audio(state, "Yes.", seed=1)) > 0


def test_one_chunk_after_the_other_equals_both_at_once(model: TTSModel, voice: ModelState) -> None:
    model.eos_threshold = -math.inf
    model.temp = 0.0  # no noise, so where its stream stands does not matter
    at_once, in_turn = copied(voice), copied(voice)
    whole = model.generate_audio(at_once, TEXT, max_tokens=30, copy_state=False)
    first, second = TEXT.split(". ")
    parts = [
        model.generate_audio(in_turn, part, max_tokens=30, copy_state=False)
        for part in (first + ".", second)
    ]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)


def test_a_voice_of_embeddings_is_run_through_the_model(
    model: TTSModel, voice: ModelState, tmp_path: Path
) -> None:
    d_model = model.config.flow_lm.transformer.d_model
    rows = np.random.default_rng(0).standard_normal((1, 6, d_model)).astype(np.float32)
    path = tmp_path / "old.safetensors"
    tensor = Tensor("F32", rows.shape, rows)
    write_safetensors(path, {"audio_prompt": ("F32", rows.shape)}, lambda name: tensor)
    state = model.get_state_for_audio_prompt(path)
    assert state.keys() == voice.keys()
    for entry in state.values():
        # The row that begins a voice, and the six rows.
        assert entry["offset"].tolist() == [7]
        assert entry["cache"].shape[:3] == (2, 1, 7)
        assert np.isfinite(entry["cache"]).all()
    # The first row is the same for every voice of this model, the packaged one included.
    for name, entry in state.items():
        np.testing.assert_allclose(
            entry["cache"][:, :, 0], voice[name]["cache"][:, :, 0], rtol=1e-4, atol=1e-5
        )
    assert len(model.generate_audio(state, "Hello.", seed=1)) > 0


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ("nowhere.safetensors", FileNotFoundError),
        ("nowhere.wav", FileNotFoundError),
        ("config.yaml", VoiceError),
        (np.zeros((1, 24000), dtype=np.float32), VoiceError),
    ],
)
def test_what_is_no_voice(
    model: TTSModel, reference: object, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(VOICE_FOLDER)
    with pytest.raises(kind):
        model.get_state_for_audio_prompt(reference)  # type: ignore[arg-type]


def test_predefined_voices_belong_to_released_models(tmp_path: Path) -> None:
    text = (VOICE_FOLDER / "config.yaml").read_text()
    for name in ("model.safetensors", "tokenizer.json"):
        text = text.replace(f" {name}", f" {VOICE_FOLDER / name}")
    (tmp_path / "own.yaml").write_text(text)
    model = TTSModel.load_model(config=tmp_path / "own.yaml")
    assert model.language is None
    assert model.profile.max_tokens == 50
    with pytest.raises(VoiceError, match="released weights"):
        model.get_state_for_audio_prompt("alba")
    # Its voice state fits all the same.
    state = model.get_state_for_audio_prompt(VOICE_FOLDER / "voices" / "heart.safetensors")
    assert len(model.generate_audio(state, "Hello.", seed=1)) > 0


def test_a_state_of_another_model_is_refused(model: TTSModel, voice: ModelState) -> None:
    other = copied(voice)
    del other["transformer.layers.5.self_attn"]
    with pytest.raises(VoiceError, match="layers"):
        model.generate_audio(other, "Hello.")
    with pytest.raises(VoiceError):
        model.generate_audio({}, "Hello.")


# -- memory ---------------------------------------------------------------------------------------


def resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    import resource

    return int(pages) * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_memory_does_not_grow(model: TTSModel, voice: ModelState) -> None:
    model.eos_threshold = math.inf

    def five_hundred_steps() -> None:
        frames = 0
        while frames < 500:
            for part in model.generate_audio_stream(voice, TEXT, seed=1):
                frames += len(part) // FRAME

    five_hundred_steps()
    gc.collect()
    before = resident_bytes()
    five_hundred_steps()
    gc.collect()
    assert resident_bytes() - before < 1_000_000


@pytest.mark.parametrize("precision", PRECISIONS)
def test_models_do_not_disturb_each_other(
    model: TTSModel, voice: ModelState, precision: str
) -> None:
    expected = model.generate_audio(voice, "Good day.", seed=8)
    other = TTSModel.load_model("embedded", precision=precision, temp=0.4)
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(m.generate_audio, voice, "Good day.", seed=8) for m in (model, other)]
        audio = [job.result() for job in jobs]
    np.testing.assert_array_equal(audio[0], expected)
    np.testing.assert_array_equal(audio[1], other.generate_audio(voice, "Good day.", seed=8))


def test_a_model_is_freed_as_soon_as_nobody_has_it(voice: ModelState) -> None:
    model = TTSModel.load_model("embedded")
    model.generate_audio(voice, "Hello.", seed=1)
    watched = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert watched() is None
    finally:
        gc.enable()
