"""Make a model of full size with random weights: for benchmarks and tests, without any download.

Usage:
  make_random_model.py [options] CONFIG OUT

CONFIG is the name of a released model ("english", "english_2m_2026-10", ...) or a YAML file. The
folder OUT gets config.yaml, model.safetensors, tokenizer.json and voices/random.safetensors. Both
this package and the PyTorch reference load it (the reference: with OUT as the working directory,
because the paths in config.yaml are relative). It speaks noise, at the cost of the real model.

Options:
  --dtype=TYPE        Storage type of the weights: bf16, f16 or f32 [default: bf16].
  --seed=N            Seed of the random numbers [default: 0].
  --no-eos            The model never ends by itself: each chunk runs up to its length limit, so
                      the number of frames depends on the text only.
  --voice-length=N    Positions in the random voice state [default: 125].
  -h --help           Show this text.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from docopt import docopt

from pocket_tts_cy.atomic_file import replacing_file
from pocket_tts_cy.config import CONFIG_DIR, Config, load_config, parse_config
from pocket_tts_cy.errors import PocketTTSError
from pocket_tts_cy.safetensors_reader import Tensor
from pocket_tts_cy.safetensors_writer import write_safetensors
from pocket_tts_cy.voices import MAX_POSITIONS, export_model_state
from pocket_tts_cy.weights import TIME_FREQUENCIES, expected_shapes

STORAGE_TYPES = {"bf16": "BF16", "f16": "F16", "f32": "F32"}
#: Logit of a model that never ends, far below any threshold and exact enough in 16 bits.
NO_EOS_BIAS = -1e4
#: Size of the audio: full scale of random weights would be clipped to noise.
OUTPUT_GAIN = 0.1

# Source of the vocabulary: the openings of Alice's Adventures in Wonderland (1865) and A Tale of
# Two Cities (1859), and frequent English words.
PROSE = """
Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing
to do: once or twice she had peeped into the book her sister was reading, but it had no pictures
or conversations in it, and what is the use of a book, thought Alice, without pictures or
conversations? So she was considering in her own mind, as well as she could, for the hot day made
her feel very sleepy and stupid, whether the pleasure of making a daisy chain would be worth the
trouble of getting up and picking the daisies, when suddenly a White Rabbit with pink eyes ran
close by her. There was nothing so very remarkable in that; nor did Alice think it so very much
out of the way to hear the Rabbit say to itself, Oh dear! Oh dear! I shall be late! When she
thought it over afterwards, it occurred to her that she ought to have wondered at this, but at the
time it all seemed quite natural; but when the Rabbit actually took a watch out of its waistcoat
pocket, and looked at it, and then hurried on, Alice started to her feet, for it flashed across
her mind that she had never before seen a rabbit with either a waistcoat pocket, or a watch to
take out of it, and burning with curiosity, she ran across the field after it, and fortunately was
just in time to see it pop down a large rabbit hole under the hedge.
It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of
foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of
Light, it was the season of Darkness, it was the spring of hope, it was the winter of despair, we
had everything before us, we had nothing before us, we were all going direct to Heaven, we were
all going direct the other way.
"""
WORDS = """
the of and to a in is it you that he was for on are with as his they be at one have this from or
had by hot but some what there we can out other were all your when up use word how said an each
she which do their time if will way about many then them would write like so these her long make
thing see him two has look more day could go come did my sound no most number who over know water
than call first people may down side been now find any new work part take get place made live where
after back little only round man year came show every good me give our under name very through just
form much great think say help low line before turn cause same mean differ move right boy old too
does tell sentence set three want air well also play small end put home read hand port large spell
add even land here must big high such follow act why ask men change went light kind off need house
picture try us again animal point mother world near build self earth father head stand own page
should country found answer school grow study still learn plant cover food sun four thought let
keep eye never last door between city tree cross since hard start might story saw far sea draw left
late run while press close night real life few stop open seem together next white children begin
got walk example ease paper often always music those both mark book letter until mile river car
feet care second group carry took rain eat room friend began idea fish mountain north once base
hear horse cut sure watch color face wood main enough plain girl usual young ready above ever red
list though feel talk bird soon body dog family direct pose leave song measure state product black
short numeral class wind question happen complete ship area half rock order fire south problem
piece told knew pass farm top whole king size heard best hour better true during hundred remember
step early hold west ground interest reach fast five sing listen six table travel less morning ten
simple several vowel toward war lay against pattern slow center love person money serve appear road
map science rule govern pull cold notice voice fall power town fine certain fly unit lead cry dark
machine note wait plan figure star box noun field rest correct able pound done beauty drive stood
contain front teach week final gave green quick develop sleep warm free minute strong special mind
behind clear tail produce fact street inch lot nothing course stay wheel full force blue object
decide surface deep moon island foot yet busy test record boat common gold possible plane age dry
wonder laugh thousand ago ran check game shape yes cool miss brought heat snow bed bring sit
perhaps fill east weight language among speech model sample audio computer fox jumps brown lazy
hello please thank today tomorrow another because however without within around through being
system sentence text speech become becomes process memory network server engine parallel latency
frame frames buffer sound audio signal noise silence pause word phrase language english accent
speaker listener microphone radio telephone internet website software program data input output
result error file folder screen button window keyboard user account password message email report
company business market customer product service price office meeting manager worker team project
government president minister nation national state public law court police army war peace freedom
liberty justice equal created proposition dedicated conceived continent history ancient modern
century period future past present moment minutes hours days weeks months years monday tuesday
wednesday thursday friday saturday sunday january february march april june july august september
october november december spring summer autumn winter morning evening afternoon midnight weather
temperature storm cloud sky sea ocean beach coast lake valley forest field garden flower grass
leaf root seed fruit apple orange bread butter cheese milk coffee tea sugar salt meat chicken
breakfast lunch dinner kitchen bedroom bathroom floor wall roof corner stairs chair blanket
clothes shirt dress coat hat shoes pocket ring finger shoulder knee neck mouth teeth nose hair
blood bone heart brain muscle doctor nurse hospital medicine health illness pain fear anger hope
dream sad happy glad afraid angry tired hungry thirsty strange beautiful ugly clean dirty empty
heavy loud quiet smooth rough sharp soft thick thin wide narrow straight round flat distant
nearly almost already perhaps maybe certainly probably suddenly slowly quickly carefully finally
everyone someone anyone nobody everything something anything everywhere somewhere anywhere
believe choose create destroy discover explain explore forget forgive imagine improve increase
invent invite join jump kill kick knock lose manage marry mention miss offer operate pay prefer
prepare promise protect prove provide push raise receive refuse repeat reply return save send
shake shout sign sink smell smile spend spread steal suffer suggest support suppose swim taste
throw touch train trust visit wake warn wash waste wear win wish worry thirteen fourteen fifteen
sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety million
billion eight nine seven zero eleven twelve third fourth fifth percent dollar dollars pounds score
brother sister mother father parent uncle aunt cousin husband wife daughter son baby neighbor guest
gentleman lady king queen prince soldier sailor captain teacher student artist writer singer actor
music dance theater museum library university college lesson poem novel newspaper magazine article
"""
LETTERS = "etaoinshrdlcumwfgypbvkjxqzETAOINSHRDLCUMWFGYPBVKJXQZ"
SYMBOLS = ".,!?'-;:\"()0123456789"
LONGEST_FRAGMENT = 5


def read_mapping(name: str) -> tuple[dict[str, Any], Config]:
    """YAML content and checked configuration of a released model or a file."""
    released = CONFIG_DIR / f"{name}.yaml"
    path = released if re.fullmatch(r"[\w.-]+", name) and released.is_file() else Path(name)
    config = load_config(path)
    return yaml.safe_load(path.read_text(encoding="utf-8")), config


def local_mapping(mapping: dict[str, Any]) -> dict[str, Any]:
    """The configuration with the files of the new folder in place of the released ones."""
    mapping = {key: value for key, value in mapping.items() if not key.startswith("weights_path")}
    for part in ("flow_lm", "mimi"):
        mapping[part] = {k: v for k, v in mapping[part].items() if k != "weights_path"}
    table = mapping["flow_lm"]["lookup_table"]
    mapping["flow_lm"]["lookup_table"] = {
        **table,
        "tokenizer": "tokenizers",
        "tokenizer_path": "tokenizer.json",
    }
    return {"weights_path": "model.safetensors", **mapping}


# ------------------------------------------------------------------------------------------------
# Weights


def random_values(
    name: str, shape: tuple[int, ...], rng: np.random.Generator, config: Config, no_eos: bool
) -> np.ndarray:
    """Random float32 values of one tensor, of a size that keeps activations moderate."""
    if name == "flow_lm.emb_mean":
        return np.zeros(shape, np.float32)
    if name == "flow_lm.emb_std":
        return np.ones(shape, np.float32)
    if name.endswith(".freqs"):
        half = TIME_FREQUENCIES // 2
        return np.exp(-math.log(10000) * np.arange(half) / half).astype(np.float32)

    # Drawn even when not used, so that all other tensors stay the same.
    values = rng.standard_normal(shape, dtype=np.float32)
    if no_eos and name.startswith("flow_lm.out_eos."):
        return np.full(shape, NO_EOS_BIAS if name.endswith("bias") else 0.0, np.float32)
    if name.endswith(".scale"):
        decoder = name.startswith("mimi.decoder_transformer.")
        transformer = config.decoder_transformer if decoder else config.mimi.transformer
        return np.float32(transformer.layer_scale) * (1 + np.float32(0.1) * values)
    if re.search(r"(norm\d?|in_ln)\.weight$|\.alpha$", name):
        return 1 + np.float32(0.1) * values
    if name.endswith(".bias"):
        values *= np.float32(0.02)
        return values
    values *= np.float32(1 / math.sqrt(fan_in(name, shape)))
    if name == last_decoder_convolution(config):
        values *= np.float32(OUTPUT_GAIN)
    return values


def fan_in(name: str, shape: tuple[int, ...]) -> int:
    """Number of inputs that one output of a layer sums over; 1 for tables and single rows."""
    if name == "flow_lm.conditioner.embed.weight" or len(shape) == 1 or shape[:2] == (1, 1):
        return 1
    if name == "mimi.upsample.convtr.convtr.weight":
        return 2
    if ".convtr." in name:
        # [in, out, kernel]: with a kernel of two strides, two taps reach each output.
        return 2 * shape[0]
    return math.prod(shape[1:])


def last_decoder_convolution(config: Config) -> str:
    """Name of the weights that make the samples."""
    seanet = config.decoder_seanet
    position = 2 + len(seanet.ratios) * (2 + seanet.n_residual_layers)
    return f"mimi.decoder.model.{position}.conv.weight"


def write_weights(path: Path, config: Config, dtype: str, seed: int, no_eos: bool) -> int:
    """Write model.safetensors; return the number of parameters."""
    shapes = expected_shapes(config)
    assert last_decoder_convolution(config) in shapes
    rng = np.random.default_rng(seed)
    write_safetensors(
        path,
        {name: (dtype, shape) for name, shape in shapes.items()},
        lambda name: Tensor.from_float32(
            random_values(name, shapes[name], rng, config, no_eos), dtype
        ),
    )
    return sum(math.prod(shape) for shape in shapes.values())


# ------------------------------------------------------------------------------------------------
# Tokenizer and voice


def vocabulary(size: int) -> list[tuple[str, float]]:
    """Pieces of a unigram tokenizer with log probabilities, the most useful ones first.

    Whole words come before fragments of words, so common English text needs about 1.4 pieces per
    word, punctuation included; what is left is filled with pieces that no text contains.
    """
    words = Counter(re.findall(r"[A-Za-z]+", PROSE))
    # A listed word counts for more the earlier it stands (Zipf's law); the first ones also begin
    # sentences.
    for rank, word in enumerate(WORDS.split(), start=1):
        words[word] += max(1, 200 // rank)
        if rank <= 150:
            words[word.capitalize()] += 1
    fragments: Counter[str] = Counter()
    for word, count in words.items():
        marked = "▁" + word
        for start in range(len(marked)):
            for end in range(start + 2, min(start + LONGEST_FRAGMENT, len(marked)) + 1):
                fragments[marked[start:end]] += count

    total = words.total() + fragments.total()
    # Single characters are rare as pieces, so that words and fragments win where they fit.
    pieces = {"<unk>": 0.0}
    for character in "▁" + LETTERS[:26] + SYMBOLS + LETTERS[26:]:
        pieces[character] = math.log(1 / total)
    for word, count in words.most_common():
        pieces.setdefault("▁" + word, math.log((count + 1) / total))
    for fragment, count in fragments.most_common():
        pieces.setdefault(fragment, math.log(count / total))
    listed = list(pieces.items())[:size]
    # Control characters: never in a text.
    filler = [(f"\x02{index}\x03", -30.0) for index in range(size - len(listed))]
    return listed + filler


def tokenizer_document(size: int) -> dict[str, Any]:
    """A `tokenizers` JSON document with a synthetic English vocabulary of `size` pieces."""
    metaspace = {
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": "always",
        "split": True,
    }
    unknown = {
        "id": 0,
        "content": "<unk>",
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [unknown],
        "normalizer": None,
        "pre_tokenizer": metaspace,
        "post_processor": None,
        "decoder": metaspace,
        "model": {
            "type": "Unigram",
            "unk_id": 0,
            "vocab": vocabulary(size),
            "byte_fallback": False,
        },
    }


def random_voice(config: Config, length: int, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """A voice state with random keys and values."""
    transformer = config.flow_lm.transformer
    # Another stream than that of the weights.
    rng = np.random.default_rng([seed, 1])
    shape = (2, 1, length, transformer.kv_heads, transformer.head_dim)
    return {
        f"transformer.layers.{index}.self_attn": {
            "offset": np.array([length], np.int64),
            "pad": np.array([0], np.int64),
            "cache": rng.standard_normal(shape, dtype=np.float32),
        }
        for index in range(transformer.num_layers)
    }


# ------------------------------------------------------------------------------------------------


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 file or nothing."""
    with replacing_file(path) as file:
        file.write(text.encode())


def whole_number(arguments: dict[str, Any], option: str, low: int, high: int) -> int:
    """Value of an option that has to be a whole number."""
    text = arguments[option]
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII) or not low <= int(text) <= high:
        raise SystemExit(f"{option} should be a whole number from {low} to {high}, not {text!r}")
    return int(text)


def main() -> None:
    """Make the model that the command line asks for."""
    arguments = docopt(__doc__)
    dtype = STORAGE_TYPES.get(arguments["--dtype"])
    if dtype is None:
        raise SystemExit(f"--dtype should be {', '.join(STORAGE_TYPES)}")
    seed = whole_number(arguments, "--seed", 0, 2**63)
    voice_length = whole_number(arguments, "--voice-length", 1, MAX_POSITIONS)
    try:
        mapping, _ = read_mapping(arguments["CONFIG"])
        mapping = local_mapping(mapping)
        config = parse_config(mapping, "config.yaml")
        out = Path(arguments["OUT"])
        (out / "voices").mkdir(parents=True, exist_ok=True)
        n_bins = config.flow_lm.lookup_table.n_bins
        write_text(
            out / "tokenizer.json", json.dumps(tokenizer_document(n_bins), ensure_ascii=False)
        )
        export_model_state(
            random_voice(config, voice_length, seed), out / "voices" / "random.safetensors"
        )
        parameters = write_weights(
            out / "model.safetensors", config, dtype, seed, arguments["--no-eos"]
        )
        # Last, so that a folder with a configuration is complete.
        write_text(
            out / "config.yaml", yaml.safe_dump(mapping, sort_keys=False, allow_unicode=True)
        )
    except (PocketTTSError, OSError) as error:
        sys.exit(f"make_random_model.py: {error}")
    print(f"{out}: {parameters:,} random weights as {dtype}, voice of {voice_length} positions")


if __name__ == "__main__":
    main()
