"""Write the goldens of text chunking and of noise, with the PyTorch package.

Run it in an environment that has ``pocket-tts==4.0.1`` and its requirements::

    OMP_NUM_THREADS=1 python scripts/make_text_goldens.py

It writes ``tests/data/text/`` (two small tokenizers, texts and their chunks) and
``tests/data/noise/`` (draws of torch's generator).
"""

import io
import json
from pathlib import Path

import numpy as np
import sentencepiece
import tokenizers
import torch
from pocket_tts.models.text_chunking import prepare_text_prompt, split_into_best_sentences
from pocket_tts.modules.text_conditioner import build_tokenizer
from pocket_tts.utils.config import CONFIGS_DIR, load_config

ROOT = Path(__file__).resolve().parent.parent
TEXT_DIR = ROOT / "tests" / "data" / "text"
NOISE_DIR = ROOT / "tests" / "data" / "noise"

SPM_VOCABULARY = 410
LATENT_DIM = 32

# Public domain: Lewis Carroll, Alice's Adventures in Wonderland (1865), chapter I.
ALICE = """\
Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing \
to do: once or twice she had peeped into the book her sister was reading, but it had no pictures \
or conversations in it, "and what is the use of a book," thought Alice "without pictures or \
conversations?"

So she was considering in her own mind (as well as she could, for the hot day made her feel very \
sleepy and stupid), whether the pleasure of making a daisy-chain would be worth the trouble of \
getting up and picking the daisies, when suddenly a White Rabbit with pink eyes ran close by her.

There was nothing so very remarkable in that; nor did Alice think it so very much out of the way \
to hear the Rabbit say to itself, "Oh dear! Oh dear! I shall be late!" (when she thought it over \
afterwards, it occurred to her that she ought to have wondered at this, but at the time it all \
seemed quite natural); but when the Rabbit actually took a watch out of its waistcoat-pocket, and \
looked at it, and then hurried on, Alice started to her feet, for it flashed across her mind that \
she had never before seen a rabbit with either a waistcoat-pocket, or a watch to take out of it, \
and burning with curiosity, she ran across the field after it, and fortunately was just in time to \
see it pop down a large rabbit-hole under the hedge.
"""


def texts() -> dict[str, str]:
    run_on = " ".join(ALICE.replace(",", "").replace(".", "").replace(";", "").split()[:300])
    sixty = " ".join(f"Sentence number {i} is about the {i * 7 % 13} cats." for i in range(60))
    decimals = " ".join(f"Item {i} costs {i}.{i * 37 % 100:02d} dollars." for i in range(40))
    return {
        "word": "hello",
        "hello": "Hello world.",
        "four_words": "these are four words",
        "five_words": "these are now five words",
        "prose": ALICE,
        "prose_one_line": " ".join(ALICE.split()),
        "run_on": run_on,
        "run_on_commas": run_on.replace(" and ", ", and "),
        "sixty_sentences": sixty,
        "decimals": decimals,
        "pi": "3.14 is pi.",
        "pi_end": "Pi is 3.14.",
        "version": "Use version 1.2.3.4 now. Or 2.0. 3 is odd.",
        "digit_full_stop_digit": "In 1999. 2000 came later. 5.5.5",
        "decimals_no_space": "1.1" * 60,
        "full_stops_and_digits": ". 1 . 2 . 3 .4 5. 6.7 .8",
        "ellipsis": "Well... I do not know... Maybe.",
        "ellipsis_sign": "Well\u2026 I do not know\u2026 maybe\u2026",
        "many_marks": "What?! No!!! Really?... Yes. . . ok",
        "quotes": '"Oh dear!" she said. "I shall be late," he said, "too late"',
        "curly_quotes": "\u201cOh dear!\u201d she said. \u2018It\u2019s late\u2019",
        "quote_then_comma": '"Hi?", she said; "Go!": then left\u2026, (yes).',
        "guillemets": "\u00abBonjour\u00bb, dit-elle. \u201eHallo\u201c sagte er.",
        "brackets": "(one) [two] (three [four])",
        "only_quotes_inside": 'One. "" Two. "".',
        "only_a_quote": '"',
        "only_quotes": "\"\" '' \u201c\u201d",
        "only_marks": "...",
        "only_commas": ",,,",
        "only_dash": "-",
        "weak_end_comma": "and then,",
        "weak_end_dash": "and then -",
        "weak_end_em_dash": "and then \u2014\u201d",
        "weak_end_colon_quote": 'he said:"',
        "weak_end_many": "so ,;:- -",
        "closers_end": 'He said "stop.")',
        "semicolons": "One; two; three; four; five; six; seven; eight; nine; ten",
        "colons": "a: b: c: d",
        "spaces": "   many     spaces   here   ",
        "tabs": "a\tb\t\tc",
        "newlines": "first line\nsecond line\r\nthird line\n\n\nfourth",
        "line_separators": "a\u2028b\u2029c\x0bd\x0ce\x85f",
        "no_break_space": "\u00a0a\u00a0b\u3000c\u00a0",
        "empty": "",
        "blank": " \n\t ",
        "zero_width": "\u200b",
        "zero_width_inside": "a\u200bb \ufeffc",
        "emoji": "I am \U0001f600 happy \U0001f680\U0001f680. So \u2764\ufe0f am I",
        "emoji_only": "\U0001f600\U0001f600",
        "emoji_sentences": "\U0001f600. \U0001f680! \u2764\ufe0f?",
        "accents": "Voil\u00e0 l'\u00e9t\u00e9 o\u00f9 No\u00ebl na\u00eft. \u00c0 bient\u00f4t!",
        "combining": "e\u0301te\u0301 a\u030a. o\u0308",
        "sharp_s": "\u00dfig ist klein",
        "ligature": "\ufb01ne words",
        "titlecase_letter": "\u01c5ungla",
        "dotted_i": "istanbul \u0130 \u0131.",
        "cjk": "\u65e5\u672c\u8a9e\u306e\u6587\u3002\u3082\u3046\u4e00\u3064\u3002",
        "cjk_long": "\u5929\u5730\u7384\u9ec4\u5b87\u5b99\u6d2a\u8352" * 12 + ". 1.5",
        "arabic": "\u0633\u0644\u0627\u0645 \u062f\u0646\u06cc\u0627. \u062e\u0648\u0628\u061f",
        "arabic_digits": "\u0663.\u0664 is 3.4 and \u00b2.\u00b3 too.",
        "greek": "\u03bf\u03b4\u03cc\u03c2. \u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2;",
        "digits_only": "1234567890",
        "long_word": "pneumono" * 40,
        "no_spaces": "a.b.c.d,e;f:g!h?i",
        "url": "See https://example.com/a.b?c=d&e=f. Then stop.",
        "mr": "Mr. Smith went to Washington D.C. yesterday. He met Dr. No.",
        "control": "a\x00b\x01c\x7f",
        "special_tokens": "<unk> a <s> b </s> c <pad> <0x41>",
        "meta_sign": "\u2581a\u2581 b",
        "lower_starts": "\u00e9cole. l'\u00e9t\u00e9. 'quoted' start",
        "leading_marks": ", and so it began. ; then",
        "long_quote_list": '"a", ' * 50,
        "numbers_list": "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20.",
        "long_with_decimals": "The price rose from 1.5 to 2.5, then to 3.75; later it was 4.125: "
        * 6,
        "becomes_empty": "a",
        "one_part_becomes_empty": "Both words. a",
        "dashes": "yes \u2013 no \u2014 maybe - well",
    }


def train_tokenizers() -> None:
    """A small SentencePiece model, and the same vocabulary as a tokenizer.json."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(ALICE.split("\n")),
        model_writer=model,
        model_type="unigram",
        vocab_size=SPM_VOCABULARY,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",  # a Unicode table would weigh 240 kB
        remove_extra_whitespaces=False,
        pad_id=3,
        user_defined_symbols=list(".,;:!?"),
        num_threads=1,
        minloglevel=2,
    )
    (TEXT_DIR / "small.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [
        (processor.id_to_piece(i), processor.get_score(i)) for i in range(processor.vocab_size())
    ]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.Unigram(pieces, unk_id=0, byte_fallback=True)
    )
    tokenizer.normalizer = tokenizers.normalizers.Sequence(
        [
            tokenizers.normalizers.Prepend("\u2581"),
            tokenizers.normalizers.Replace(" ", "\u2581"),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.Sequence(
        [
            tokenizers.decoders.Replace("\u2581", " "),
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Fuse(),
            tokenizers.decoders.Strip(" ", 1, 0),
        ]
    )
    (TEXT_DIR / "small.json").write_text(tokenizer.to_str(pretty=False) + "\n", encoding="utf-8")


def preparation(config) -> dict:
    return {
        "pad_with_spaces_for_short_inputs": config.pad_with_spaces_for_short_inputs,
        "remove_semicolons": config.remove_semicolons,
        "append_terminal_punctuation": config.append_terminal_punctuation,
        "capitalize_first_letter": config.capitalize_first_letter,
        "replace_characters": config.replace_characters,
    }


def chunk(text: str, tokenizer, max_tokens: int, settings: dict):
    """The reference's chunks of a text; an error is written as its class name."""
    try:
        sentences = split_into_best_sentences(tokenizer, text, max_tokens, **settings)
    except ValueError:
        return {"split": "ValueError"}
    chunks = []
    for sentence in sentences:
        try:
            prepared, frames = prepare_text_prompt(sentence, **settings)
        except ValueError:
            chunks.append("ValueError")
            continue
        chunks.append([prepared, tokenizer.encode(prepared), frames + 2])
    return {"split": sentences, "chunks": chunks}


def write_text_goldens() -> None:
    embedded = preparation(load_config(ROOT / "pocket_tts_cy" / "voice" / "config.yaml"))
    released = {
        name: preparation(load_config(CONFIGS_DIR / f"{name}.yaml"))
        for name in ("english_2026-01", "german_24l", "english_2m_2026-10")
    }
    plain = dict(
        released["english_2026-01"],
        pad_with_spaces_for_short_inputs=False,
        append_terminal_punctuation=False,
        capitalize_first_letter=False,
        replace_characters={},
    )
    trap = dict(plain, replace_characters={"a": '"', '"': "", "e": " "})
    embedded_tokenizer = ("pocket_tts_cy/voice/tokenizer.json", "tokenizers", 512)
    model = ("tests/data/text/small.model", "sentencepiece", SPM_VOCABULARY)
    as_json = ("tests/data/text/small.json", "tokenizers", SPM_VOCABULARY)
    cases = [
        ("embedded_32", embedded_tokenizer, 32, embedded),
        ("embedded_50", embedded_tokenizer, 50, embedded),
        ("sentencepiece_english_2026-01_50", model, 50, released["english_2026-01"]),
        ("sentencepiece_german_20", model, 20, released["german_24l"]),
        ("sentencepiece_english_2m_5", model, 5, released["english_2m_2026-10"]),
        ("sentencepiece_plain_50", model, 50, plain),
        ("sentencepiece_trap_5", model, 5, trap),
        ("json_german_50", as_json, 50, released["german_24l"]),
        ("json_english_2026-01_30", as_json, 30, released["english_2026-01"]),
    ]
    inputs = texts()
    (TEXT_DIR / "texts.json").write_text(
        json.dumps(inputs, ensure_ascii=True, indent=0) + "\n", encoding="utf-8"
    )
    for name, (path, kind, n_bins), max_tokens, settings in cases:
        tokenizer = build_tokenizer(n_bins, str(ROOT / path), kind)
        golden = {
            "tokenizer": path,
            "kind": kind,
            "n_bins": n_bins,
            "max_tokens": max_tokens,
            "settings": settings,
            "results": {
                key: chunk(text, tokenizer, max_tokens, settings) for key, text in inputs.items()
            },
        }
        content = json.dumps(golden, ensure_ascii=True, separators=(",", ":"))
        (TEXT_DIR / f"{name}.json").write_text(
            content.replace('},"', '},\n"') + "\n", encoding="utf-8"
        )


def draw(n: int, seed: int, dim: int, temp: float, clamp: float | None) -> np.ndarray:
    """``n`` consecutive noise vectors as the reference's flow head draws them."""
    torch.manual_seed(seed)
    rows = []
    for _ in range(n):
        noise = torch.empty((1, dim))
        std = temp**0.5
        if clamp is None:
            torch.nn.init.normal_(noise, mean=0.0, std=std)
        else:
            torch.nn.init.trunc_normal_(noise, mean=0.0, std=std, a=-clamp, b=clamp)
        rows.append(noise[0].numpy().copy())
    return np.stack(rows)


def write_noise_goldens() -> None:
    NOISE_DIR.mkdir(parents=True, exist_ok=True)
    arrays = {"seed_42_500_draws": draw(500, 42, LATENT_DIM, 0.3, None)}
    seeds = [0, 1, 7, 42, 2**31, 2**32 - 1, 2**32, 2**40 + 7, 2**64 - 1, -1, -5, -(2**63)]
    cases = [(seed, LATENT_DIM, 0.3, None) for seed in seeds]
    cases += [(3, LATENT_DIM, temp, None) for temp in (0.0, 0.15, 0.7, 1.0, 4.0)]
    for clamp in (0.0, 0.01, 0.1, 0.2, 0.22, 0.3, 0.5, 1.0, 2.0, 10.0):
        cases += [(seed, LATENT_DIM, 0.3, clamp) for seed in (3, 2**35 + 1)]
    cases += [(5, dim, 0.3, clamp) for dim in (16, 17, 24, 33, 48) for clamp in (None, 0.1, 1.0)]
    kept = np.array([0, 1, 2, 3, 50, 99, 300, 499])
    for seed, dim, temp, clamp in cases:
        arrays[f"{seed},{dim},{temp},{clamp}"] = draw(500, seed, dim, temp, clamp)[kept]
    np.savez_compressed(NOISE_DIR / "torch_2.13.npz", kept=kept, **arrays)


def main() -> None:
    TEXT_DIR.mkdir(parents=True, exist_ok=True)
    train_tokenizers()
    write_text_goldens()
    write_noise_goldens()


if __name__ == "__main__":
    main()
