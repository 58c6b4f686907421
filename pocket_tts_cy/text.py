"""Text preparation and chunking: what is spoken in one go, character by character.

The models were trained on single sentences, so a text is prepared, cut at sentence ends, and packed
into chunks of limited length. Everything equals the PyTorch package's results, in linear time.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pocket_tts_cy.config import Config
from pocket_tts_cy.errors import TextError
from pocket_tts_cy.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

TERMINAL_MARKS = ".!?\u2026"
WEAK_MARKS = ",;:-\u2013\u2014"
CLOSERS = "\"'\u201d\u2019)]\u00bb"
SHORT_TEXT_WORDS = 4
SHORT_TEXT_PADDING = " " * 8
# The model stops a little early, so two frames are always added to the guess.
FRAMES_ALWAYS_ADDED = 2

_MARK_THEN_WEAK_MARK = re.compile(r"([.!?\u2026])\s*[,;:]")


@dataclass(frozen=True)
class Chunk:
    """A piece of text that is generated in one go.

    Attributes
    ----------
    text : str
        The prepared text.
    token_ids : list of int
        Its tokens, as the model reads them.
    frames_after_eos_guess : int
        How many frames to emit from the end-of-speech frame on, when nobody says otherwise.
    """

    text: str
    token_ids: list[int]
    frames_after_eos_guess: int


def prepare_text_prompt(
    text: str,
    pad_with_spaces_for_short_inputs: bool,
    remove_semicolons: bool,
    append_terminal_punctuation: bool = True,
    capitalize_first_letter: bool = True,
    replace_characters: Mapping[str, str] | None = None,
) -> tuple[str, int]:
    """Bring a text into the form the model was trained on.

    Parameters
    ----------
    text : str
        Any text.
    pad_with_spaces_for_short_inputs : bool
        Put eight spaces before a text of up to four words.
    remove_semicolons : bool
        Turn semicolons into commas.
    append_terminal_punctuation : bool
        Make the text end like a sentence.
    capitalize_first_letter : bool
        Make the first letter upper case.
    replace_characters : mapping of str to str, optional
        Text for single characters ("" deletes); also folds all white space.

    Returns
    -------
    text : str
        The prepared text.
    frames_after_eos_guess : int
        3 for up to four words, else 1.

    Raises
    ------
    TextError
        Nothing is left of the text.
    """
    text = text.strip()
    if replace_characters:
        replaced = text.translate({ord(key): value for key, value in replace_characters.items()})
        # A deleted quote can leave "Hi?, she said": the stronger mark stays alone.
        text = _MARK_THEN_WEAK_MARK.sub(r"\1", " ".join(replaced.split()))
    if not text:
        raise TextError("Text prompt cannot be empty")
    text = text.replace("\n", " ").replace("\r", " ").replace("  ", " ")
    if remove_semicolons:
        text = text.replace(";", ",")
    frames_after_eos_guess = 3 if len(text.split()) <= SHORT_TEXT_WORDS else 1
    if capitalize_first_letter and not text[0].isupper():
        text = text[0].upper() + text[1:]
    if append_terminal_punctuation:
        text = _end_like_a_sentence(text)
    if pad_with_spaces_for_short_inputs and len(text.split()) <= SHORT_TEXT_WORDS:
        text = SHORT_TEXT_PADDING + text
    return text, frames_after_eos_guess


def _end_like_a_sentence(text: str) -> str:
    """End with a sentence mark: keep one (closers may follow), replace a weak one, else add one.

    The added full stop goes after closing quotes and brackets, because the splitter only knows a
    bare full stop.
    """
    core = text.rstrip(CLOSERS + " ")
    if not core or core[-1] in TERMINAL_MARKS:
        return text
    if core[-1] in WEAK_MARKS:
        closers = text[len(core) :].strip()
        return core.rstrip(WEAK_MARKS + " ") + "." + closers
    return text + "."


def split_into_best_sentences(
    tokenizer: Tokenizer,
    text_to_generate: str,
    max_tokens: int,
    pad_with_spaces_for_short_inputs: bool,
    remove_semicolons: bool,
    append_terminal_punctuation: bool = True,
    capitalize_first_letter: bool = True,
    replace_characters: Mapping[str, str] | None = None,
) -> list[str]:
    """Cut a text into chunks of whole sentences of up to ``max_tokens`` tokens.

    Parameters
    ----------
    tokenizer : Tokenizer
        The model's tokenizer.
    text_to_generate : str
        Any text.
    max_tokens : int
        Wanted limit. A sentence over it is cut at commas, semicolons and colons, and stays longer
        where there are none.
    pad_with_spaces_for_short_inputs, remove_semicolons, append_terminal_punctuation, \
capitalize_first_letter, replace_characters
        As for :func:`prepare_text_prompt`, which is applied to the whole text first.

    Returns
    -------
    list of str
        The chunks, in order. Chunks can be empty when the tokenizer cannot show a character.

    Raises
    ------
    TextError
        Nothing is left of the text after preparation.
    """
    prepared, _ = prepare_text_prompt(
        text_to_generate,
        pad_with_spaces_for_short_inputs,
        remove_semicolons,
        append_terminal_punctuation,
        capitalize_first_letter,
        replace_characters,
    )
    ids = tokenizer.encode(prepared.strip())
    segments = _cut(tokenizer, ids, _mark_ids(tokenizer, ".!...?"), keep_decimals=True)
    weak_ids = _mark_ids(tokenizer, ",;:")
    parts: list[tuple[int, str]] = []
    for n_tokens, text in segments:
        if n_tokens > max_tokens:
            finer = _cut(tokenizer, tokenizer.encode(text.strip()), weak_ids, keep_decimals=False)
            if len(finer) > 1:
                parts.extend(finer)
                continue
        parts.append((n_tokens, text))
    return _pack(parts, max_tokens)


def chunk_text(text: str, tokenizer: Tokenizer, config: Config, max_tokens: int) -> list[Chunk]:
    """Everything that is to be generated for a text.

    Parameters
    ----------
    text : str
        Any text.
    tokenizer : Tokenizer
        The model's tokenizer.
    config : Config
        Says how the model wants its text prepared.
    max_tokens : int
        Wanted largest number of tokens in a chunk, at least 1.

    Returns
    -------
    list of Chunk
        At least one, in order.

    Raises
    ------
    TextError
        The text has nothing that can be spoken.
    ValueError
        ``max_tokens`` is below 1.

    Notes
    -----
    A chunk that becomes empty is left out (the PyTorch package raises in the middle of the
    stream), and when none is left this raises (it returns an empty stream, or fails to join it).
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, found {max_tokens}")
    settings = (
        config.pad_with_spaces_for_short_inputs,
        config.remove_semicolons,
        config.append_terminal_punctuation,
        config.capitalize_first_letter,
        config.replace_characters,
    )
    chunks = []
    for sentence in split_into_best_sentences(tokenizer, text, max_tokens, *settings):
        try:
            prepared, frames = prepare_text_prompt(sentence, *settings)
        except TextError:
            continue
        ids = tokenizer.encode(prepared)
        if not ids:
            continue
        if len(ids) > max_tokens:
            logger.warning(
                "a chunk has %d tokens (limit %d), words may be skipped: %.50r",
                len(ids),
                max_tokens,
                prepared,
            )
        chunks.append(Chunk(prepared, ids, frames + FRAMES_ALWAYS_ADDED))
    if not chunks:
        raise TextError("the text has nothing that the model can speak")
    return chunks


def _mark_ids(tokenizer: Tokenizer, marks: str) -> frozenset[int]:
    """Ids of punctuation marks; the first id is left out because it stands for a word's start."""
    return frozenset(tokenizer.encode(marks)[1:])


def _cut(
    tokenizer: Tokenizer, ids: Sequence[int], mark_ids: frozenset[int], keep_decimals: bool
) -> list[tuple[int, str]]:
    """Cut after each run of marks; gives (number of tokens, text) of each segment.

    A run that is a decimal point ("3.14") is no place to cut if ``keep_decimals``.
    """
    borders = [0]
    for index in range(1, len(ids)):
        if (
            ids[index - 1] in mark_ids
            and ids[index] not in mark_ids
            and not (keep_decimals and _after_decimal_point(tokenizer, ids, index))
        ):
            borders.append(index)
    borders.append(len(ids))
    return [
        (end - start, tokenizer.decode(ids[start:end]))
        for start, end in itertools.pairwise(borders)
    ]


def _after_decimal_point(tokenizer: Tokenizer, ids: Sequence[int], index: int) -> bool:
    """Whether the text before ``ids[index]`` ends in digit and full stop, and a digit follows."""
    before = tokenizer.tail(ids, index, 2)
    return (
        len(before) == 2
        and before[1] == "."
        and before[0].isdigit()
        and tokenizer.head(ids, index).isdigit()
    )


def _pack(parts: Sequence[tuple[int, str]], max_tokens: int) -> list[str]:
    """Join neighbouring parts while their tokens fit."""
    chunks: list[str] = []
    current = ""
    n_current = 0
    for n_tokens, text in parts:
        if current and n_current + n_tokens <= max_tokens:
            current += " " + text
            n_current += n_tokens
            continue
        if current:
            chunks.append(current.strip())
        current = text
        n_current = n_tokens
    if current:
        chunks.append(current.strip())
    return chunks
