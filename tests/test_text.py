"""Preparation and chunking against the PyTorch package, to the character.

The goldens (``scripts/make_text_goldens.py``) hold 77 texts for each of 9 combinations of
tokenizer, limit and preparation.
"""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocket_tts_cy import text as text_module
from pocket_tts_cy.config import EMBEDDED_CONFIG, load_config, parse_config
from pocket_tts_cy.errors import TextError
from pocket_tts_cy.text import chunk_text, prepare_text_prompt, split_into_best_sentences
from pocket_tts_cy.tokenizer import load_tokenizer

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "data" / "text"
TEXTS = json.loads((DATA / "texts.json").read_text(encoding="utf-8"))
GOLDENS = sorted(path.stem for path in DATA.glob("*_[0-9]*.json"))
EMBEDDED = load_config(EMBEDDED_CONFIG)
EMBEDDED_TOKENIZER = load_tokenizer(512, EMBEDDED_CONFIG.parent / "tokenizer.json", "tokenizers")
SMALL_MODEL = load_tokenizer(410, DATA / "small.model", "sentencepiece")
SMALL_JSON = load_tokenizer(410, DATA / "small.json", "tokenizers")
TOKENIZERS = [EMBEDDED_TOKENIZER, SMALL_MODEL, SMALL_JSON]


def config_with(changes):
    """The embedded configuration with other text settings."""
    import yaml

    mapping = yaml.safe_load(EMBEDDED_CONFIG.read_text(encoding="utf-8"))
    return parse_config({**mapping, **changes}, "test")


def test_goldens_are_complete():
    assert len(GOLDENS) == 9
    assert len(TEXTS) == 77


@pytest.mark.parametrize("name", GOLDENS)
def test_parity_with_the_pytorch_package(name):
    golden = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    tokenizer = load_tokenizer(golden["n_bins"], ROOT / golden["tokenizer"], golden["kind"])
    config = config_with(golden["settings"])
    for key, expected in golden["results"].items():
        arguments = (tokenizer, TEXTS[key], golden["max_tokens"])
        if expected["split"] == "ValueError":
            with pytest.raises(TextError):
                split_into_best_sentences(*arguments, **golden["settings"])
            continue
        split = split_into_best_sentences(*arguments, **golden["settings"])
        assert split == expected["split"], key
        # A chunk that fails in the reference is left out here.
        speakable = [chunk for chunk in expected["chunks"] if chunk != "ValueError"]
        if not speakable:
            with pytest.raises(TextError, match="nothing that the model can speak"):
                chunk_text(TEXTS[key], tokenizer, config, golden["max_tokens"])
            continue
        chunks = chunk_text(TEXTS[key], tokenizer, config, golden["max_tokens"])
        ours = [[chunk.text, chunk.token_ids, chunk.frames_after_eos_guess] for chunk in chunks]
        assert ours == speakable, key


@pytest.mark.parametrize("blank", ["", " ", "\n\t \u3000", "\u201c\u201d", '"("'])
def test_nothing_to_say(blank):
    with pytest.raises(TextError, match="empty"):
        chunk_text(blank, EMBEDDED_TOKENIZER, EMBEDDED, 32)
    with pytest.raises(ValueError, match="empty"):
        prepare_text_prompt(blank, False, False, replace_characters=EMBEDDED.replace_characters)


def test_limit_must_be_positive():
    with pytest.raises(ValueError, match="max_tokens"):
        chunk_text("Hello.", EMBEDDED_TOKENIZER, EMBEDDED, 0)


def test_lone_surrogate():
    with pytest.raises(TextError, match="lone surrogate"):
        chunk_text("a \udc80 b", EMBEDDED_TOKENIZER, EMBEDDED, 32)


def test_long_chunk_is_reported(caplog):
    chunks = chunk_text("word " * 60, EMBEDDED_TOKENIZER, EMBEDDED, 32)
    assert len(chunks) == 1
    assert "words may be skipped" in caplog.text


def test_guess_counts_words():
    frames = [
        chunk_text(text, EMBEDDED_TOKENIZER, EMBEDDED, 32)[0].frames_after_eos_guess
        for text in ("One.", "One two three four.", "One two three four five.")
    ]
    assert frames == [5, 5, 3]


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=300), st.integers(1, 60))
@settings(max_examples=150, deadline=None)
def test_any_text_gives_chunks_or_a_text_error(text, max_tokens):
    for tokenizer in TOKENIZERS:
        try:
            chunks = chunk_text(text, tokenizer, EMBEDDED, max_tokens)
        except TextError:
            continue
        assert chunks
        for chunk in chunks:
            assert chunk.text.strip()
            assert chunk.token_ids == tokenizer.encode(chunk.text)


WORD = st.sampled_from(["the", "cat", "sat", "on", "a", "mat", "saw", "two", "dogs", "today"])
SENTENCE = st.builds(
    lambda words, mark: " ".join(words) + mark,
    st.lists(WORD, min_size=1, max_size=12),
    st.sampled_from([".", "!", "?", "...", ",", ";", ":"]),
)


@given(st.lists(SENTENCE, min_size=1, max_size=30), st.integers(5, 60))
@settings(max_examples=100, deadline=None)
def test_chunks_join_to_the_text(sentences, max_tokens):
    config = config_with({"append_terminal_punctuation": False, "capitalize_first_letter": False})
    text = " ".join(sentences)
    for tokenizer in TOKENIZERS:
        chunks = chunk_text(text, tokenizer, config, max_tokens)
        joined = " ".join(chunk.text for chunk in chunks)
        assert (
            joined.split()
            == prepare_text_prompt(text, False, False, False, False, config.replace_characters)[
                0
            ].split()
        )


ATOMS = [*"31.!, ", "...", "\u2026", "cat", "14", "\u65e5", "\U0001f600", "\u2581"]


@given(st.lists(st.sampled_from(ATOMS), max_size=400), st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_windows_show_what_the_whole_text_shows(atoms, where):
    for tokenizer in TOKENIZERS:
        ids = tokenizer.encode("".join(atoms))
        index = where % (len(ids) + 1)
        assert tokenizer.tail(ids, index, 2) == tokenizer.decode(ids[:index])[-2:]
        assert tokenizer.head(ids, index) == tokenizer.decode(ids[index:])[:1]


@pytest.mark.parametrize(
    "text",
    [
        "The quick brown fox jumps 3.14 times over the lazy dog. " * 6_000,
        "1." * 80_000,
        "\u65e5" * 20_000 + "1.1." * 20_000,
    ],
    ids=["prose", "decimals", "bytes"],
)
def test_long_texts_take_linear_time(text, monkeypatch):
    decoded = 0
    decode = type(SMALL_JSON).decode

    def counting(self, ids):
        nonlocal decoded
        decoded += len(ids)
        return decode(self, ids)

    monkeypatch.setattr(type(SMALL_JSON), "decode", counting)
    started = time.monotonic()
    chunks = text_module.chunk_text(text, SMALL_JSON, EMBEDDED, 50)
    n_tokens = sum(len(chunk.token_ids) for chunk in chunks)
    # The reference decodes the whole text at each full stop: n_tokens squared over a few.
    assert decoded < 100 * n_tokens
    assert time.monotonic() - started < 60
