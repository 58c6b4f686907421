"""Names, shapes, file layouts and renames of a model's weights."""

import dataclasses
import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
from tiny_config import EMBEDDED, tiny_mapping

from pocket_tts_cy import download
from pocket_tts_cy.config import load_config, parse_config
from pocket_tts_cy.errors import ConfigError, DownloadError, WeightsError
from pocket_tts_cy.safetensors_reader import Tensor, read_safetensors
from pocket_tts_cy.safetensors_writer import write_safetensors
from pocket_tts_cy.weights import (
    check_tensors,
    expected_shapes,
    load_weights,
    read_flow_lm,
    read_mimi,
)

DATA = Path(__file__).parent / "data"
SHAPES = json.loads(gzip.decompress((DATA / "state_dict_shapes.json.gz").read_bytes()))


def save(path, tensors):
    layout = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    write_safetensors(path, layout, tensors.__getitem__)
    return path


def model_of(dtype="F32", **paths):
    """A tiny configuration with the given paths, and random tensors for it."""
    mapping = tiny_mapping()
    mapping.pop("weights_path")
    for name, value in paths.items():
        part, _, key = name.rpartition("__")
        (mapping[part] if part else mapping)[key] = value
    config = parse_config(mapping, "tiny")
    rng = np.random.default_rng(0)
    tensors = {
        name: Tensor.from_float32(rng.standard_normal(shape, dtype=np.float32), dtype)
        for name, shape in expected_shapes(config).items()
    }
    return config, tensors


def assert_same(actual, expected):
    assert set(actual) == set(expected)
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype
        np.testing.assert_array_equal(actual[name].data, tensor.data)


# ------------------------------------------------------------------------------------------------
# Names and shapes


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_equal_the_reference(name):
    config = parse_config(SHAPES[name]["config"], name)
    golden = {key: tuple(shape) for key, shape in SHAPES[name]["shapes"].items()}
    assert expected_shapes(config) == golden


def test_all_released_models_are_covered():
    assert len(SHAPES) == 29
    assert {"english", "english_2m_2026-10", "voice/config", "unusual"} <= set(SHAPES)


def test_the_embedded_model_loads():
    config = load_config(EMBEDDED / "config.yaml")
    weights = load_weights(config, EMBEDDED)
    assert (weights.dtype, weights.has_voice_cloning) == ("BF16", True)
    assert weights.files == [EMBEDDED / "model.safetensors"]
    assert {name: t.shape for name, t in weights.tensors.items()} == expected_shapes(config)
    # The model card's figure; the frequencies of time embeddings do not occur in this model.
    assert sum(tensor.data.size for tensor in weights.tensors.values()) == 4_906_422


# ------------------------------------------------------------------------------------------------
# Layouts


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_bundle(tmp_path, dtype):
    config, tensors = model_of(dtype, weights_path="model.safetensors")
    path = save(tmp_path / "model.safetensors", tensors)
    weights = load_weights(config, tmp_path)
    assert_same(weights.tensors, tensors)
    assert (weights.dtype, weights.has_voice_cloning, weights.files) == (dtype, True, [path])


def test_mixed_types_count_as_float32(tmp_path):
    config, tensors = model_of("BF16", weights_path="model.safetensors")
    for name in ("flow_lm.transformer.layers.1.linear1.weight", "mimi.decoder.model.0.conv.bias"):
        before = {**tensors}
        tensors[name] = Tensor.from_float32(tensors[name].as_float32(), "F32")
        save(tmp_path / "model.safetensors", tensors)
        found = load_weights(config, tmp_path).dtype
        # Only the matrices of the FlowLM's transformer count.
        assert found == ("F32" if name.startswith("flow_lm.transformer") else "BF16")
        tensors = before


@pytest.mark.parametrize("error", [DownloadError, FileNotFoundError])
def test_the_bundle_without_voice_cloning(tmp_path, monkeypatch, error):
    config, tensors = model_of(
        weights_path="hf://o/r/gated.safetensors",
        weights_path_without_voice_cloning="open.safetensors",
    )
    path = save(tmp_path / "open.safetensors", tensors)
    resolve = download.resolve_path

    def refusing(reference, base=None):
        if "gated" in str(reference):
            raise error("accept the licence first")
        return resolve(reference, base)

    monkeypatch.setattr(download, "resolve_path", refusing)
    weights = load_weights(config, tmp_path)
    assert_same(weights.tensors, tensors)
    assert (weights.has_voice_cloning, weights.files) == (False, [path])

    config, _ = model_of(weights_path="hf://o/r/gated.safetensors")
    with pytest.raises(error, match="licence"):
        load_weights(config, tmp_path)


def test_separate_files_in_the_names_of_the_bundle(tmp_path):
    config, tensors = model_of(
        flow_lm__weights_path="flow.safetensors", mimi__weights_path="mimi.safetensors"
    )
    flow = {k.removeprefix("flow_lm."): v for k, v in tensors.items() if k.startswith("flow_lm.")}
    files = [save(tmp_path / "flow.safetensors", flow)]
    # Of a bundle, only the Mimi part is taken.
    files.append(save(tmp_path / "mimi.safetensors", tensors))
    weights = load_weights(config, tmp_path)
    assert_same(weights.tensors, tensors)
    assert weights.files == files


def test_separate_files_in_the_names_of_the_training_code(tmp_path):
    config, tensors = model_of(
        flow_lm__weights_path="flow.safetensors", mimi__weights_path="mimi.safetensors"
    )
    condition = "condition_provider.conditioners."
    flow = {
        condition + "transcript_in_segment.learnt_padding": Tensor.from_float32(np.ones(1), "F32")
    }
    mimi = {}
    for name, tensor in tensors.items():
        part, _, name = name.partition(".")
        if part == "flow_lm":
            name = {
                "conditioner.embed.weight": condition + "transcript_in_segment.embed.weight",
                "speaker_proj_weight": condition + "speaker_wavs.output_proj.weight",
                "bos_before_voice": "fuser.padding_value",
            }.get(name, name)
            flow[name.replace(".in_proj.weight", ".in_proj_weight")] = tensor
        else:
            name = name.replace(".conv.", ".conv.conv.", 1).replace(
                ".convtr.", ".convtr.convtr.", 1
            )
            mimi["model." + name.replace(".in_proj.weight", ".in_proj_weight")] = tensor
    save(tmp_path / "flow.safetensors", flow)
    save(tmp_path / "mimi.safetensors", mimi)
    assert_same(load_weights(config, tmp_path).tensors, tensors)


def test_a_mimi_file_replaces_that_of_the_bundle(tmp_path):
    config, tensors = model_of(
        weights_path="model.safetensors", mimi__weights_path="mimi.safetensors"
    )
    bundle = {
        name: Tensor.from_float32(np.zeros(1), "F32") if name.startswith("mimi.") else tensor
        for name, tensor in tensors.items()
    }
    save(tmp_path / "model.safetensors", bundle)
    save(tmp_path / "mimi.safetensors", tensors)
    assert_same(load_weights(config, tmp_path).tensors, tensors)


def test_a_configuration_without_weights(tmp_path):
    config, _ = model_of()
    with pytest.raises(ConfigError, match="names no weights: set weights_path"):
        load_weights(config, tmp_path)
    # A configuration made by hand may have one half only.
    half = dataclasses.replace(config.flow_lm, weights_path="flow.safetensors")
    with pytest.raises(ConfigError, match=r"mimi\.weights_path has to be set too"):
        load_weights(dataclasses.replace(config, flow_lm=half), tmp_path)


# ------------------------------------------------------------------------------------------------
# Renames


@pytest.mark.parametrize(("part", "reader"), [("flow_lm", read_flow_lm), ("mimi", read_mimi)])
def test_renames_and_weight_norm_equal_the_reference(part, reader):
    golden = np.load(DATA / "training_renamed.npz")
    expected = {name: golden[name] for name in golden if name.startswith(part + ".")}
    tensors = reader(DATA / f"training_{part}.safetensors")
    assert set(tensors) == set(expected)
    for name, values in expected.items():
        bound = {"F32": 2**-22, "F16": 0, "BF16": 0}[tensors[name].dtype]
        np.testing.assert_allclose(tensors[name].as_float32(), values, rtol=bound, atol=0)
    types = {tensor.dtype for tensor in tensors.values()}
    assert types == {"F32", "F16", "BF16"}


def test_folded_weight_norm_has_the_given_length(tmp_path):
    rng = np.random.default_rng(0)
    v, g = rng.standard_normal((4, 3, 5)), rng.uniform(0.5, 2, (4, 1, 1))
    path = save(
        tmp_path / "m.safetensors",
        {
            "encoder.model.0.conv.conv.weight_v": Tensor.from_float32(v, "F32"),
            "encoder.model.0.conv.conv.weight_g": Tensor.from_float32(g, "F32"),
        },
    )
    folded = read_mimi(path)["mimi.encoder.model.0.conv.weight"].data
    np.testing.assert_allclose(np.linalg.norm(folded.reshape(4, -1), axis=1), g.ravel(), rtol=1e-6)
    np.testing.assert_allclose(folded, g * v / np.linalg.norm(v, axis=(1, 2), keepdims=True), 1e-6)


@pytest.mark.parametrize(
    ("names", "shapes", "message"),
    [
        (["a.weight_g"], [(2, 1)], "a.weight_g has no a.weight_v next to it"),
        (
            ["a.weight_g", "a.weight_v"],
            [(2,), (2, 3)],
            r"a.weight_g has shape \[2\], expected \[2, 1\]",
        ),
        (["a.weight_g", "a.weight_v"], [(), ()], r"a.weight_g has shape \[\]"),
        (["a.weight", "model.a.weight"], [(2,), (2,)], "two tensors both mean mimi.a.weight"),
    ],
)
def test_broken_training_files(tmp_path, names, shapes, message):
    tensors = {
        name: Tensor.from_float32(np.ones(shape), "F32")
        for name, shape in zip(names, shapes, strict=True)
    }
    with pytest.raises(WeightsError, match=message):
        read_mimi(save(tmp_path / "m.safetensors", tensors))


def test_weight_norm_of_integers_is_refused(tmp_path):
    whole = Tensor("I64", (2, 1), np.ones((2, 1), np.int64))
    path = save(tmp_path / "m.safetensors", {"a.weight_g": whole, "a.weight_v": whole})
    with pytest.raises(WeightsError, match=r"_g and .*_v should be F32"):
        read_mimi(path)


# ------------------------------------------------------------------------------------------------
# Strictness


def test_each_kind_of_problem_is_named(tmp_path):
    config, tensors = model_of(weights_path="model.safetensors")
    tensors["flow_lm.bos_emb"] = Tensor.from_float32(np.ones(31), "F32")
    tensors["flow_lm.emb_std"] = Tensor("I64", (32,), np.ones(32, np.int64))
    tensors["flow_lm.extra"] = Tensor.from_float32(np.ones((2, 3)), "F32")
    del tensors["mimi.quantizer.output_proj.weight"]
    path = save(tmp_path / "model.safetensors", tensors)
    with pytest.raises(WeightsError) as caught:
        load_weights(config, tmp_path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    for problem in (
        "flow_lm.bos_emb has shape [31], expected [32]",
        "flow_lm.emb_std has type I64, expected F32, F16 or BF16",
        "flow_lm.extra [2, 3] is not part of this model",
        "mimi.quantizer.output_proj.weight is missing (expected [128, 32, 1])",
    ):
        assert problem in text
    assert "more" not in text


def test_many_problems_are_counted():
    expected = {f"t{index}": (index,) for index in range(9)}
    with pytest.raises(WeightsError, match=r"t4 is missing \(expected \[4\]\); and 4 more$"):
        check_tensors({}, expected, [Path("x")])
    with pytest.raises(WeightsError, match=re.escape(r"'a\nb' [1] is not part")):
        check_tensors({"a\nb": Tensor.from_float32(np.ones(1), "F32")}, {}, [Path("x")])


def test_another_models_weights(tmp_path):
    config, _ = model_of(weights_path=str(EMBEDDED / "model.safetensors"))
    with pytest.raises(WeightsError, match=r"has shape \[513, 192\], expected \[17, 12\].*more$"):
        load_weights(config, tmp_path)


def test_a_damaged_file(tmp_path):
    config, tensors = model_of(weights_path="model.safetensors")
    path = save(tmp_path / "model.safetensors", tensors)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="cut short"):
        load_weights(config, tmp_path)
    with pytest.raises(WeightsError, match="cut short"):
        read_safetensors(path)
