"""Model configurations: YAML in, checked and frozen dataclasses out.

Every key is checked against the dataclasses below. An unknown, missing, wrongly typed or senseless
entry raises :class:`~pocket_tts_cy.errors.ConfigError` with the dotted name of the entry, so that
everything behind this module can trust the sizes it is given.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pocket_tts_cy.errors import ConfigError

CONFIG_DIR = Path(__file__).parent / "config"
EMBEDDED_CONFIG = Path(__file__).parent / "voice" / "config.yaml"

FLOW_TIME_CONDITIONS = {"lsd": 2, "flow_matching": 1, "drifting": 0, "pointwise": 0}
PAD_MODES = ("constant", "replicate")
TOKENIZER_KINDS = ("tokenizers", "json", "sentencepiece")
DTYPES = ("float32", "float16", "bfloat16")

MAX_FILE_BYTES = 1 << 20
MAX_WIDTH = 1 << 16
MAX_LAYERS = 512
MAX_VOCABULARY = 1 << 20
MAX_CONTEXT = 1 << 20
MAX_SAMPLE_RATE = 1 << 20
MAX_FRAMES = 10_000
MAX_REPLACEMENT = 64
# An alias can multiply the size of what it names when it is merged ("<<"); with this many in a
# whole file the product stays below a few hundred.
MAX_YAML_ALIASES = 16


@dataclass(frozen=True)
class FlowConfig:
    """The head that turns noise into the next latent.

    Attributes
    ----------
    dim : int
        Width of the residual blocks.
    depth : int
        Number of residual blocks.
    type : str
        ``lsd`` (two times), ``flow_matching`` (one time, Euler steps), ``drifting`` (one step, the
        head's output is the sample) or ``pointwise`` (one step, noise plus the head's output).
    """

    dim: int
    depth: int
    type: str = "lsd"

    @property
    def n_times(self) -> int:
        """Number of time embeddings: 2, 1 or 0."""
        return FLOW_TIME_CONDITIONS[self.type]


@dataclass(frozen=True)
class FlowLMTransformerConfig:
    """The autoregressive backbone; ``None`` means "derived", see the properties."""

    hidden_scale: int
    max_period: int
    d_model: int
    num_heads: int
    num_layers: int
    attn_dim: int | None = None
    num_kv_heads: int | None = None
    dim_feedforward: int | None = None

    @property
    def q_dim(self) -> int:
        """Width of all queries together, and of the attention output."""
        return self.d_model if self.attn_dim is None else self.attn_dim

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.q_dim // self.num_heads

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def kv_dim(self) -> int:
        """Width of all keys together (the values are as wide)."""
        return self.kv_heads * self.head_dim

    @property
    def ff_dim(self) -> int:
        """Hidden width of the feed-forward layers."""
        if self.dim_feedforward is None:
            return self.d_model * self.hidden_scale
        return self.dim_feedforward


@dataclass(frozen=True)
class LookupTable:
    """The text embedding table and its tokenizer.

    Attributes
    ----------
    dim : int
        Width of a text embedding, equal to the backbone's ``d_model``.
    n_bins : int
        Vocabulary size; the table has one more row.
    tokenizer : str
        ``tokenizers`` (or ``json``) or ``sentencepiece``.
    tokenizer_path : str
        Where the tokenizer file is.
    rank : int or None
        Width of the stored rows when the table is low-rank, else None.
    """

    dim: int
    n_bins: int
    tokenizer: str
    tokenizer_path: str
    rank: int | None = None


@dataclass(frozen=True)
class FlowLMConfig:
    """Everything that maps text and past latents to the next latent."""

    dtype: str
    flow: FlowConfig
    transformer: FlowLMTransformerConfig
    lookup_table: LookupTable
    z_dim: int | None = None
    weights_path: str | None = None
    insert_bos_before_voice: bool = False

    @property
    def z_width(self) -> int:
        """Width of the vector that the EOS and flow heads see."""
        return self.transformer.d_model if self.z_dim is None else self.z_dim


@dataclass(frozen=True)
class SEANetConfig:
    """A stack of convolutions between samples and 200 Hz embeddings."""

    dimension: int
    channels: int
    n_filters: int
    n_residual_layers: int
    ratios: list[int]
    kernel_size: int
    residual_kernel_size: int
    last_kernel_size: int
    dilation_base: int
    pad_mode: str
    compress: int

    @property
    def hop_length(self) -> int:
        """Samples per embedding: the product of the ratios."""
        return math.prod(self.ratios)


@dataclass(frozen=True)
class MimiTransformerConfig:
    """The transformer between SEANet and the resampling convolutions."""

    d_model: int
    input_dimension: int
    output_dimensions: tuple[int, ...]
    num_heads: int
    num_layers: int
    layer_scale: float
    context: int
    dim_feedforward: int
    max_period: float = 10000.0

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.d_model // self.num_heads


@dataclass(frozen=True)
class QuantizerConfig:
    """The projection of a latent (``dimension``) to ``output_dimension``."""

    dimension: int
    output_dimension: int


@dataclass(frozen=True)
class MimiConfig:
    """The audio codec; ``decoder_*`` are None when they equal the encoder's."""

    dtype: str
    sample_rate: int
    channels: int
    frame_rate: float
    seanet: SEANetConfig
    transformer: MimiTransformerConfig
    quantizer: QuantizerConfig
    weights_path: str | None = None
    inner_dim: int | None = None
    outer_dim: int | None = None
    decoder_seanet: SEANetConfig | None = None
    decoder_transformer: MimiTransformerConfig | None = None

    @property
    def latent_dim(self) -> int:
        """Width of a latent."""
        return self.quantizer.dimension

    @property
    def samples_per_frame(self) -> int:
        """Samples that one latent becomes."""
        return round(self.sample_rate / self.frame_rate)

    @property
    def upsample_stride(self) -> int:
        """Rows of the decoder transformer per latent (also the downsampler's stride)."""
        return self.samples_per_frame // self.seanet.hop_length

    @property
    def inner_width(self) -> int:
        """Width of an encoded frame, the input of the speaker projection."""
        return self.seanet.dimension if self.inner_dim is None else self.inner_dim

    @property
    def outer_width(self) -> int:
        """Width of the upsampler's input."""
        if self.outer_dim is not None:
            return self.outer_dim
        return (self.decoder_seanet or self.seanet).dimension


@dataclass(frozen=True)
class Config:
    """A whole model: FlowLM, Mimi, where the weights are, and how text is prepared."""

    flow_lm: FlowLMConfig
    mimi: MimiConfig
    weights_path: str | None = None
    weights_path_without_voice_cloning: str | None = None
    pad_with_spaces_for_short_inputs: bool = False
    remove_semicolons: bool = False
    append_terminal_punctuation: bool = True
    capitalize_first_letter: bool = True
    replace_characters: dict[str, str] = field(default_factory=dict)
    model_recommended_frames_after_eos: int | None = None
    default_temperature: float = 0.3
    default_eos_threshold: float = -4.0

    @property
    def decoder_seanet(self) -> SEANetConfig:
        """SEANet of the decoder side."""
        return self.mimi.decoder_seanet or self.mimi.seanet

    @property
    def decoder_transformer(self) -> MimiTransformerConfig:
        """Transformer of the decoder side."""
        return self.mimi.decoder_transformer or self.mimi.transformer


def load_config(path: Path | str) -> Config:
    """Read and check a model configuration.

    Parameters
    ----------
    path : Path or str
        A local YAML file in UTF-8, at most 1 MiB.

    Returns
    -------
    Config
        The checked configuration. Paths inside it are left as written.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ConfigError
        The file is not a YAML mapping, or an entry is unknown, missing or senseless; the message
        names the entry.
    """
    path = Path(path)
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder, expected a YAML file")
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise FileNotFoundError(f"Config file not found: {path}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes, not a model configuration")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
    return parse_config(_load_yaml(text, str(path)), str(path))


def parse_config(mapping: Mapping[str, Any], source: str) -> Config:
    """Check a configuration that is already a mapping.

    Parameters
    ----------
    mapping : Mapping
        Nested mappings, lists and scalars, as YAML gives them.
    source : str
        Where it came from; error messages begin with it.

    Returns
    -------
    Config
        The checked configuration.

    Raises
    ------
    ConfigError
        An entry is unknown, missing, of the wrong type or senseless.
    """
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{source}: expected a mapping of settings, found {_shown(mapping)}")
    config = _build(Config, mapping, "", source)
    _Checker(source).config(config)
    return config


def _load_yaml(text: str, source: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Safe loader that also refuses duplicate keys and floods of aliases."""

        n_aliases = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                self.n_aliases += 1
                if self.n_aliases > MAX_YAML_ALIASES:
                    raise yaml.constructor.ConstructorError(
                        None,
                        None,
                        f"more than {MAX_YAML_ALIASES} aliases",
                        self.peek_event().start_mark,
                    )
            return super().compose_node(parent, index)

        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            seen = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    continue
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key.value[:60]!r} appears twice", key.start_mark
                    )
                seen.add(key.value)
            return node

    try:
        return yaml.load(text, Loader=Loader)
    except yaml.MarkedYAMLError as error:
        where = "" if error.problem_mark is None else f" (line {error.problem_mark.line + 1})"
        raise ConfigError(f"{source}: not valid YAML: {error.problem}{where}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise ConfigError(f"{source}: not valid YAML: nested too deeply") from None
    except (ValueError, OverflowError) as error:
        # PyYAML hands out Python's own errors for impossible dates and numbers.
        raise ConfigError(f"{source}: not valid YAML: {str(error)[:100]}") from None


def _shown(value: Any) -> str:
    """A value as it may stand in an error message: short, one line, never a whole container."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 1 << 64:
        return "a huge number"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _build(cls: type, mapping: Mapping[str, Any], prefix: str, source: str) -> Any:
    """An instance of the dataclass ``cls``; ``prefix`` ends in a dot or is empty."""
    fields = {entry.name: entry for entry in dataclasses.fields(cls)}
    for key in mapping:
        if key not in fields:
            raise ConfigError(f"{source}: {prefix}{_key(key)}: unknown key{_hint(key, fields)}")
    values = {}
    for name, entry in fields.items():
        if name in mapping:
            values[name] = _convert(_hints(cls)[name], mapping[name], prefix + name, source)
        elif entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{source}: {prefix}{name}: missing")
    return cls(**values)


def _key(key: Any) -> str:
    if isinstance(key, str) and key.isprintable() and len(key) <= 80:
        return key
    return _shown(key)


def _hint(key: Any, known: Mapping[str, Any]) -> str:
    import difflib

    close = difflib.get_close_matches(str(key)[:80], known, n=1)
    return f" (did you mean {close[0]}?)" if close else f" (known: {', '.join(known)})"


def _convert(hint: Any, value: Any, name: str, source: str) -> Any:
    """``value`` as the type ``hint`` says, else a ConfigError naming ``name``."""
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = next(option for option in hint.__args__ if option is not types.NoneType)
    origin = typing.get_origin(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise _wrong(name, "a mapping", value, source)
        return _build(hint, value, name + ".", source)
    if origin in (list, tuple):
        if not isinstance(value, (list, tuple)):
            raise _wrong(name, "a list of whole numbers", value, source)
        items = enumerate(value)
        return origin(_convert(hint.__args__[0], v, f"{name}.{i}", source) for i, v in items)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _wrong(name, "a mapping of characters to text", value, source)
        for key, item in value.items():
            if not isinstance(key, str) or not isinstance(item, str):
                raise _wrong(f"{name}.{_key(key)}", "a character and its text", item, source)
        return dict(value)
    if hint is bool:
        if not isinstance(value, bool):
            raise _wrong(name, "true or false", value, source)
        return value
    if hint is int:
        # A whole float ("1024.0") is let through as the reference does.
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not whole:
            raise _wrong(name, "a whole number", value, source)
        return int(value)
    if hint is float:
        return _number(value, name, source)
    if not isinstance(value, str):
        raise _wrong(name, "text", value, source)
    return value


def _number(value: Any, name: str, source: str) -> float:
    # YAML 1.1 reads "1e-2" (no dot) as text, so numeric text counts as a number.
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise _wrong(name, "a finite number", value, source)


def _wrong(name: str, expected: str, value: Any, source: str) -> ConfigError:
    return ConfigError(f"{source}: {name}: expected {expected}, found {_shown(value)}")


class _Checker:
    """Checks that typed values make sense, alone and together."""

    def __init__(self, source: str) -> None:
        self.source = source

    def fail(self, name: str, problem: str) -> typing.NoReturn:
        raise ConfigError(f"{self.source}: {name}: {problem}")

    def between(self, name: str, value: float | None, low: float, high: float) -> None:
        if value is not None and not low <= value <= high:
            self.fail(name, f"must be between {low} and {high}, found {_shown(value)}")

    def one_of(self, name: str, value: str, known: typing.Iterable[str]) -> None:
        if value not in known:
            self.fail(name, f"must be one of {', '.join(known)}, found {_shown(value)}")

    def divides(self, name: str, value: int, divisor_name: str, divisor: int) -> None:
        if value % divisor:
            self.fail(name, f"{value} is not a multiple of {divisor_name} ({divisor})")

    def path(self, name: str, value: str | None) -> None:
        if value is not None and (not value.strip() or "\0" in value):
            self.fail(name, "must name a file")

    def config(self, config: Config) -> None:
        self.path("weights_path", config.weights_path)
        self.path("weights_path_without_voice_cloning", config.weights_path_without_voice_cloning)
        for key, text in config.replace_characters.items():
            if len(key) != 1:
                self.fail(f"replace_characters.{_key(key)}", "the key must be one character")
            if len(text) > MAX_REPLACEMENT:
                self.fail(f"replace_characters.{_key(key)}", f"over {MAX_REPLACEMENT} characters")
        self.between(
            "model_recommended_frames_after_eos",
            config.model_recommended_frames_after_eos,
            0,
            MAX_FRAMES,
        )
        self.between("default_temperature", config.default_temperature, 0, 100)
        self.between("default_eos_threshold", config.default_eos_threshold, -1e6, 1e6)
        self.flow_lm(config.flow_lm)
        self.mimi(config.mimi)
        if config.flow_lm.weights_path is not None and config.mimi.weights_path is None:
            self.fail("mimi.weights_path", "needed because flow_lm.weights_path is set")
        if config.mimi.weights_path is not None and (
            config.flow_lm.weights_path is None and config.weights_path is None
        ):
            self.fail(
                "mimi.weights_path", "needs flow_lm.weights_path or weights_path to be set as well"
            )

    def flow_lm(self, flow_lm: FlowLMConfig) -> None:
        self.one_of("flow_lm.dtype", flow_lm.dtype, DTYPES)
        self.path("flow_lm.weights_path", flow_lm.weights_path)
        self.between("flow_lm.z_dim", flow_lm.z_dim, 1, MAX_WIDTH)
        flow = flow_lm.flow
        self.one_of("flow_lm.flow.type", flow.type, FLOW_TIME_CONDITIONS)
        # The RMS norm of a time embedding divides by dim - 1, its frequencies come in pairs.
        self.between("flow_lm.flow.dim", flow.dim, 2, MAX_WIDTH)
        if flow.n_times:
            self.divides("flow_lm.flow.dim", flow.dim, "two", 2)
        self.between("flow_lm.flow.depth", flow.depth, 0, MAX_LAYERS)
        self.flow_lm_transformer("flow_lm.transformer.", flow_lm.transformer)
        table = flow_lm.lookup_table
        name = "flow_lm.lookup_table."
        self.between(name + "n_bins", table.n_bins, 1, MAX_VOCABULARY)
        self.between(name + "rank", table.rank, 1, MAX_WIDTH)
        self.one_of(name + "tokenizer", table.tokenizer, TOKENIZER_KINDS)
        self.path(name + "tokenizer_path", table.tokenizer_path)
        if table.dim != flow_lm.transformer.d_model:
            self.fail(
                name + "dim",
                f"{_shown(table.dim)} differs from flow_lm.transformer.d_model "
                f"({flow_lm.transformer.d_model})",
            )

    def flow_lm_transformer(self, name: str, transformer: FlowLMTransformerConfig) -> None:
        self.between(name + "d_model", transformer.d_model, 1, MAX_WIDTH)
        self.between(name + "attn_dim", transformer.attn_dim, 1, MAX_WIDTH)
        self.between(name + "num_heads", transformer.num_heads, 1, MAX_WIDTH)
        self.between(name + "num_kv_heads", transformer.num_kv_heads, 1, MAX_WIDTH)
        self.between(name + "num_layers", transformer.num_layers, 1, MAX_LAYERS)
        self.between(name + "hidden_scale", transformer.hidden_scale, 1, 64)
        self.between(name + "dim_feedforward", transformer.dim_feedforward, 1, MAX_WIDTH * 4)
        self.between(name + "max_period", transformer.max_period, 1, 1e9)
        self.heads(
            name,
            "d_model" if transformer.attn_dim is None else "attn_dim",
            transformer.q_dim,
            transformer.num_heads,
        )
        self.divides(
            name + "num_heads", transformer.num_heads, name + "num_kv_heads", transformer.kv_heads
        )

    def heads(self, name: str, width_name: str, width: int, num_heads: int) -> None:
        self.divides(name + width_name, width, name + "num_heads", num_heads)
        if (width // num_heads) % 2:
            self.fail(
                name + width_name,
                f"{width} gives heads of odd width {width // num_heads}; "
                "rotary positions need an even one",
            )

    def mimi(self, mimi: MimiConfig) -> None:
        self.one_of("mimi.dtype", mimi.dtype, DTYPES)
        self.path("mimi.weights_path", mimi.weights_path)
        self.between("mimi.sample_rate", mimi.sample_rate, 1, MAX_SAMPLE_RATE)
        self.between("mimi.channels", mimi.channels, 1, 1)
        self.between("mimi.frame_rate", mimi.frame_rate, 1e-3, MAX_SAMPLE_RATE)
        self.between("mimi.inner_dim", mimi.inner_dim, 1, MAX_WIDTH)
        self.between("mimi.outer_dim", mimi.outer_dim, 1, MAX_WIDTH)
        # Below 16 values PyTorch draws its noise in another order, which is not implemented.
        self.between("mimi.quantizer.dimension", mimi.quantizer.dimension, 16, MAX_WIDTH)
        self.seanet("mimi.seanet.", mimi.seanet)
        self.mimi_transformer("mimi.transformer.", mimi.transformer, mimi.seanet, "mimi.seanet")
        decoder, decoder_name = mimi.seanet, "mimi.seanet"
        if mimi.decoder_seanet is not None:
            decoder, decoder_name = mimi.decoder_seanet, "mimi.decoder_seanet"
            self.seanet("mimi.decoder_seanet.", decoder)
            if decoder.hop_length != mimi.seanet.hop_length:
                self.fail(
                    "mimi.decoder_seanet.ratios",
                    f"their product {decoder.hop_length} differs from that of "
                    f"mimi.seanet.ratios ({mimi.seanet.hop_length})",
                )
        if mimi.decoder_transformer is not None:
            self.mimi_transformer(
                "mimi.decoder_transformer.", mimi.decoder_transformer, decoder, decoder_name
            )
        elif decoder is not mimi.seanet:
            self.mimi_transformer("mimi.transformer.", mimi.transformer, decoder, decoder_name)
        self.frames(mimi)
        if mimi.outer_width != decoder.dimension:
            self.fail(
                "mimi.outer_dim",
                f"{mimi.outer_width} differs from {decoder_name}.dimension ({decoder.dimension})",
            )
        if mimi.quantizer.output_dimension != mimi.outer_width:
            self.fail(
                "mimi.quantizer.output_dimension",
                f"{_shown(mimi.quantizer.output_dimension)} differs from the width of the "
                f"upsampler, mimi.outer_dim ({mimi.outer_width})",
            )

    def frames(self, mimi: MimiConfig) -> None:
        samples = mimi.sample_rate / mimi.frame_rate
        if samples != round(samples) or samples > MAX_SAMPLE_RATE:
            self.fail(
                "mimi.frame_rate",
                f"a frame would have {samples:g} samples at mimi.sample_rate {mimi.sample_rate}; "
                "it must be a whole number",
            )
        hop = mimi.seanet.hop_length
        if round(samples) % hop or round(samples) < 2 * hop:
            self.fail(
                "mimi.seanet.ratios",
                f"a frame of {round(samples)} samples is not a multiple (2 or more) of their "
                f"product {hop}",
            )

    def seanet(self, name: str, seanet: SEANetConfig) -> None:
        self.between(name + "dimension", seanet.dimension, 1, MAX_WIDTH)
        self.between(name + "channels", seanet.channels, 1, 1)
        self.between(name + "n_filters", seanet.n_filters, 1, MAX_WIDTH)
        self.between(name + "n_residual_layers", seanet.n_residual_layers, 0, 16)
        if not 1 <= len(seanet.ratios) <= 8:
            self.fail(name + "ratios", f"must have 1 to 8 entries, found {len(seanet.ratios)}")
        for index, ratio in enumerate(seanet.ratios):
            self.between(f"{name}ratios.{index}", ratio, 1, 1024)
        if seanet.n_filters << len(seanet.ratios) > MAX_WIDTH:
            self.fail(
                name + "n_filters",
                f"{seanet.n_filters} doubled {len(seanet.ratios)} times exceeds {MAX_WIDTH}",
            )
        for key in ("kernel_size", "residual_kernel_size", "last_kernel_size"):
            self.between(name + key, getattr(seanet, key), 1, 255)
        self.between(name + "dilation_base", seanet.dilation_base, 1, 64)
        if seanet.dilation_base ** max(seanet.n_residual_layers - 1, 0) > MAX_WIDTH:
            self.fail(name + "dilation_base", "the last residual layer would be dilated too far")
        self.one_of(name + "pad_mode", seanet.pad_mode, PAD_MODES)
        # The narrowest residual block, if there are any, must keep at least one channel.
        widest = seanet.n_filters if seanet.n_residual_layers else MAX_WIDTH
        self.between(name + "compress", seanet.compress, 1, widest)

    def mimi_transformer(
        self, name: str, transformer: MimiTransformerConfig, seanet: SEANetConfig, seanet_name: str
    ) -> None:
        self.between(name + "d_model", transformer.d_model, 1, MAX_WIDTH)
        self.between(name + "num_heads", transformer.num_heads, 1, MAX_WIDTH)
        self.between(name + "num_layers", transformer.num_layers, 1, MAX_LAYERS)
        self.between(name + "layer_scale", transformer.layer_scale, -1e6, 1e6)
        self.between(name + "context", transformer.context, 1, MAX_CONTEXT)
        self.between(name + "dim_feedforward", transformer.dim_feedforward, 1, MAX_WIDTH * 4)
        self.between(name + "max_period", transformer.max_period, 1, 1e9)
        self.heads(name, "d_model", transformer.d_model, transformer.num_heads)
        if transformer.input_dimension != seanet.dimension:
            self.fail(
                name + "input_dimension",
                f"{_shown(transformer.input_dimension)} differs from {seanet_name}.dimension "
                f"({seanet.dimension})",
            )
        if transformer.output_dimensions != (seanet.dimension,):
            self.fail(
                name + "output_dimensions",
                f"must be the single width {seanet_name}.dimension ({seanet.dimension})",
            )
