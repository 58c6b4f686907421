"""Start-up: import of the package and loading of models, each in a fresh process."""

from .common import PRECISIONS, EnglishModel, need_precision, optional

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

    params = (PRECISIONS,)
    param_names = ("precision",)

    def timeraw_load(self, folder: str | None, precision: str) -> tuple[str, str]:
        """Configuration, weights and tokenizer."""
        need_precision(precision)
        optional("", "TTSModel")
        path = f"{folder}/config.yaml"
        return f"TTSModel.load_model(config={path!r}, precision={precision!r})", IMPORT
