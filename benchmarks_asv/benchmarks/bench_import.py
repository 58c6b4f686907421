"""Start-up: import of the package and loading of models, each in a fresh process."""

import importlib.util

from .common import PRECISIONS, EnglishModel, need_precision, optional, speaker

IMPORT = "from pocket_tts_cy import TTSModel"


class Import:
    """Import time, without the start of the interpreter."""

    def timeraw_package(self) -> str:
        """The package alone, as a program that only asks for its version does."""
        return "import pocket_tts_cy"

    def timeraw_model(self) -> str:
        """All that is needed before a model can be loaded."""
        optional("", "TTSModel")
        return IMPORT


class LoadEmbedded:
    """Loading of the embedded model in a fresh process; the file is in the system's cache."""

    def timeraw_load(self) -> tuple[str, str]:
        """Configuration, weights and tokenizer."""
        optional("", "TTSModel")
        return 'TTSModel.load_model(language="embedded")', IMPORT


class LoadEnglish(EnglishModel):
    """Loading of a full-size bfloat16 model in a fresh process."""

    params = (PRECISIONS, ["packed anew", "cached"])
    param_names = ("precision", "weights")

    def setup(self, folder: str | None, precision: str, weights: str) -> None:
        """Fill the cache of packed weights."""
        if weights == "cached":
            optional("packed_cache")
            speaker(folder, precision, 1)

    def timeraw_load(self, folder: str | None, precision: str, weights: str) -> tuple[str, str]:
        """Configuration, weights and tokenizer."""
        need_precision(precision)
        optional("", "TTSModel")
        options = f"config={folder + '/config.yaml'!r}, precision={precision!r}"
        if weights == "packed anew" and importlib.util.find_spec("pocket_tts_cy.packed_cache"):
            options += ", use_cache=False"
        return f"TTSModel.load_model({options})", IMPORT
