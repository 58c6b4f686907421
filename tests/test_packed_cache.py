"""The cache of packed weights: the same samples, atomic files, damage noticed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from pocket_tts_cy import TTSModel, packed_cache
from pocket_tts_cy.config import EMBEDDED_CONFIG
from pocket_tts_cy.engine import checksum
from pocket_tts_cy.model import PRECISIONS


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that even the small embedded model uses."""
    monkeypatch.setenv(packed_cache.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(packed_cache, "MIN_BYTES", 0)
    return tmp_path / "cache"


def speak(precision: str = "bfloat16", **options: bool) -> np.ndarray:
    model = TTSModel.load_model("embedded", precision=precision, **options)
    voice = model.get_state_for_audio_prompt("heart")
    return np.asarray(model.generate_audio(voice, "Good morning.", seed=3))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_mapped_weights_give_the_same_samples(folder: Path, precision: str) -> None:
    packed_in_memory = speak(precision, use_cache=False)
    assert not folder.exists()
    np.testing.assert_array_equal(speak(precision), packed_in_memory)
    (path,) = folder.iterdir()
    written = path.stat().st_mtime_ns
    np.testing.assert_array_equal(speak(precision), packed_in_memory)
    assert path.stat().st_mtime_ns == written, "the second start must only map the file"


def test_precisions_have_files_of_their_own(folder: Path) -> None:
    sizes = {}
    for precision in PRECISIONS:
        before = set(folder.iterdir()) if folder.exists() else set()
        speak(precision)
        (new,) = set(folder.iterdir()) - before
        sizes[precision] = new.stat().st_size
    assert sizes["float32"] > sizes["bfloat16"] > sizes["int8"] > sizes["int4"]
    assert sum(size for _, size in packed_cache.cached_files()) == sum(sizes.values())


@pytest.mark.parametrize("damage", ["empty", "short header", "truncated", "flipped", "longer"])
def test_damage_is_noticed_and_mended(
    folder: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = speak()
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) * 2 // 3] ^= 1
    elif damage == "longer":
        content += bytes(64)
    else:
        del content[{"empty": 0, "short header": 100, "truncated": len(content) - 64}[damage] :]
    path.write_bytes(content)
    np.testing.assert_array_equal(speak(), expected)
    assert damage == "empty" or "damaged" in caplog.text
    content = path.read_bytes()
    caplog.clear()
    np.testing.assert_array_equal(speak(), expected)
    assert path.read_bytes() == content
    assert not caplog.text


def test_changed_weights_are_packed_anew(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(EMBEDDED_CONFIG.parent, copy)
    TTSModel.load_model(config=copy / "config.yaml")
    name = packed_cache.cache_name([copy / "model.safetensors"], "bfloat16")
    assert [path.stem for path, _ in packed_cache.cached_files()] == [name]
    weights = copy / "model.safetensors"
    os.utime(weights, ns=(1, 1))
    assert packed_cache.cache_name([weights], "bfloat16") != name
    assert packed_cache.cache_name([weights], "int8") != name


def test_a_folder_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv(packed_cache.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    assert len(speak()) > 0
    assert "not kept" in caplog.text


def test_clear(folder: Path) -> None:
    speak()
    ((path, size),) = packed_cache.cached_files()
    assert packed_cache.clear_cache() == size
    assert not path.exists()
    assert packed_cache.cached_files() == []
    assert packed_cache.clear_cache() == 0


def test_checksum_sees_every_changed_byte() -> None:
    data = np.random.default_rng(0).integers(0, 256, 200, np.uint8)
    original = checksum(data)
    for index in range(len(data)):
        changed = data.copy()
        changed[index] ^= 0x80
        assert checksum(changed) != original
    assert checksum(data[:-1]) != original
    assert checksum(np.append(data, np.uint8(0))) != original
