"""Spelling out: examples, and the promises that hold for any text."""

import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pocket_tts_cy.normalize import normalize_text

EXAMPLES = [
    # Numbers.
    ("I have 3 cats.", "I have three cats."),
    ("0", "zero"),
    (
        "1,234,567 people",
        "one million two hundred and thirty-four thousand five hundred and sixty-seven people",
    ),
    ("3.14 is pi.", "three point one four is pi."),
    (".5 or 0.50", "point five or zero point five zero"),
    ("It was -5 outside.", "It was minus five outside."),
    ("It was \u22123.2 there", "It was minus three point two there"),
    ("version 1.2.3", "version one point two point three"),
    ("007", "zero zero seven"),
    ("12345678901", "one two three four five six seven eight nine zero one"),
    ("10,20,30", "ten,twenty,thirty"),
    ("The 1st, 22nd and 103rd.", "The first, twenty-second and one hundred and third."),
    ("Page 3-4-5", "Page three-four-five"),
    # Years and decades.
    ("In 1984 and 2026.", "In nineteen eighty-four and twenty twenty-six."),
    ("2005", "two thousand and five"),
    ("the 1990s, the '80s", "the nineteen nineties, the eighties"),
    ("in the 60s", "in the sixties"),
    # Times.
    ("At 3:45, 3:45 pm or 15:00", "At three forty-five, three forty-five P M or fifteen hundred"),
    ("3:00", "three o'clock"),
    ("9:05 a.m. is", "nine oh five A M is"),
    ("at 7 a.m. Then", "at seven A M. Then"),
    ("5pm.", "five P M."),
    ("12:30:15", "twelve thirty and fifteen seconds"),
    ("a score of 3:1", "a score of three to one"),
    # Dates.
    ("Nov. 22, 2026 was", "November twenty-second, twenty twenty-six was"),
    ("May 5", "May fifth"),
    ("On 22 November 2026.", "On the twenty-second of November twenty twenty-six."),
    ("the 3rd of May", "the third of May"),
    ("2026-11-22", "November twenty-second, twenty twenty-six"),
    ("11/22/2026", "November twenty-second, twenty twenty-six"),
    ("22/11/2026", "November twenty-second, twenty twenty-six"),
    ("Jan. 2026", "January twenty twenty-six"),
    # Percent and money.
    ("50% off, 3.5 %", "fifty percent off, three point five percent"),
    ("$3.50", "three dollars and fifty cents"),
    ("$1.01", "one dollar and one cent"),
    ("$0.99", "ninety-nine cents"),
    ("\u00a32 or \u20ac1,000", "two pounds or one thousand euros"),
    ("$5 million, $2.5M", "five million dollars, two point five million dollars"),
    ("5\u20ac.", "five euros."),
    ("$1,234.56", "one thousand two hundred and thirty-four dollars and fifty-six cents"),
    ("-$5", "minus five dollars"),
    # Units.
    ("10 km, 1 km, 5kg", "ten kilometers, one kilometer, five kilograms"),
    ("60 mph at 20\u00b0C", "sixty miles per hour at twenty degrees Celsius"),
    ("turn 90\u00b0", "turn ninety degrees"),
    # Fractions and ranges.
    ("1/2 cup, 3/4, 2/3", "one half cup, three quarters, two thirds"),
    ("1 1/2 or 2\u00bd", "one and one half or two and one half"),
    ("24/7", "twenty-four seven"),
    ("16/9", "sixteen over nine"),
    ("10-20 people", "ten to twenty people"),
    ("1990\u20131995", "nineteen ninety to nineteen ninety-five"),
    ("$10-20", "ten to twenty dollars"),
    # Telephone numbers.
    ("555-1234", "five five five, one two three four"),
    (
        "(555) 123-4567",
        "five five five, one two three, four five six seven",
    ),
    (
        "+44 20 7946 0958",
        "plus four four, two zero, seven nine four six, zero nine five eight",
    ),
    # Letters and digits.
    ("B2B in 4K", "B two B in four K"),
    ("COVID-19, H2O", "COVID nineteen, H two O"),
    ("a 10-year plan", "a ten-year plan"),
    # Symbols.
    ("AT&T & R&D", "AT and T and R and D"),
    ("2+2=4", "two plus two equals four"),
    ("me@example.com", "me at example dot com"),
    ("https://example.com/a_b.", "example dot com slash a underscore b."),
    ("C# and C++", "C sharp and C plus plus"),
    ("#5 of #tag", "number five of hashtag tag"),
    ("he/she and/or it", "he slash she and or it"),
    # Abbreviations.
    ("Mr. and Mrs. Jones", "Mister and Missus Jones"),
    ("Dr. Lee vs. Prof. X", "Doctor Lee versus Professor X"),
    ("No. 7. No. Really.", "number seven. No. Really."),
    ("St. Paul on Main St. He is", "Saint Paul on Main Street. He is"),
    ("In St. Louis", "In Saint Louis"),
    ("cats, dogs, etc.", "cats, dogs, et cetera."),
    ("this, etc., and", "this, et cetera, and"),
    ("e.g. this, i.e. that", "for example this, that is that"),
]

UNCHANGED = [
    "",
    " ",
    "Hello world.",
    "Chapter IV of Louis XIV; NASA and the U.S. army - so it goes...",
    "No. I said no!",
    "He's \u201chere\u201d \u2014 na\u00efve caf\u00e9 \u65e5\u672c \U0001f600\t\n\r\n  x ",
    "May March am a.m. pm st. th (brackets) [too] <and> these {too} * ~ ^ | \\ ` _",
    "dr mr drive street 'quoted' \u0663\u0664 \u00b2",
    "It costs ten dollars, i e five percent",
]


@pytest.mark.parametrize(("text", "spoken"), EXAMPLES)
def test_examples(text, spoken):
    assert normalize_text(text) == spoken


@pytest.mark.parametrize("text", UNCHANGED)
def test_text_without_anything_to_spell_is_unchanged(text):
    assert normalize_text(text) == text


@given(st.text(alphabet="abcXYZ ,.;:!?'\"()-\n\u00e9\u65e5\u2014", max_size=200))
@settings(max_examples=200, deadline=None)
def test_plain_text_is_unchanged(text):
    assert normalize_text(text) == text


ATOMS = st.one_of(
    st.sampled_from(
        [
            *("0", "1", "2", "9", "10", "22", "007", "1984", "2026", "1,000", "3.14", ".5", "1/2"),
            *("3:45", "15:00", "10-20", "555-1234", "$", "$5", "\u00a3", "\u20ac", "22,", "\u00bd"),
            *"%&@#+=/-()'\".,:;!?\u00b0\u00d7\u2212\u2013",
            *("\u00b0C", "km", "kg", "m", "k", "M", "bn", "st", "nd", "th", "s", "'s"),
            *("pm", "p.m.", "a.m.", "Mr.", "Dr.", "St.", "etc.", "e.g.", "i.e.", "No.", "vs."),
            *("Inc.", "Nov.", "May", "Jan", "the", "A", "b", "Main", "In"),
            *("www.", "https://", "a@b.c", "and/or", "C#"),
        ]
    ),
    st.just(" "),
    st.just(" "),
    st.characters(codec="utf-8"),
)


@given(st.lists(ATOMS, max_size=40).map("".join))
@settings(max_examples=400, deadline=None)
@example("3Dr. 5St. $.5 -$.5% 1stst 00s 2\u00bd5")
@example("1.2.3th $1.2.3 $0.00 $1. $1,2 1,234,5 5 $ 5")
def test_no_digit_is_left_and_a_second_pass_changes_nothing(text):
    spoken = normalize_text(text)
    assert not re.search("[0-9]", spoken)
    assert normalize_text(spoken) == spoken


@pytest.mark.parametrize("language", ["fr", "de", "es", "it", "pt", "nl"])
@given(text=st.text(alphabet="0123456789,. %ab\u00e9-", max_size=40))
@settings(max_examples=60, deadline=None)
def test_other_languages_lose_their_digits_too(language, text):
    spoken = normalize_text(text, language)
    assert not re.search("[0-9]", spoken)
    assert normalize_text(spoken, language) == spoken


@pytest.mark.parametrize(
    ("language", "text", "spoken"),
    [
        ("fr", "3,14 et 1 234.", "trois virgule un quatre et mille deux cent trente-quatre."),
        ("de", "50 % von 1.200", "f\u00fcnfzig Prozent von eintausendzweihundert"),
        ("es", "Tengo 2 gatos", "Tengo dos gatos"),
        ("it", "007", "zero zero sette"),
        ("pt", "Ol\u00e1, mundo", "Ol\u00e1, mundo"),
        ("nl", "a1b", "a \u00e9\u00e9n b"),
    ],
)
def test_other_languages(language, text, spoken):
    assert normalize_text(text, language) == spoken


def test_unknown_language():
    with pytest.raises(ValueError, match="'xx'"):
        normalize_text("1", "xx")


def test_absurd_numbers_are_read_digit_by_digit():
    assert normalize_text("7" * 5000) == " ".join(["seven"] * 5000)
    assert normalize_text("1" + ",000" * 20).startswith("one zero zero zero")
    assert normalize_text("$" + "9" * 40).endswith("nine dollars")
    assert normalize_text("1" + "0" * 400 + "th").startswith("one zero zero")
    assert normalize_text("5" * 400, "de").startswith("f\u00fcnf f\u00fcnf")


@pytest.mark.parametrize(
    "unit",
    [
        *("1", "1,", "1.", "$", "1/", "1-", "123,", "a@", "St. ", "+1 22 33", "12:", "etc. "),
        *("https://", "\u00bd", "Jan 1", "(555) ", "A", " "),
        "Costs $3.50 on Nov. 22, 2026 at 3:45 pm. ",
    ],
)
def test_long_text_of_anything(unit):
    text = unit * (200_000 // len(unit))
    started = time.monotonic()
    spoken = normalize_text(text)
    # Quadratic work would take hours; the margin is for busy machines.
    assert time.monotonic() - started < 30
    assert not re.search("[0-9]", spoken[:100_000])
