"""Loading tokenizers, their limits and their errors. Token ids are compared in test_text."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocket_tts_cy import tokenizer as module
from pocket_tts_cy.config import EMBEDDED_CONFIG
from pocket_tts_cy.errors import ConfigError, TextError
from pocket_tts_cy.tokenizer import JsonTokenizer, SentencePieceTokenizer, load_tokenizer

DATA = Path(__file__).parent / "data" / "text"
EMBEDDED = EMBEDDED_CONFIG.parent / "tokenizer.json"


def test_kind_or_suffix_chooses_the_format(tmp_path):
    assert isinstance(load_tokenizer(512, EMBEDDED, "tokenizers"), JsonTokenizer)
    assert isinstance(load_tokenizer(512, EMBEDDED, "json"), JsonTokenizer)
    assert isinstance(load_tokenizer(512, EMBEDDED, "sentencepiece"), JsonTokenizer)
    model = load_tokenizer(410, DATA / "small.model", "sentencepiece")
    assert isinstance(model, SentencePieceTokenizer)
    unnamed = tmp_path / "tokenizer"
    unnamed.write_bytes(EMBEDDED.read_bytes())
    assert load_tokenizer(512, unnamed, "tokenizers").encode("Hello.") == [36, 71, 8, 1]


def test_both_formats_of_one_vocabulary_agree():
    model = load_tokenizer(410, DATA / "small.model", "sentencepiece")
    as_json = load_tokenizer(410, DATA / "small.json", "tokenizers")
    text = "Alice was late: 3.14 times, na\u00efve \u65e5\u672c!"
    assert model.encode(text) == as_json.encode(text)
    assert model.decode(model.encode(text)) == text == as_json.decode(as_json.encode(text))


def test_empty():
    for path, size in ((EMBEDDED, 512), (DATA / "small.model", 410)):
        tokenizer = load_tokenizer(size, path, "sentencepiece")
        assert tokenizer.encode("") == []
        assert tokenizer.decode([]) == ""
        assert tokenizer.tail([], 0, 2) == ""
        assert tokenizer.head([], 0) == ""


@pytest.mark.parametrize(("path", "n"), [(EMBEDDED, 512), (DATA / "small.model", 410)])
def test_vocabulary_size_must_fit(path, n):
    with pytest.raises(ConfigError, match=rf"has {n} tokens.*n_bins is {n + 1}"):
        load_tokenizer(n + 1, path, "sentencepiece")


@pytest.mark.parametrize("kind", ["tokenizers", "sentencepiece"])
@pytest.mark.parametrize("content", [b"", b"{}", b"\x00" * 100, b"\xff\xfe{", b'{"model": 3}'])
def test_damaged_file(tmp_path, kind, content):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="tokenizer"):
        load_tokenizer(512, path, kind)


def test_truncated_model(tmp_path):
    whole = (DATA / "small.model").read_bytes()
    path = tmp_path / "cut.model"
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(ConfigError):
            load_tokenizer(410, path, "sentencepiece")


def test_missing_file_folder_and_huge_file(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_tokenizer(512, tmp_path / "nothing.json", "tokenizers")
    with pytest.raises(ConfigError, match="folder"):
        load_tokenizer(512, tmp_path, "tokenizers")
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 1000)
    with pytest.raises(ConfigError, match="larger than 1000"):
        load_tokenizer(512, EMBEDDED, "tokenizers")


def test_lone_surrogate_is_a_text_error():
    for path, size in ((EMBEDDED, 512), (DATA / "small.model", 410)):
        with pytest.raises(TextError, match="character 2"):
            load_tokenizer(size, path, "sentencepiece").encode("ab\ud800")


def test_unknown_decoders_are_decoded_whole(tmp_path):
    content = json.loads(EMBEDDED.read_text(encoding="utf-8"))
    content["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    path = tmp_path / "other.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    tokenizer = load_tokenizer(512, path, "tokenizers")
    ids = tokenizer.encode("the cat sat on the mat. " * 30)
    assert not tokenizer._local
    assert tokenizer.tail(ids, len(ids), 2) == tokenizer.decode(ids)[-2:]
    content["decoder"] = None
    path.write_text(json.dumps(content), encoding="utf-8")
    tokenizer = load_tokenizer(512, path, "tokenizers")
    assert tokenizer.head(ids, 100) == tokenizer.decode(ids[100:])[:1]


def test_ids_beyond_the_table_are_refused(monkeypatch):
    tokenizer = load_tokenizer(512, EMBEDDED, "tokenizers")
    monkeypatch.setattr(tokenizer, "_encode", lambda text: [1, 513])
    with pytest.raises(ConfigError, match="gave id 513"):
        tokenizer.encode("a")
    monkeypatch.setattr(tokenizer, "_encode", lambda text: [1, 512])
    assert tokenizer.encode("a") == [1, 512]


def test_damage_that_shows_late(tmp_path):
    content = json.loads(EMBEDDED.read_text(encoding="utf-8"))
    content["model"]["unk_id"] = None
    path = tmp_path / "unknown.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    tokenizer = load_tokenizer(512, path, "tokenizers")
    with pytest.raises(ConfigError, match="cannot encode"):
        tokenizer.encode("\u65e5")


@given(st.lists(st.tuples(st.integers(0, 6274), st.integers(0, 255)), min_size=1, max_size=10))
@settings(max_examples=150, deadline=None)
def test_damaged_models_load_or_give_a_config_error(changes):
    content = bytearray((DATA / "small.model").read_bytes())
    for position, value in changes:
        content[position] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.model"
        path.write_bytes(content)
        try:
            tokenizer = load_tokenizer(410, path, "sentencepiece")
        except ConfigError:
            return
        ids = tokenizer.encode("Alice was late. 3.14")
        assert all(0 <= index < 410 for index in ids)
        assert isinstance(tokenizer.decode(ids), str)
