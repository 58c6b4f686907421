"""The safetensors reader and writer against the safetensors library, and hostile files."""

import itertools
import json
import mmap
import os
import struct
import sys

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pocket_tts_cy.errors import VoiceError, WeightsError
from pocket_tts_cy.safetensors_reader import MAX_HEADER_BYTES, Tensor, read_safetensors
from pocket_tts_cy.safetensors_writer import write_safetensors

LIBRARY_TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
}


def file_bytes(header, data=b"", length=None):
    """A file with any header: a JSON value or raw bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.fixture
def write(tmp_path):
    def to_file(content):
        path = tmp_path / "model.safetensors"
        path.write_bytes(content)
        return path

    return to_file


def base_of(array):
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    return array.obj if isinstance(array, memoryview) else array


# ------------------------------------------------------------------------------------------------
# Good files


def test_every_type_reads_as_the_library_wrote_it(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {}
    for index, numpy_type in enumerate(LIBRARY_TYPES.values()):
        values = rng.integers(0, 100, size=(3, index, 2)).astype(numpy_type)
        tensors[f"t{index}"] = values
    tensors["scalar"] = np.array(7, np.float32)
    tensors["flags"] = np.array([True, False])
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file(tensors, path, metadata={"format": "np"})
    read = read_safetensors(path)
    assert set(read) == set(tensors)
    for name, values in tensors.items():
        assert read[name].shape == values.shape == read[name].data.shape
        np.testing.assert_array_equal(read[name].data, values)
        np.testing.assert_array_equal(read[name].as_float32(), values.astype(np.float32))
    for index, dtype in enumerate(LIBRARY_TYPES):
        assert read[f"t{index}"].dtype == dtype
        assert read[f"t{index}"].data.dtype == LIBRARY_TYPES[dtype]
    assert read["flags"].dtype == "BOOL"


def test_aligned_data_is_a_read_only_view_of_the_map(write):
    path = write(file_bytes(json.dumps({"a": entry()}).encode().ljust(72), b"\0" * 8))
    data = read_safetensors(path)["a"].data
    assert isinstance(base_of(data), mmap.mmap)
    assert not data.flags.writeable


def test_unaligned_data_is_copied(write):
    values = np.array([1.5, -2.5], np.float32)
    for shift in range(1, 5):
        text = json.dumps({"a": entry()}).encode()
        text = text.ljust(72 + shift)
        tensor = read_safetensors(write(file_bytes(text, values.tobytes())))["a"]
        assert tensor.data.flags.aligned
        assert not tensor.data.flags.writeable
        np.testing.assert_array_equal(tensor.data, values)


def test_a_file_without_tensors_is_empty(write):
    assert read_safetensors(write(file_bytes({}))) == {}
    assert read_safetensors(write(file_bytes({"__metadata__": {"a": "b"}}))) == {}


def test_as_float32_is_a_copy():
    tensor = Tensor.from_float32(np.ones(3), "F32")
    tensor.as_float32()[0] = 5
    np.testing.assert_array_equal(tensor.data, 1)


def test_bfloat16_keeps_all_its_values():
    bits = np.arange(1 << 16, dtype=np.uint16)
    wide = Tensor("BF16", bits.shape, bits).as_float32()
    np.testing.assert_array_equal(wide.view(np.uint32), bits.astype(np.uint32) << 16)
    again = Tensor.from_float32(wide, "BF16").data
    numbers = ~np.isnan(wide)
    np.testing.assert_array_equal(again[numbers], bits[numbers])
    assert np.isnan(Tensor("BF16", (1,), again[~numbers][:1]).as_float32()).all()


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_bfloat16_rounds_to_the_nearest_even_value(value):
    word = int(Tensor.from_float32(np.array([value]), "BF16").data[0])
    candidates = {(word + step) & 0xFFFF for step in (-1, 0, 1)}

    def as_exact(bits):
        number = float(np.array([bits << 16], np.uint32).view(np.float32)[0])
        # The step past the largest value counts as the next power of two when rounding.
        return np.copysign(2.0**128, number) if np.isinf(number) else number

    numbers = {bits: as_exact(bits) for bits in candidates}
    same_sign = {b: n for b, n in numbers.items() if not np.isnan(n) and (b ^ word) < 0x8000}
    best = min(abs(n - value) for n in same_sign.values())
    assert abs(numbers[word] - value) == best
    ties = [bits for bits, number in same_sign.items() if abs(number - value) == best]
    assert len(ties) == 1 or word % 2 == 0


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_scalars_keep_their_shape(dtype):
    for value in (1.5, np.nan):
        tensor = Tensor.from_float32(np.float32(value), dtype)
        assert tensor.shape == tensor.data.shape == tensor.as_float32().shape == ()
        np.testing.assert_array_equal(tensor.as_float32(), value)


def test_float16_rounding_is_numpys():
    values = np.array([1.0, 1.0005, 65504, 1e-8, -3.14159], np.float32)
    np.testing.assert_array_equal(
        Tensor.from_float32(values, "F16").data, values.astype(np.float16)
    )
    with pytest.raises(ValueError, match="I8"):
        Tensor.from_float32(values, "I8")


# ------------------------------------------------------------------------------------------------
# Damaged files

TWO = {"a": entry(), "b": entry(offsets=(8, 16))}
BROKEN = {
    "empty": (b"", "has 0 bytes"),
    "seven bytes": (b"1234567", "has 7 bytes"),
    "length beyond the file": (file_bytes({}, length=1000), "should have 1000 bytes, at most 2"),
    "length of 2**64-1": (b"\xff" * 8 + b"{}", "18446744073709551615 bytes"),
    "not an object": (file_bytes([]), "not a JSON object"),
    "leading space": (file_bytes(b" {}"), "not a JSON object"),
    "no JSON": (file_bytes(b"{nonsense"), "not valid JSON"),
    "not UTF-8": (file_bytes(b'{"\xff": 1}'), "not valid JSON"),
    "deeply nested": (file_bytes(b'{"a":' + b"[" * 100_000), "not valid JSON"),
    "huge number": (file_bytes(b'{"a": ' + b"9" * 5000 + b"}"), "not valid JSON"),
    "name twice": (
        file_bytes(b'{"a": {}, "b": {}, "a": {}}'),
        "has 'a' twice",
    ),
    "metadata of numbers": (file_bytes({"__metadata__": {"a": 1}}), "__metadata__"),
    "metadata list": (file_bytes({"__metadata__": []}), "__metadata__"),
    "entry is a number": (file_bytes({"a": 3}), "tensor 'a': should have exactly dtype"),
    "entry without shape": (
        file_bytes({"a": {"dtype": "F32", "data_offsets": [0, 4]}}),
        "tensor 'a': should have exactly dtype, shape",
    ),
    "entry with more": (file_bytes({"a": {**entry(), "x": 1}}, b"\0" * 8), "exactly dtype"),
    "unknown type": (file_bytes({"a": entry("F31")}, b"\0" * 8), "'F31' is not one of BF16, BOOL"),
    "type is a list": (file_bytes({"a": entry(["F32"])}, b"\0" * 8), r"\['F32'\] is not one of"),
    "type is an object": (file_bytes({"a": entry({"F": 1})}, b"\0" * 8), "an object is not one"),
    "negative size": (file_bytes({"a": entry(shape=(-2,))}, b"\0" * 8), r"shape \[-2\] should be"),
    "size is true": (file_bytes({"a": entry(shape=(True, 2))}, b"\0" * 8), "should be a list"),
    "size is 2.0": (file_bytes({"a": entry(shape=(2.0,))}, b"\0" * 8), "should be a list"),
    "nine dimensions": (file_bytes({"a": entry(shape=[1] * 8 + [2])}, b"\0" * 8), "at most 8"),
    "shape is text": (
        file_bytes({"a": {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]}}, b"\0" * 8),
        "should be a list",
    ),
    "product overflows": (
        file_bytes({"a": entry(shape=(2**32, 2**32))}, b"\0" * 8),
        "too large for any file",
    ),
    "product overflows beside a zero": (
        file_bytes({"a": entry(shape=(0, 2**32, 2**32), offsets=(0, 0))}),
        "too large for any file",
    ),
    "size of 4000 digits": (
        file_bytes(b'{"a":{"dtype":"F32","shape":[' + b"9" * 4000 + b'],"data_offsets":[0,8]}}'),
        "too large for any file",
    ),
    "three offsets": (file_bytes({"a": entry(offsets=(0, 8, 8))}, b"\0" * 8), "two integers"),
    "offset is text": (file_bytes({"a": entry(offsets=("0", 8))}, b"\0" * 8), "two integers"),
    "negative offset": (file_bytes({"a": entry(offsets=(-8, 0))}, b"\0" * 8), "two integers"),
    "end before begin": (file_bytes({"a": entry(offsets=(8, 0))}, b"\0" * 8), "not inside"),
    "end beyond the file": (file_bytes({"a": entry()}, b"\0" * 7), "7 bytes of data"),
    "offset of 4000 digits": (
        file_bytes(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,' + b"9" * 4000 + b"]}}"),
        "a number of 13288 bits",
    ),
    "bytes do not match shape": (
        file_bytes({"a": entry(shape=(3,))}, b"\0" * 8),
        r"F32 of shape \[3\] needs 12 bytes, the header gives 8",
    ),
    "overlap": (
        file_bytes({"a": entry(), "b": entry(offsets=(4, 12))}, b"\0" * 12),
        "'b' overlaps another tensor",
    ),
    "hole": (
        file_bytes({"a": entry(), "b": entry(offsets=(12, 20))}, b"\0" * 20),
        "'b' leaves a hole before it: it starts at byte 12, 8 was expected",
    ),
    "hole at the start": (file_bytes({"a": entry(offsets=(4, 12))}, b"\0" * 12), "hole"),
    "bytes at the end": (file_bytes(TWO, b"\0" * 17), "fill 16 bytes but the file has 17"),
    "hidden text in a name": (
        file_bytes({"\x1b[2J\ud800": 3}),
        r"tensor '\\x1b\[2J\\ud800': should",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_damaged_file_is_one_clear_error(write, case):
    content, message = BROKEN[case]
    path = write(content)
    with pytest.raises(WeightsError, match=message) as caught:
        read_safetensors(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert len(text) < 500 + len(str(path))
    with pytest.raises(VoiceError, match=message):
        read_safetensors(path, VoiceError)


def test_nesting_near_the_interpreters_limit(write):
    # Just accepted by the JSON parser, such a value must not be too deep for a message.
    limit = sys.getrecursionlimit()
    for depth in range(limit - 150, limit + 5):
        text = b'{"a":{"dtype":' + b"[" * depth + b"]" * depth + b',"shape":[],"data_offsets":[]}}'
        with pytest.raises(WeightsError, match=r"a nested list is not|not valid JSON"):
            read_safetensors(write(file_bytes(text)))


def test_a_header_above_the_formats_limit_is_refused(tmp_path):
    path = tmp_path / "big.safetensors"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER_BYTES + 1))
        file.truncate(MAX_HEADER_BYTES + 100)
    with pytest.raises(WeightsError, match="at most 100000000 are possible"):
        read_safetensors(path)


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors"):
        read_safetensors(tmp_path / "nothing.safetensors")
    with pytest.raises(WeightsError, match="not a regular file"):
        read_safetensors(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WeightsError, match="not a regular file"):
        read_safetensors(tmp_path / "pipe")


# The order of the types is that of a file by the library: wide ones first.
SAMPLE = {
    "b/offset": np.array([5], np.int64),
    "a/weights": np.arange(6, dtype=np.float32).reshape(2, 3),
    "empty": np.zeros((0, 2), np.float32),
    "half": np.ones(3, np.float16),
}
SAMPLE_BYTES = safetensors.numpy.save(SAMPLE, metadata={"k": "v"})
EDIT = st.tuples(
    st.sampled_from(["set", "insert", "delete", "digit"]),
    # Mostly the header, where the checks are.
    st.integers(0, len(SAMPLE_BYTES) - 1) | st.integers(0, 24),
    st.integers(0, 255),
)


def edited(content, edits, length):
    content = bytearray(content)
    for kind, position, value in edits:
        position %= len(content)
        if kind == "set":
            content[position] = value
        elif kind == "insert":
            content.insert(position, value)
        elif kind == "delete" and len(content) > 1:
            del content[position]
        elif kind == "digit" and content[position : position + 1].isdigit():
            content[position] = ord("0") + value % 10
    return bytes(content[:length])


def outcome(path):
    """The tensors or the message of the one allowed kind of error."""
    try:
        return read_safetensors(path), None
    except WeightsError as error:
        return None, str(error)


@settings(max_examples=1500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(EDIT, max_size=6), length=st.none() | st.integers(0, len(SAMPLE_BYTES)))
def test_a_changed_file_reads_as_the_library_does_or_is_refused(tmp_path, edits, length):
    content = edited(SAMPLE_BYTES, edits, length)
    path = tmp_path / "fuzzed.safetensors"
    path.write_bytes(content)
    tensors, error = outcome(path)
    if error is not None:
        assert str(path) in error
        assert "\n" not in error
        return
    # What is accepted has the meaning that the library gives it.
    library = dict(safetensors.deserialize(content))
    assert set(tensors) == set(library)
    for name, tensor in tensors.items():
        assert tensor.dtype == library[name]["dtype"]
        assert list(tensor.shape) == list(library[name]["shape"])
        assert tensor.data.tobytes() == bytes(library[name]["data"])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
ODD_ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "U8", "BOOL", "F8_E4M3"]) | VALUES,
        "shape": st.lists(st.integers(-1, 5), max_size=4) | VALUES,
        "data_offsets": st.lists(st.integers(0, 40), min_size=2, max_size=2) | VALUES,
    }
)


@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=st.dictionaries(st.text(max_size=4), ODD_ENTRY | VALUES, max_size=3))
def test_any_header_gives_a_result_or_a_clean_error(tmp_path, header):
    path = tmp_path / "odd.safetensors"
    path.write_bytes(file_bytes(header, b"\0" * 32))
    tensors, error = outcome(path)
    if error is not None:
        assert str(path) in error
        assert "\n" not in error
    else:
        assert sum(tensor.data.nbytes for tensor in tensors.values()) == 32


# ------------------------------------------------------------------------------------------------
# Writer


def test_written_files_are_read_by_the_library_and_aligned(tmp_path):
    path = tmp_path / "out.safetensors"
    tensors = {
        "h": Tensor.from_float32(np.arange(3), "F16"),
        "z": Tensor.from_float32(np.arange(6).reshape(2, 3), "F32"),
        "a": Tensor("F32", (2, 2), np.arange(8, dtype=np.float32).reshape(4, 2)[::2]),
        "scalar": Tensor("I64", (), np.array(3)),
        "none": Tensor.from_float32(np.zeros((2, 0)), "F32"),
    }
    order = []

    def tensor(name):
        order.append(name)
        return tensors[name]

    write_safetensors(path, {n: (t.dtype, t.shape) for n, t in tensors.items()}, tensor)
    assert order == ["scalar", "a", "none", "z", "h"]
    library = safetensors.numpy.load_file(path)
    read = read_safetensors(path)
    assert list(tmp_path.iterdir()) == [path]
    for name, expected in tensors.items():
        np.testing.assert_array_equal(library[name], expected.data)
        np.testing.assert_array_equal(read[name].data, expected.data)
    assert isinstance(base_of(read["z"].data), mmap.mmap)
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_bfloat16_files_have_the_librarys_layout(tmp_path):
    path = tmp_path / "out.safetensors"
    tensor = Tensor.from_float32(np.array([1.0, -2.0, 0.5]), "BF16")
    write_safetensors(path, {"w": ("BF16", (3,))}, {"w": tensor}.__getitem__)
    [(name, library)] = safetensors.deserialize(path.read_bytes())
    assert (name, library["dtype"], list(library["shape"])) == ("w", "BF16", [3])
    assert bytes(library["data"]) == struct.pack("<3H", 0x3F80, 0xC000, 0x3F00)


def test_a_failing_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "out.safetensors"
    path.write_bytes(b"old")
    good = Tensor.from_float32(np.ones(2), "F32")
    for bad in (Tensor.from_float32(np.ones(3), "F32"), Tensor.from_float32(np.ones(2), "F16")):
        answers = itertools.chain([good, bad])
        with pytest.raises(ValueError, match="b is F"):
            write_safetensors(
                path, {"a": ("F32", (2,)), "b": ("F32", (2,))}, lambda _, a=answers: next(a)
            )
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]
