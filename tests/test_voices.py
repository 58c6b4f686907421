"""Voice states: the reference's files, round trips, other models' voices and damaged files."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_config import EMBEDDED, tiny_config

from pocket_tts_cy.config import load_config
from pocket_tts_cy.errors import VoiceError
from pocket_tts_cy.safetensors_reader import Tensor
from pocket_tts_cy.safetensors_writer import write_safetensors
from pocket_tts_cy.voices import (
    MAX_POSITIONS,
    AudioPrompt,
    check_model_state,
    export_model_state,
    is_voice_state_source,
    layer_name,
    read_voice_state,
    state_length,
)

DATA = Path(__file__).parent / "data"
REFERENCE = DATA / "voice_reference.safetensors"
CONFIG = tiny_config()
L0, L1 = layer_name(0), layer_name(1)
USED = 5


def new_state(length=USED, rows=None, layers=2, heads=2, width=6):
    """A state of CONFIG with random keys and values."""
    rng = np.random.default_rng(length)
    shape = (2, 1, length if rows is None else rows, heads, width)
    return {
        layer_name(index): {
            "offset": np.array([length]),
            "pad": np.array([0]),
            "cache": rng.standard_normal(shape, dtype=np.float32),
        }
        for index in range(layers)
    }


def flat(state):
    return {f"{name}/{part}": v for name, entry in state.items() for part, v in entry.items()}


def save(path, state):
    """Write any dictionary of arrays with the safetensors library."""
    arrays = {name: np.array(value, order="C") for name, value in state.items()}
    safetensors.numpy.save_file(arrays, path)
    return path


def assert_same_voice(actual, expected):
    assert list(actual) == list(expected)
    length = state_length(expected)
    assert state_length(actual) == length
    for name, entry in expected.items():
        np.testing.assert_array_equal(
            actual[name]["cache"][:, :, :length], entry["cache"][:, :, :length]
        )


# ------------------------------------------------------------------------------------------------
# Reading


def test_a_file_of_the_reference_with_unused_rows():
    state = read_voice_state(REFERENCE, CONFIG)
    golden = np.load(DATA / "voice_reference_used.npz")
    assert list(state) == list(golden) == [L0, L1]
    assert state_length(state) == USED
    for name, entry in state.items():
        assert entry["cache"].shape == (2, 1, 7, 2, 6)
        np.testing.assert_array_equal(entry["cache"][:, :, :USED], golden[name])
        assert np.isnan(entry["cache"][:, :, USED:]).all()
        assert entry["offset"].dtype == entry["pad"].dtype == np.int64
        assert (entry["offset"].tolist(), entry["pad"].tolist()) == ([USED], [0])


def test_the_embedded_voice():
    config = load_config(EMBEDDED / "config.yaml")
    path = EMBEDDED / "voices" / "heart.safetensors"
    state = read_voice_state(path, config)
    library = safetensors.numpy.load_file(path)
    assert list(state) == [layer_name(index) for index in range(6)]
    for key, value in library.items():
        name, part = key.split("/")
        np.testing.assert_array_equal(state[name][part], value)
    assert state_length(state) == library[f"{L0}/offset"][0]


def test_float32_caches_are_views_of_the_map():
    for entry in read_voice_state(REFERENCE, CONFIG).values():
        assert not entry["cache"].flags.owndata
        assert not entry["cache"].flags.writeable
        assert entry["cache"].flags.c_contiguous


def test_older_files_with_current_end(tmp_path):
    state = new_state(rows=9)
    tensors = {f"{name}/cache": entry["cache"] for name, entry in state.items()}
    for name in state:
        tensors[f"{name}/current_end"] = np.zeros(USED, np.float32)
    read = read_voice_state(save(tmp_path / "old.safetensors", tensors), CONFIG)
    assert_same_voice(read, state)
    assert all(entry["pad"].tolist() == [0] for entry in read.values())


@pytest.mark.parametrize(("dtype", "bound"), [("F16", 2**-11), ("BF16", 2**-8)])
def test_16_bit_caches_become_float32(tmp_path, dtype, bound):
    state = new_state()
    tensors = {
        key: Tensor.from_float32(value, dtype)
        if key.endswith("cache")
        else Tensor("I64", (1,), value)
        for key, value in flat(state).items()
    }
    path = tmp_path / "half.safetensors"
    write_safetensors(
        path, {key: (t.dtype, t.shape) for key, t in tensors.items()}, tensors.__getitem__
    )
    read = read_voice_state(path, CONFIG)
    for name, entry in state.items():
        assert read[name]["cache"].dtype == np.float32
        np.testing.assert_allclose(read[name]["cache"], entry["cache"], rtol=bound, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_oldest_files_give_embeddings(tmp_path, dtype):
    rows = np.random.default_rng(0).standard_normal((1, 4, 12)).astype(dtype)
    voice = read_voice_state(save(tmp_path / "v.safetensors", {"audio_prompt": rows}), CONFIG)
    assert isinstance(voice, AudioPrompt)
    assert voice.embeddings.dtype == np.float32
    np.testing.assert_array_equal(voice.embeddings, rows[0])


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        read_voice_state(tmp_path / "none.safetensors", CONFIG)


# ------------------------------------------------------------------------------------------------
# Refusals


def change(part, value, name=L1):
    """An edit that sets (or, with None, removes) one entry of a state."""

    def edit(tensors):
        if value is None:
            del tensors[f"{name}/{part}"]
        else:
            tensors[f"{name}/{part}"] = np.asarray(value)

    return edit


def spoil(value):
    def edit(tensors):
        tensors[f"{L1}/cache"][1, 0, USED - 1, 1, 2] = value

    return edit


BAD_FILES = {
    "one layer too few": (
        lambda t: [t.pop(key) for key in list(t) if key.startswith(L1)],
        "made for another model: it has 1 layers, this model has 2",
    ),
    "one layer too many": (change("offset", [USED], layer_name(2)), "3 layers, this model has 2"),
    "wrong layer number": (
        lambda t: t.update({k.replace("s.1.", "s.7."): t.pop(k) for k in list(t) if L1 in k}),
        f"{L1} is missing",
    ),
    "layer number with a zero": (
        change("offset", [USED], "transformer.layers.01.self_attn"),
        "layers.01.self_attn/offset' is not part of a voice",
    ),
    "no cache": (change("cache", None), f"{L1}/cache is missing"),
    "no offset": (change("offset", None), f"{L1}/offset is missing"),
    "foreign part": (change("cache2", [1.0]), f"{L1}/cache2' is not part of a voice"),
    "foreign name": (lambda t: t.update(weights=np.ones(2)), "'weights' is not part of a voice"),
    "two slashes": (change("cache/x", [1.0]), "cache/x' is not part of a voice"),
    "other heads": (
        change("cache", np.zeros((2, 1, USED, 4, 6), np.float32)),
        r"made for another model: .*layers.1.self_attn/cache has shape \[2, 1, 5, 4, 6\], "
        r"this model needs \[2, 1, T, 2, 6\]",
    ),
    "other width": (
        change("cache", np.zeros((2, 1, USED, 2, 8), np.float32)),
        "made for another model",
    ),
    "batch of two": (
        change("cache", np.zeros((2, 2, USED, 2, 6), np.float32)),
        r"has shape \[2, 2, 5, 2, 6\], expected \[2, 1, T, 2, 6\]",
    ),
    "four dimensions": (change("cache", np.zeros((2, USED, 2, 6), np.float32)), "has shape"),
    "integer cache": (change("cache", np.zeros((2, 1, USED, 2, 6), np.int32)), "has type I32"),
    "rows missing": (
        change("cache", np.zeros((2, 1, 4, 2, 6), np.float32)),
        f"{L1}/offset is 5 but {L1}/cache has 4 rows",
    ),
    "unequal offsets": (change("offset", [4]), f"{L1}/offset is 4 but {L0}/offset is 5"),
    "negative offset": (change("offset", [-1], L0), "offset is -1, expected 0 to 100000"),
    "huge offset": (change("offset", [2**62], L0), f"{L0}/offset is {2**62}, expected 0 to"),
    "unsigned offset": (change("offset", np.array([2**64 - 1], np.uint64)), "expected 0 to"),
    "float offset": (change("offset", [5.0]), "offset' should be one integer, found F64"),
    "two offsets": (change("offset", [5, 5]), r"one integer, found I64 of shape \[2\]"),
    "empty offset": (change("offset", np.zeros(0, np.int64)), "should be one integer"),
    "padding": (change("pad", [3]), f"{L1}/pad should be 0"),
    "scalar current_end": (
        lambda t: (t.pop(f"{L1}/offset"), change("current_end", np.float32(3))(t)),
        "its length the offset",
    ),
    "both kinds of offset": (
        change("current_end", np.zeros(USED)),
        f"{L1} has both offset and current_end",
    ),
    "not a number": (spoil(np.nan), f"{L1}/cache has values that are not finite among its first 5"),
    "infinite": (spoil(-np.inf), "not finite"),
    "prompt of another width": (
        lambda t: (t.clear(), t.update(audio_prompt=np.zeros((1, 3, 16), np.float32))),
        "made for another model: audio_prompt has rows of 16 values, this model needs 12",
    ),
    "prompt without rows": (
        lambda t: (t.clear(), t.update(audio_prompt=np.zeros((1, 0, 12), np.float32))),
        r"has shape \[1, 0, 12\], expected \[1, T, 12\]",
    ),
    "prompt of two dimensions": (
        lambda t: (t.clear(), t.update(audio_prompt=np.zeros((3, 12), np.float32))),
        "has shape",
    ),
    "prompt of integers": (
        lambda t: (t.clear(), t.update(audio_prompt=np.zeros((1, 3, 12), np.int64))),
        "audio_prompt has type I64",
    ),
    "prompt not finite": (
        lambda t: (t.clear(), t.update(audio_prompt=np.full((1, 3, 12), np.inf, np.float32))),
        "audio_prompt has values that are not finite",
    ),
    "nothing": (lambda t: t.clear(), "expected a mapping with 2 layers"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_voice_that_does_not_fit_is_one_clear_error(tmp_path, case):
    edit, message = BAD_FILES[case]
    tensors = flat(new_state())
    edit(tensors)
    path = save(tmp_path / "v.safetensors", tensors)
    with pytest.raises(VoiceError, match=message) as caught:
        read_voice_state(path, CONFIG)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_weights_file_is_no_voice():
    with pytest.raises(VoiceError, match="is not part of a voice"):
        read_voice_state(EMBEDDED / "model.safetensors", CONFIG)


def test_the_length_limit(tmp_path):
    cache = np.broadcast_to(np.float32(0), (2, 1, MAX_POSITIONS + 1, 2, 6))
    entry = {"cache": cache, "offset": np.array([MAX_POSITIONS])}
    check_model_state({L0: entry, L1: entry}, CONFIG, values=False)
    entry = {"cache": cache, "offset": np.array([MAX_POSITIONS + 1])}
    with pytest.raises(VoiceError, match="expected 0 to 100000"):
        check_model_state({L0: entry, L1: entry}, CONFIG, values=False)


def outcome(path):
    """The state or the message of the one allowed kind of error."""
    try:
        return read_voice_state(path, CONFIG), None
    except VoiceError as error:
        return None, str(error)


REFERENCE_BYTES = REFERENCE.read_bytes()


@settings(max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(
        st.tuples(st.integers(0, len(REFERENCE_BYTES) - 1), st.integers(0, 255)), max_size=8
    ),
    length=st.none() | st.integers(0, len(REFERENCE_BYTES)),
)
def test_a_changed_file_gives_a_usable_state_or_a_clean_error(tmp_path, edits, length):
    content = bytearray(REFERENCE_BYTES)
    for position, value in edits:
        content[position] = value
    path = tmp_path / "fuzzed.safetensors"
    path.write_bytes(content[:length])
    state, error = outcome(path)
    if error is not None:
        assert str(path) in error
        assert "\n" not in error
    else:
        used = state_length(state)
        for entry in state.values():
            assert entry["cache"].shape[2] >= used
            assert np.isfinite(entry["cache"][:, :, :used]).all()


# ------------------------------------------------------------------------------------------------
# States given by callers


def test_states_of_callers_are_checked():
    check_model_state(new_state(), CONFIG)
    check_model_state(new_state(0), CONFIG)
    check_model_state(pickle.loads(pickle.dumps(new_state())), CONFIG)
    for bad in (None, [], {}, {"x": 1}, {L0: 1, L1: 2}, {3: {}, 4: {}}):
        with pytest.raises(VoiceError):
            check_model_state(bad, CONFIG)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("cache", np.zeros((2, 1, 5, 2, 6)), "type float64, expected float32"),
        ("cache", [[1.0]], "should be a NumPy array, found list"),
        ("offset", 5, "should be a NumPy array, found int"),
        ("offset", np.array([5.0]), "should be one integer"),
        ("pad", 0, "should be one integer"),
        ("pad", np.array([1]), "should be 0"),
    ],
)
def test_wrong_kinds_in_a_callers_state(part, value, message):
    state = new_state()
    state[L1][part] = value
    with pytest.raises(VoiceError, match=message):
        check_model_state(state, CONFIG)


def test_values_are_scanned_unless_told_otherwise():
    state = new_state()
    state[L0]["cache"][0, 0, 0, 0, 0] = np.nan
    check_model_state(state, CONFIG, values=False)
    with pytest.raises(VoiceError, match="not finite"):
        check_model_state(state, CONFIG)


# ------------------------------------------------------------------------------------------------
# Writing


@given(length=st.integers(0, 6), spare=st.integers(0, 3))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trip_keeps_the_used_rows_only(tmp_path, length, spare):
    state = new_state(length, rows=length + spare)
    for entry in state.values():
        entry["cache"][:, :, length:] = np.nan
    before = copy.deepcopy(state)
    path = tmp_path / "voice.safetensors"
    export_model_state(state, path)
    read = read_voice_state(path, CONFIG)
    assert_same_voice(read, state)
    assert all(entry["cache"].shape[2] == length for entry in read.values())
    np.testing.assert_equal(state, before)
    assert [item.name for item in tmp_path.iterdir()] == ["voice.safetensors"]


def test_exported_files_have_the_references_names_and_types(tmp_path):
    path = tmp_path / "voice.safetensors"
    export_model_state(read_voice_state(REFERENCE, CONFIG), path)
    ours, reference = safetensors.numpy.load_file(path), safetensors.numpy.load_file(REFERENCE)
    assert set(ours) == set(reference)
    for key, expected in reference.items():
        assert ours[key].dtype == expected.dtype
        trimmed = expected[:, :, :USED] if key.endswith("cache") else expected
        np.testing.assert_array_equal(ours[key], trimmed)


def test_a_failed_export_leaves_nothing(tmp_path):
    path = tmp_path / "voice.safetensors"
    too_long = new_state()
    too_long[L1]["offset"] = np.array([6])
    for bad in ({}, None, {"mimi": {}}, {L0: {"cache": np.zeros(3)}}, too_long):
        with pytest.raises(VoiceError):
            export_model_state(bad, path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        export_model_state(new_state(), tmp_path / "no" / "voice.safetensors")
    with pytest.raises(IsADirectoryError):
        export_model_state(new_state(), tmp_path)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("voice.safetensors", True),
        (Path("a/voice.safetensors"), True),
        ("voice.wav", False),
        ("alba", False),
        ("https://example.org/v.safetensors?download=true#x", True),
        ("https://example.org/v.wav?name=v.safetensors", False),
        ("hf://owner/repo/v.safetensors@main", True),
        ("hf://owner/repo/v.safetensors", True),
        ("hf://owner/repo/v.wav@x.safetensors", False),
        ("v.safetensors@main", False),
    ],
)
def test_names_of_voice_states(source, expected):
    assert is_voice_state_source(source) is expected
