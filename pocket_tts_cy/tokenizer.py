"""Text to token ids and back, for both tokenizer formats of the models."""

from __future__ import annotations

import functools
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pocket_tts_cy.errors import ConfigError, TextError

MAX_FILE_BYTES = 64 << 20
# First width of the windows that `tail` and `head` decode; most pieces are a few characters.
WINDOW = 32

_BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class Tokenizer(ABC):
    """A vocabulary with an encoder and a decoder; made by :func:`load_tokenizer`.

    Attributes
    ----------
    vocab_size : int
        Number of tokens.
    """

    vocab_size: int

    def encode(self, text: str) -> list[int]:
        """Token ids of a text.

        Raises
        ------
        TextError
            The text holds half a surrogate pair, which no encoding can express.
        ConfigError
            The tokenizer file is damaged in a way that only shows with this text.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise TextError(
                f"the text holds a lone surrogate at character {error.start}; "
                "pass text that was decoded from UTF-8"
            ) from None
        ids = self._encode(text)
        # Ids are row numbers of the text table, which has one row more than the vocabulary.
        if ids and max(ids) > self.vocab_size:
            raise ConfigError(f"the tokenizer gave id {max(ids)}, it has {self.vocab_size} tokens")
        return ids

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""

    @abstractmethod
    def _encode(self, text: str) -> list[int]: ...

    @abstractmethod
    def _pieces(self) -> list[str]:
        """All pieces, by id."""

    @abstractmethod
    def _decodes_locally(self) -> bool:
        """Whether text is piece after piece, but for leading blanks and for runs of bytes."""

    @functools.cached_property
    def _bytes(self) -> frozenset[int]:
        pieces = enumerate(self._pieces())
        return frozenset(index for index, piece in pieces if _BYTE_PIECE.fullmatch(piece))

    @functools.cached_property
    def _reach(self) -> int:
        """How far into a decoded window its start can matter, in characters.

        Decoders drop leading blanks, or every blank of the first piece that shows. An unknown
        token may show as a few characters of its own, hence the least value.
        """
        return max([8, *map(len, self._pieces())])

    @functools.cached_property
    def _local(self) -> bool:
        return self._decodes_locally()

    def tail(self, ids: Sequence[int], end: int, n: int) -> str:
        """The last ``n`` characters of ``decode(ids[:end])``, without decoding all of it.

        Only as many tokens are decoded as can matter. A window starts at a token that is not a
        byte, so that runs of bytes stay whole, and it has to show more characters than dropped
        blanks at its start could reach.
        """
        width = WINDOW
        while self._local and width < end:
            start = end - width
            while start > 0 and ids[start] in self._bytes:
                start -= 1
            text = self.decode(ids[start:end])
            if start == 0 or len(text.lstrip()) >= n + self._reach:
                return text[-n:]
            width *= 2
        return self.decode(ids[:end])[-n:]

    def head(self, ids: Sequence[int], start: int) -> str:
        """The first character of ``decode(ids[start:])``, or "", without decoding all of it."""
        width = WINDOW
        while self._local and start + width < len(ids):
            end = start + width
            while end < len(ids) and ids[end] in self._bytes:
                end += 1
            text = self.decode(ids[start:end])
            if text:
                return text[0]
            width *= 2
        return self.decode(ids[start:])[:1]


class JsonTokenizer(Tokenizer):
    """A ``tokenizer.json`` of Hugging Face tokenizers."""

    def __init__(self, path: Path) -> None:
        import tokenizers

        content = _read(path)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(content)
        except Exception as error:
            # The library raises bare Exception for a damaged file.
            raise ConfigError(f"{path}: not a tokenizer.json: {str(error)[:200]}") from None
        self.vocab_size = self._tokenizer.get_vocab_size()

    def _encode(self, text: str) -> list[int]:
        try:
            return self._tokenizer.encode(text).ids
        except Exception as error:
            raise ConfigError(f"the tokenizer cannot encode a text: {str(error)[:200]}") from None

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids)

    def _pieces(self) -> list[str]:
        return [self._tokenizer.id_to_token(index) or "" for index in range(self.vocab_size)]

    def _decodes_locally(self) -> bool:
        import json

        return _known_decoder(json.loads(self._tokenizer.to_str())["decoder"])


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece ``.model``."""

    def __init__(self, path: Path) -> None:
        import sentencepiece

        content = _read(path)
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(content)
            self._processor.id_to_piece(list(range(self._processor.vocab_size())))
        except (RuntimeError, ValueError, OSError):
            raise ConfigError(f"{path}: not a SentencePiece model") from None
        self.vocab_size = self._processor.vocab_size()

    def _encode(self, text: str) -> list[int]:
        return self._processor.encode(text, out_type=int)

    def decode(self, ids: Sequence[int]) -> str:
        return self._processor.decode(ids)

    def _pieces(self) -> list[str]:
        return self._processor.id_to_piece(list(range(self.vocab_size)))

    def _decodes_locally(self) -> bool:
        return True


def load_tokenizer(n_bins: int, path: Path | str, kind: str) -> Tokenizer:
    """Load a tokenizer file.

    Parameters
    ----------
    n_bins : int
        Vocabulary size that the model was built for.
    path : Path or str
        A local file.
    kind : str
        ``tokenizers`` or ``json`` for a ``tokenizer.json``. Any other value means SentencePiece,
        unless the file name ends in ``.json``.

    Returns
    -------
    Tokenizer
        Ready to encode and decode.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ConfigError
        The file is damaged, or its vocabulary has another size.
    """
    path = Path(path)
    is_json = kind in ("tokenizers", "json") or path.suffix == ".json"
    tokenizer: Tokenizer = JsonTokenizer(path) if is_json else SentencePieceTokenizer(path)
    if tokenizer.vocab_size != n_bins:
        raise ConfigError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} tokens, but the configuration says "
            f"flow_lm.lookup_table.n_bins is {n_bins}"
        )
    return tokenizer


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise FileNotFoundError(f"Tokenizer file not found: {path}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder, expected a tokenizer file") from None
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes, not a tokenizer")
    return content


def _known_decoder(decoder: dict[str, Any] | None) -> bool:
    """Whether a decoder of tokenizers is one of those that `tail` and `head` reckon with."""
    if decoder is None:
        return False
    kind = decoder["type"]
    if kind == "Sequence":
        return all(_known_decoder(part) for part in decoder["decoders"])
    if kind == "Strip":
        return decoder["content"] == " " and decoder["start"] <= 1 and decoder["stop"] == 0
    if kind == "Replace":
        return decoder["pattern"] == {"String": "\u2581"} and decoder["content"] == " "
    return kind in ("Metaspace", "ByteFallback", "Fuse")
