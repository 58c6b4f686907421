"""The script that makes models with random weights."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from pocket_tts_cy.config import load_config
from pocket_tts_cy.voices import read_voice_state, state_length
from pocket_tts_cy.weights import load_weights

SCRIPT = Path(__file__).parent.parent / "scripts" / "make_random_model.py"
TEXT = (
    "Text to speech has become fast enough to run on small computers. The system reads a sentence, "
    "splits it into pieces, and predicts one frame of sound after another."
)


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    out = tmp_path_factory.mktemp("random")
    done = run("english_2m_2026-10", out, "--no-eos", "--voice-length=7", "--seed=3")
    assert done.returncode == 0, done.stderr
    return out


def test_the_model_loads_and_never_ends(model):
    config = load_config(model / "config.yaml")
    weights = load_weights(config, model)
    assert weights.dtype == "BF16"
    tensors = weights.tensors
    assert not tensors["flow_lm.out_eos.weight"].as_float32().any()
    assert tensors["flow_lm.out_eos.bias"].as_float32()[0] < -9000
    np.testing.assert_array_equal(tensors["flow_lm.emb_std"].as_float32(), 1)
    np.testing.assert_array_equal(tensors["flow_lm.emb_mean"].as_float32(), 0)
    # A matrix has about the size that keeps its output as large as its input.
    matrix = tensors["flow_lm.transformer.layers.0.linear1.weight"].as_float32()
    assert matrix.std() == pytest.approx(1 / np.sqrt(matrix.shape[1]), rel=0.05)
    scale = tensors["mimi.decoder_transformer.transformer.layers.0.layer_scale_1.scale"]
    assert scale.as_float32().mean() == pytest.approx(0.01, rel=0.1)


def test_the_voice_fits(model):
    config = load_config(model / "config.yaml")
    assert state_length(read_voice_state(model / "voices" / "random.safetensors", config)) == 7


def test_the_tokenizer_knows_english(model):
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    n_bins = load_config(model / "config.yaml").flow_lm.lookup_table.n_bins
    assert tokenizer.get_vocab_size() == n_bins == 4000
    ids = tokenizer.encode(TEXT).ids
    assert tokenizer.decode(ids) == TEXT
    assert len(ids) < 1.5 * len(TEXT.split())


def test_the_seed_decides_the_weights_and_types_round_them(model, tmp_path):
    assert run(model / "config.yaml", tmp_path, "--seed=3", "--dtype=f32").returncode == 0
    config = load_config(tmp_path / "config.yaml")
    wide, narrow = load_weights(config, tmp_path).tensors, load_weights(config, model).tensors
    name = "flow_lm.transformer.layers.3.self_attn.in_proj.weight"
    assert wide[name].dtype == "F32"
    np.testing.assert_allclose(narrow[name].as_float32(), wide[name].data, rtol=2**-8)
    # Without --no-eos the model may end.
    assert wide["flow_lm.out_eos.weight"].data.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_model"], "Config file not found: no_such_model"),
        (["english", "--dtype=q4"], "--dtype should be bf16, f16, f32"),
        (["english", "--voice-length=0"], "--voice-length should be a whole number from 1"),
        (["english", "--seed=x"], "--seed should be a whole number"),
    ],
)
def test_wrong_arguments_are_one_clear_line(tmp_path, arguments, message):
    done = run(arguments[0], tmp_path / "out", *arguments[1:])
    assert done.returncode != 0
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
