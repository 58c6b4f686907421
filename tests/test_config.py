"""Configurations: all released ones load, every senseless one is refused by its dotted name."""

import copy
import hashlib
import json
import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pocket_tts_cy import config as module
from pocket_tts_cy.config import CONFIG_DIR, EMBEDDED_CONFIG, Config, load_config, parse_config
from pocket_tts_cy.errors import ConfigError

RELEASED = sorted(CONFIG_DIR.glob("*.yaml"))
# SHA-256 of each released configuration's content (keys sorted, as JSON), computed from the YAML
# files of the PyTorch package 4.0.1.
CONTENT = {
    "dutch": "7c4380f8b9211ca4",
    "dutch_24l": "5a4092eac0e1f612",
    "english": "278bcbc0a170d900",
    "english_18m_2026-10": "8f1319feb551c7d0",
    "english_18m_refl_2026-10": "8b8677d293c5c738",
    "english_2026-01": "cb69c6c3ceea0397",
    "english_2026-04": "0480f044a445d63b",
    "english_2026-04_24l": "704f6cfd8f476f29",
    "english_2026-09": "f1261eaba4163e49",
    "english_2026-09_2": "34ec2beb29922bc8",
    "english_2026-09_24l": "b32d3ce03816f5e6",
    "english_2026-10": "896f1f49d4d3d184",
    "english_2m_2026-10": "54d64232bca702c0",
    "english_2m_refl_2026-10": "77cde5c42cecb835",
    "english_7m_2026-10": "fa540d85fa8c899c",
    "english_7m_refl_2026-10": "bbdcea8191aa6430",
    "english_drifting_26-09": "c694e4167a3695fe",
    "french": "d34c8a854d7f86a4",
    "french_24l": "28865e06cde48080",
    "german": "4a8b5d441c170470",
    "german_24l": "3b836cbe608e7130",
    "italian": "c9f74a87d8165ebe",
    "italian_24l": "f63f8ac572dabc94",
    "portuguese": "13f3e6ed6e290948",
    "portuguese_24l": "7787c5f26f2b33ec",
    "spanish": "039b3379a71d0d62",
    "spanish_24l": "f8bdcacdca4c6200",
}
SMALL = yaml.safe_load((CONFIG_DIR / "english_2m_2026-10.yaml").read_text(encoding="utf-8"))
EMBEDDED = yaml.safe_load(EMBEDDED_CONFIG.read_text(encoding="utf-8"))


def changed(base, key, value):
    """A copy of a configuration with one dotted key set."""
    mapping = copy.deepcopy(base)
    *parents, last = key.split(".")
    place = mapping
    for parent in parents:
        place = place[parent]
    place[last] = value
    return mapping


def removed(base, key):
    mapping = changed(base, key, None)
    *parents, last = key.split(".")
    place = mapping
    for parent in parents:
        place = place[parent]
    del place[last]
    return mapping


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_released_configurations_hold_the_published_values(path):
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    assert digest[:16] == CONTENT[path.stem]


@pytest.mark.parametrize("path", [*RELEASED, EMBEDDED_CONFIG], ids=lambda path: path.stem)
def test_all_configurations_load(path):
    config = load_config(path)
    assert config == load_config(str(path))
    assert config.mimi.samples_per_frame == 1920
    assert config.mimi.upsample_stride == 16
    assert config.mimi.latent_dim == 32
    assert config.decoder_seanet.hop_length == 120
    assert config.flow_lm.transformer.head_dim == 64


def test_there_are_27_released_configurations():
    assert len(RELEASED) == len(CONTENT) == 27


def test_values_and_derived_sizes():
    config = parse_config(SMALL, "test")
    transformer = config.flow_lm.transformer
    assert (transformer.d_model, transformer.q_dim, transformer.head_dim) == (112, 192, 64)
    assert (transformer.kv_heads, transformer.kv_dim, transformer.ff_dim) == (1, 64, 96)
    assert config.flow_lm.z_width == 64
    assert config.flow_lm.flow.n_times == 0
    assert config.flow_lm.lookup_table.rank == 32
    assert config.decoder_seanet.n_filters == 24
    assert config.decoder_transformer.num_layers == 4
    assert config.decoder_transformer.head_dim == 32
    assert (config.mimi.inner_width, config.mimi.outer_width) == (32, 128)
    assert config.default_eos_threshold == -1.0

    english = load_config(CONFIG_DIR / "english_2026-01.yaml")
    assert english.decoder_seanet is english.mimi.seanet
    assert english.decoder_transformer is english.mimi.transformer
    assert english.flow_lm.transformer.ff_dim == 4096
    assert english.flow_lm.transformer.kv_heads == 16
    assert english.flow_lm.z_width == 1024
    assert english.flow_lm.flow.n_times == 2
    assert english.pad_with_spaces_for_short_inputs
    assert not english.flow_lm.insert_bos_before_voice
    assert english.default_temperature == 0.3
    assert english.default_eos_threshold == -4.0
    assert english.model_recommended_frames_after_eos is None


def test_defaults_of_absent_widths():
    mapping = copy.deepcopy(SMALL)
    for key in ("inner_dim", "outer_dim"):
        del mapping["mimi"][key]
    config = parse_config(mapping, "test")
    assert (config.mimi.inner_width, config.mimi.outer_width) == (512, 128)
    assert Config.__dataclass_fields__["default_temperature"].default == 0.3


def test_frozen():
    config = parse_config(SMALL, "test")
    with pytest.raises(AttributeError):
        config.default_temperature = 1.0


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("flow_lm.transformer.d_modell", 3, "unknown key.*did you mean d_model"),
        ("colour", 3, "unknown key"),
        ("mimi.seanet.groups", 3, "unknown key"),
        ("flow_lm", 3, "expected a mapping, found 3"),
        ("flow_lm.transformer.d_model", "112", "whole number, found '112'"),
        ("flow_lm.transformer.d_model", 112.5, "whole number"),
        ("flow_lm.transformer.d_model", True, "whole number"),
        ("flow_lm.transformer.d_model", None, "whole number, found nothing"),
        ("flow_lm.transformer.d_model", [112], "whole number, found a list"),
        ("flow_lm.transformer.d_model", 2**80, "huge number"),
        ("flow_lm.transformer.d_model", -112, "between 1 and 65536"),
        ("flow_lm.transformer.num_layers", 0, "between"),
        ("flow_lm.transformer.num_layers", 513, "between"),
        ("flow_lm.transformer.attn_dim", 193, "not a multiple of"),
        ("flow_lm.transformer.attn_dim", 189, "odd width 63"),
        ("flow_lm.transformer.num_kv_heads", 2, None),
        ("flow_lm.transformer.max_period", 0, "between"),
        ("flow_lm.transformer.dim_feedforward", 0, "between"),
        ("flow_lm.transformer.hidden_scale", 0, "between"),
        ("flow_lm.flow.type", "magic", "must be one of lsd, flow_matching"),
        ("flow_lm.flow.dim", 1, "between"),
        ("flow_lm.flow.depth", -1, "between"),
        ("flow_lm.dtype", "int7", "must be one of"),
        ("flow_lm.insert_bos_before_voice", 1, "true or false"),
        ("flow_lm.z_dim", 0, "between"),
        ("flow_lm.lookup_table.dim", 100, "differs from flow_lm.transformer.d_model"),
        ("flow_lm.lookup_table.n_bins", 0, "between"),
        ("flow_lm.lookup_table.rank", 0, "between"),
        ("flow_lm.lookup_table.tokenizer", "bert", "must be one of"),
        ("flow_lm.lookup_table.tokenizer_path", " ", "must name a file"),
        ("flow_lm.lookup_table.tokenizer_path", "a\0b", "must name a file"),
        ("flow_lm.lookup_table.tokenizer_path", 3, "expected text"),
        ("mimi.sample_rate", 24001, None),
        ("mimi.sample_rate", 0, "between"),
        ("mimi.channels", 2, "between 1 and 1"),
        ("mimi.frame_rate", 0.0, "between"),
        ("mimi.frame_rate", 13.0, "whole number"),
        ("mimi.frame_rate", float("nan"), "finite number"),
        ("mimi.frame_rate", float("inf"), "finite number"),
        ("mimi.frame_rate", 10**400, "finite number"),
        ("mimi.frame_rate", "fast", "finite number"),
        ("mimi.dtype", "float64", "must be one of"),
        ("mimi.inner_dim", 0, "between"),
        ("mimi.outer_dim", 64, "differs from mimi.decoder_seanet.dimension"),
        ("mimi.quantizer.dimension", 8, "between 16"),
        ("mimi.quantizer.output_dimension", 64, "mimi.outer_dim"),
        ("mimi.seanet.ratios", [], "1 to 8 entries"),
        ("mimi.seanet.ratios", [2] * 9, "1 to 8 entries"),
        ("mimi.seanet.ratios", [6, 0, 4], None),
        ("mimi.seanet.ratios", [7, 5, 4], None),
        ("mimi.seanet.ratios", 6, "a list of whole numbers"),
        ("mimi.seanet.ratios", ["6"], None),
        ("mimi.decoder_seanet.ratios", [6, 5, 2], "differs from that of"),
        ("mimi.seanet.n_filters", 1 << 15, "exceeds"),
        ("mimi.seanet.compress", 65, "between 1 and 64"),
        ("mimi.seanet.compress", 0, "between"),
        ("mimi.seanet.kernel_size", 0, "between"),
        ("mimi.seanet.last_kernel_size", 300, "between"),
        ("mimi.seanet.residual_kernel_size", 0, "between"),
        ("mimi.seanet.n_residual_layers", -1, "between"),
        ("mimi.seanet.dilation_base", 0, "between"),
        ("mimi.seanet.pad_mode", "reflect", "must be one of constant, replicate"),
        ("mimi.seanet.dimension", 500, None),
        ("mimi.transformer.num_heads", 7, None),
        ("mimi.transformer.context", 0, "between"),
        ("mimi.transformer.layer_scale", "x", "finite number"),
        ("mimi.transformer.input_dimension", 128, "differs from mimi.seanet.dimension"),
        ("mimi.transformer.output_dimensions", [512, 512], "single width"),
        ("mimi.decoder_transformer.output_dimensions", [64], "single width"),
        ("mimi.weights_path", "", "must name a file"),
        ("weights_path", 7, "expected text"),
        ("replace_characters", {"ab": "c"}, None),
        ("replace_characters", {"a": 3}, None),
        ("replace_characters", {"a": "b" * 65}, None),
        ("replace_characters", ["a"], "a mapping of characters"),
        ("model_recommended_frames_after_eos", -1, "between"),
        ("model_recommended_frames_after_eos", 1.5, "whole number"),
        ("default_temperature", -0.1, "between"),
        ("default_temperature", float("nan"), "finite number"),
        ("default_eos_threshold", "low", "finite number"),
    ],
)
def test_senseless_values_are_refused_by_name(key, value, said):
    with pytest.raises(ConfigError) as error:
        parse_config(changed(SMALL, key, value), "model.yaml")
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith("model.yaml: ")
    first = key.split(".")[0] if said is None else key
    assert first in message
    if said is not None:
        assert error.match(said)


def test_every_missing_key_is_named():
    n_required = 0

    def visit(mapping, prefix):
        nonlocal n_required
        for key, value in mapping.items():
            name = prefix + key
            if isinstance(value, dict) and key != "replace_characters":
                visit(value, name + ".")
            try:
                parse_config(removed(SMALL, name), "x")
            except ConfigError as error:
                n_required += f": {name}: missing" in str(error)

    visit(SMALL, "")
    # flow (2 + itself), transformer (5 + 1), table (4 + 1), dtype, flow_lm; Mimi: 4 + itself,
    # two SEANets of 11, two transformers of 8, quantizer (2), their three required sections.
    assert n_required == 3 + 6 + 5 + 2 + 5 + 22 + 16 + 2 + 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("flow_lm.flow.type", "lsd"),
        ("flow_lm.flow.type", "flow_matching"),
        ("flow_lm.flow.type", "drifting"),
        ("flow_lm.transformer.d_model", 112.0),
        ("flow_lm.transformer.num_kv_heads", None),
        ("flow_lm.transformer.num_kv_heads", 3),
        ("flow_lm.dtype", "bfloat16"),
        ("mimi.frame_rate", 25),
        ("mimi.transformer.layer_scale", "1e-2"),
        ("mimi.seanet.pad_mode", "replicate"),
        ("mimi.seanet.n_residual_layers", 0),
        ("replace_characters", {}),
        ("replace_characters", {"\U0001f600": "smile"}),
        ("default_temperature", 0),
        ("model_recommended_frames_after_eos", 0),
    ],
)
def test_unusual_but_sensible_values_load(key, value):
    place = parse_config(changed(SMALL, key, value), "x")
    for part in key.split("."):
        place = getattr(place, part)
    assert place == (0.01 if value == "1e-2" else value)


def test_weights_layouts():
    split = changed(SMALL, "flow_lm.weights_path", "a.safetensors")
    with pytest.raises(ConfigError, match=r"mimi\.weights_path: needed"):
        parse_config(split, "x")
    both = changed(split, "mimi.weights_path", "b.safetensors")
    assert parse_config(both, "x").mimi.weights_path == "b.safetensors"
    only_mimi = removed(changed(SMALL, "mimi.weights_path", "b.safetensors"), "weights_path")
    with pytest.raises(ConfigError, match=r"mimi\.weights_path: needs"):
        parse_config(only_mimi, "x")


BOMB = "a0: &a0 {k: v}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "mapping of settings, found nothing"),
        (b"- 1\n- 2\n", "mapping of settings, found a list"),
        (b"just text", "mapping of settings"),
        (b"a: [1, 2", "not valid YAML.*line"),
        (b"a: 1\na: 2\n", "key 'a' appears twice.*line 2"),
        (b"flow_lm:\n  dtype: float32\n  dtype: float32\n", "key 'dtype' appears twice"),
        (b"a: !!python/object/apply:os.system ['true']", "not valid YAML"),
        (b"a: !!python/name:os.system", "not valid YAML"),
        (b"? [1, 2]\n: 3\n", "unknown key|not valid YAML"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"a: \x00", "not valid YAML"),
        (b"a: 2026-99-99", "not valid YAML"),
        (b"a: " + b"9" * 5000, "not valid YAML|unknown key"),
        (b"[" * 50_000, "nested too deeply"),
        (b"{a: " * 20_000, "nested too deeply"),
        (b"a: *nothing", "not valid YAML"),
        (b"a: &a [*a]\n" + b"b: *a\n", "unknown key"),
        (BOMB.encode(), "more than 16 aliases"),
        (b"1: 2", "unknown key"),
        (b"{}", "flow_lm: missing"),
        (b"a: 1\n---\nb: 2\n", "not valid YAML"),
    ],
)
def test_bad_files_give_one_clear_line(tmp_path, content, said):
    path = tmp_path / "model.yaml"
    path.write_bytes(content)
    started = time.monotonic()
    with pytest.raises(ConfigError, match=said) as error:
        load_config(path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    assert time.monotonic() - started < 20


def test_huge_missing_and_folder(tmp_path):
    path = tmp_path / "model.yaml"
    with pytest.raises(FileNotFoundError, match="model"):
        load_config(path)
    path.write_bytes(b"# " + b"x" * module.MAX_FILE_BYTES)
    with pytest.raises(ConfigError, match="larger than"):
        load_config(path)
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(tmp_path)


def test_a_few_aliases_are_fine(tmp_path):
    mapping = copy.deepcopy(EMBEDDED)
    del mapping["mimi"]["decoder_seanet"], mapping["mimi"]["decoder_transformer"]
    mapping["mimi"]["decoder_seanet"] = mapping["mimi"]["seanet"]
    path = tmp_path / "model.yaml"
    path.write_text(yaml.safe_dump(mapping), encoding="utf-8")
    assert "*id001" in path.read_text(encoding="utf-8")
    config = load_config(path)
    assert config.mimi.decoder_seanet == config.mimi.seanet


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(-1, 9), max_size=4),
    st.dictionaries(st.text(max_size=2), st.text(max_size=2), max_size=2),
)
KEYS = sorted(
    {f"{a}.{b}" for a in ("flow_lm", "mimi") for b in SMALL[a]}
    | {
        f"{a}.{b}.{c}"
        for a in ("flow_lm", "mimi")
        for b in SMALL[a]
        if isinstance(SMALL[a][b], dict)
        for c in SMALL[a][b]
    }
    | set(SMALL)
)


@given(st.lists(st.tuples(st.sampled_from(KEYS), LEAVES), min_size=1, max_size=3))
@settings(max_examples=300, deadline=None)
def test_any_change_loads_or_gives_a_config_error(changes):
    mapping = SMALL
    for key, value in changes:
        try:
            mapping = changed(mapping, key, value)
        except (TypeError, KeyError, AttributeError, IndexError):
            return
    try:
        config = parse_config(mapping, "x")
    except ConfigError as error:
        message = str(error)
        config = None
    if config is None:
        assert "\n" not in message
        return
    assert config.mimi.samples_per_frame == config.mimi.upsample_stride * (
        config.decoder_seanet.hop_length
    )
    assert config.flow_lm.transformer.head_dim % 2 == 0
