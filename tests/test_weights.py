"""Names, shapes, layouts and renames of a model's weights."""

import gzip
import json
from pathlib import Path

import pytest

from pocket_tts_cy.config import parse_config
from pocket_tts_cy.weights import expected_shapes

DATA = Path(__file__).parent / "data"
SHAPES = json.loads(gzip.decompress((DATA / "state_dict_shapes.json.gz").read_bytes()))


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_equal_the_reference(name):
    config = parse_config(SHAPES[name]["config"], name)
    golden = {key: tuple(shape) for key, shape in SHAPES[name]["shapes"].items()}
    assert expected_shapes(config) == golden


def test_all_released_models_are_covered():
    assert len(SHAPES) == 29
    assert {"english", "english_2m_2026-10", "voice/config", "unusual"} <= set(SHAPES)
