"""Spelling out what a small model cannot read: numbers, money, times, symbols, abbreviations.

English is treated in full. For the other languages of the released models only numbers and percent
signs are spelled out. Text that has none of these comes back unchanged, a second pass changes
nothing, and the time is linear in the length of the text.
"""

from __future__ import annotations

import functools
import re

# Longer strings of digits are read digit by digit: they are identifiers, not quantities.
LONGEST_CARDINAL = 15
LONGEST_PLAIN_CARDINAL = 9
MOST_PASSES = 5

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
_MONTH_BY_ABBREVIATION = {name[:3]: name for name in MONTHS} | {"Sept": "September"}

# Symbol: unit, units, hundredth, hundredths.
CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "\u00a3": ("pound", "pounds", "penny", "pence"),
    "\u20ac": ("euro", "euros", "cent", "cents"),
    "\u00a5": ("yen", "yen", "sen", "sen"),
}
_SCALES = {"k": "thousand", "K": "thousand", "M": "million", "bn": "billion", "B": "billion"}

UNITS = {
    "km/h": ("kilometer per hour", "kilometers per hour"),
    "kph": ("kilometer per hour", "kilometers per hour"),
    "mph": ("mile per hour", "miles per hour"),
    "km": ("kilometer", "kilometers"),
    "cm": ("centimeter", "centimeters"),
    "mm": ("millimeter", "millimeters"),
    "m": ("meter", "meters"),
    "ft": ("foot", "feet"),
    "kg": ("kilogram", "kilograms"),
    "mg": ("milligram", "milligrams"),
    "g": ("gram", "grams"),
    "lb": ("pound", "pounds"),
    "lbs": ("pound", "pounds"),
    "oz": ("ounce", "ounces"),
    "ml": ("milliliter", "milliliters"),
    "mL": ("milliliter", "milliliters"),
    "L": ("liter", "liters"),
    "ms": ("millisecond", "milliseconds"),
    "sec": ("second", "seconds"),
    "min": ("minute", "minutes"),
    "hr": ("hour", "hours"),
    "hrs": ("hour", "hours"),
    "kHz": ("kilohertz", "kilohertz"),
    "MHz": ("megahertz", "megahertz"),
    "GHz": ("gigahertz", "gigahertz"),
    "Hz": ("hertz", "hertz"),
    "kB": ("kilobyte", "kilobytes"),
    "KB": ("kilobyte", "kilobytes"),
    "MB": ("megabyte", "megabytes"),
    "GB": ("gigabyte", "gigabytes"),
    "TB": ("terabyte", "terabytes"),
    "kWh": ("kilowatt hour", "kilowatt hours"),
    "kW": ("kilowatt", "kilowatts"),
    "\u00b0C": ("degree Celsius", "degrees Celsius"),
    "\u00b0F": ("degree Fahrenheit", "degrees Fahrenheit"),
    "\u00b0": ("degree", "degrees"),
}

SYMBOLS = {
    "&": "and",
    "+": "plus",
    "=": "equals",
    "%": "percent",
    "@": "at",
    "#": "hash",
    "/": "slash",
    "\u00b0": "degrees",
    "\u00d7": "times",
    "\u00f7": "divided by",
    "\u00b1": "plus or minus",
    **{symbol: words[0] for symbol, words in CURRENCIES.items()},
}

# Written without their full stop. Those of the second table can end a sentence, and then their
# full stop stays.
_TITLES = {
    "Mr": "Mister",
    "Mrs": "Missus",
    "Ms": "Miz",
    "Dr": "Doctor",
    "Prof": "Professor",
    "Gen": "General",
    "Capt": "Captain",
    "Lt": "Lieutenant",
    "Sgt": "Sergeant",
    "Rev": "Reverend",
    "Mt": "Mount",
    "vs": "versus",
    "approx": "approximately",
    "e.g": "for example",
    "i.e": "that is",
    "E.g": "For example",
    "I.e": "That is",
}
_ENDINGS = {
    "etc": "et cetera",
    "Jr": "Junior",
    "Sr": "Senior",
    "Inc": "Incorporated",
    "Ltd": "Limited",
    "Ave": "Avenue",
    "Blvd": "Boulevard",
    "Rd": "Road",
    "Dept": "Department",
    "dept": "department",
    "est": "established",
}
_BEFORE_SAINT = frozenset(("In", "At", "On", "The", "To", "From", "Near", "Of", "And", "By", "For"))

_LETTER = "[^\\W\\d_]"
_CURRENCY = "[" + "".join(CURRENCIES) + "]"
_MONTH = "(" + "|".join([*MONTHS, "Sept", *(name[:3] for name in MONTHS if name != "May")]) + ")"

_VULGAR = {"\u00bd": "1/2", "\u2153": "1/3", "\u2154": "2/3", "\u00bc": "1/4", "\u00be": "3/4"}
_VULGAR_FRACTION = re.compile("[" + "".join(_VULGAR) + "]")
_WEB = re.compile(
    r"(?<!\S)(?:https?://|www\.)\S{1,2000}"
    r"|(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64}){1,8}"
)
_ISO_DATE = re.compile(r"(?<![\w-])([0-9]{4})-([0-9]{2})-([0-9]{2})(?![\w-])")
_SLASH_DATE = re.compile(r"(?<![\w/])([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})(?![\w/])")
_MONTH_DAY = re.compile(
    rf"\b{_MONTH}\.? ([0-9]{{1,2}})(?:st|nd|rd|th)?(?!\w|%|[:/.,\u2013-][0-9])"
    r"(?:(,? )([0-9]{4})(?![\w%]|[.,][0-9]))?"
)
_DAY_MONTH = re.compile(
    rf"(?<![\w.,])([0-9]{{1,2}}) {_MONTH}\b\.?(?:,? ([0-9]{{4}})(?![\w%]|[.,][0-9]))?"
)
_MONTH_YEAR = re.compile(rf"\b{_MONTH}\.? (?=[0-9]{{4}}(?!\w))")
_PHONE = re.compile(
    r"(?<![\w+.,-])(?:"
    r"(?:\+[0-9]{1,3}[ .-]?)?(?:\([0-9]{3}\) ?|[0-9]{3}[ .-])[0-9]{3}[ .-][0-9]{4}"
    r"|[0-9]{3}-[0-9]{4}"
    r"|\+[0-9]{1,3}(?:[ -][0-9]{2,4}){2,5}"
    r")(?![\w-])"
)
_HALF_DAY = r"([AaPp])\.?[Mm](\.?)(?![A-Za-z])"
_CLOCK = re.compile(
    r"(?<![\w.,:])([01]?[0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9]))?(?![0-9:])"
    rf"(?: ?{_HALF_DAY})?"
)
_HOUR = re.compile(rf"(?<![\w.,:])(1[0-2]|0?[1-9]) ?{_HALF_DAY}")
_RANGE = re.compile(
    rf"(?<![\w.,/:\u2013-])({_CURRENCY}?)([0-9]{{1,4}}(?:\.[0-9]{{1,3}})?)(?:-| ?\u2013 ?)"
    rf"({_CURRENCY}?)(?=[0-9]{{1,4}}(?:\.[0-9]{{1,3}})?(?![0-9]|[/:,.\u2013-][0-9]))"
)
_FRACTION = re.compile(
    r"(?<![\w./,])(?:([0-9]{1,3}) )?([0-9]{1,2})/([0-9]{1,3})(?![\w/]|[.,][0-9])"
)
_NUMBER_SIGN = re.compile(r"(?:\bNo\. ?|\bNos\. ?|#)(?=[0-9])")
_DECADE = re.compile(r"(?<![\w.,])['\u2019]?((?:1[0-9]|20)?[0-9]0)['\u2019]?s(?!\w)")
_JOINED = re.compile(rf"(?<={_LETTER})-(?=[0-9])")
_RATIO = re.compile(r"(?<=[0-9]):(?=[0-9])")
_NUMBER = re.compile(
    r"(?P<sign>(?<![^\s(=\[])[-\u2212](?=" + _CURRENCY + r"?\.?[0-9]))?"
    r"(?:(?P<currency>" + _CURRENCY + r") ?(?=\.?[0-9]))?"
    r"(?:(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?P<parts>(?:\.[0-9]+)+)?"
    r"|(?<!\w)\.(?P<fraction>[0-9]+))"
    r"(?:(?P<ordinal>st|nd|rd|th)(?!\w)"
    r"|(?P<percent> ?%)"
    r"|(?P<scale> (?:thousand|million|billion|trillion)|bn|[kKMB])(?!\w)"
    r"| ?(?P<unit>" + "|".join(sorted(UNITS, key=len, reverse=True)) + r")(?!\w)"
    r"| ?(?P<currency_after>" + _CURRENCY + r")(?!\.?[0-9]))?"
)
_SHARP = re.compile(r"\b([A-G])#(?!\w)")
_AND_OR = re.compile(r"\band/or\b")
_HASHTAG = re.compile(rf"(?<!\w)#(?={_LETTER})")
_SYMBOL = re.compile("[" + re.escape("".join(SYMBOLS)) + "]")
_SAINT = re.compile(rf"(?:(?<!\w)({_LETTER}+) )?\bSt\.(?= ?(\S?))")
_ABBREVIATION = re.compile(
    r"(?<![\w.])("
    + "|".join(re.escape(word) for word in sorted(_TITLES | _ENDINGS, key=len, reverse=True))
    + r")\.(?!\w)(?=\s*(\S?))"
)
_LOOSE_NUMBER = re.compile(r"[0-9]+")


def normalize_text(text: str, language: str = "en") -> str:
    """Spell out numbers, money, times, symbols and common abbreviations.

    Parameters
    ----------
    text : str
        Any text.
    language : str
        Two-letter code; "en" is treated in full, other languages get numbers and percent signs.

    Returns
    -------
    str
        Text without ASCII digits. Unchanged when there was nothing to spell out.

    Raises
    ------
    ValueError
        The language is not one that numbers can be spelled in.
    """
    if language != "en":
        return _spell_numbers_in(text, language)
    # Spelling a number can lay bare what was glued to it ("3Dr. Lee"), hence the second look.
    for _ in range(MOST_PASSES):
        before, text = text, _spell_english(text)
        if text == before:
            break
    return text


def _spell_english(text: str) -> str:
    text = _VULGAR_FRACTION.sub(_vulgar_fraction, text)
    text = _WEB.sub(_web, text)
    text = _ISO_DATE.sub(lambda m: _date(m, int(m[1]), int(m[2]), int(m[3])), text)
    text = _SLASH_DATE.sub(_slash_date, text)
    text = _MONTH_DAY.sub(_month_day, text)
    text = _DAY_MONTH.sub(_day_month, text)
    text = _MONTH_YEAR.sub(lambda m: f"{_month(m[1])} ", text)
    text = _PHONE.sub(_phone, text)
    text = _CLOCK.sub(_clock, text)
    text = _HOUR.sub(lambda m: f"{_cardinal(m[1].lstrip('0'))} {_half_day(m, 2)}", text)
    text = _RANGE.sub(_range, text)
    text = _FRACTION.sub(_fraction, text)
    text = _NUMBER_SIGN.sub("number ", text)
    text = _DECADE.sub(_decade, text)
    text = _JOINED.sub(" ", text)
    text = _RATIO.sub(" to ", text)
    text = _NUMBER.sub(_number, text)
    text = _SHARP.sub(r"\1 sharp", text)
    text = _AND_OR.sub("and or", text)
    text = _HASHTAG.sub("hashtag ", text)
    text = _SYMBOL.sub(_symbol, text)
    text = _SAINT.sub(_saint, text)
    return _ABBREVIATION.sub(_abbreviation, text)


# Numbers in words.


@functools.lru_cache(maxsize=4096)
def _num2words(number: int, kind: str, language: str = "en") -> str:
    from num2words import num2words

    return num2words(number, lang=language, to=kind).replace(",", "")


def _one_by_one(digits: str) -> str:
    return " ".join(DIGITS[int(digit)] for digit in digits if digit.isdigit())


def _cardinal(digits: str) -> str:
    """A whole number: as a quantity, or digit by digit when it is an identifier."""
    plain = digits.replace(",", "")
    longest = LONGEST_PLAIN_CARDINAL if plain == digits else LONGEST_CARDINAL
    if len(plain) > longest or (len(plain) > 1 and plain[0] == "0"):
        return _one_by_one(plain)
    return _num2words(int(plain), "cardinal")


def _whole(digits: str) -> str:
    """A whole number that stands alone: four digits can be a year."""
    if len(digits) == 4 and 1100 <= int(digits) < 2100:
        return _num2words(int(digits), "year")
    return _cardinal(digits)


def _ordinal(digits: str) -> str:
    plain = digits.replace(",", "")
    if len(plain) > LONGEST_CARDINAL:
        return _one_by_one(plain)
    return _num2words(int(plain), "ordinal")


def _decimal(whole: str, parts: str) -> str:
    """``3`` and ``.14``, or a version number such as ``1`` and ``.2.3``."""
    pieces = parts.split(".")[1:]
    if len(pieces) == 1:
        return f"{_cardinal(whole)} point {_one_by_one(pieces[0])}"
    return " point ".join([_cardinal(whole), *map(_cardinal, pieces)])


def _number(match: re.Match[str]) -> str:
    whole, parts = match["whole"], match["parts"]
    if match["fraction"] is not None:
        whole, parts = "", "." + match["fraction"]
    if match["ordinal"] and whole and not parts:
        return _apart(match, _ordinal(whole))
    currency = match["currency"] or match["currency_after"]
    if currency:
        words = _money(currency, whole, parts or "", match["scale"] or "")
        rest = _tail(match, used="scale")
    else:
        plain = bool(whole) and not any(match[key] for key in ("percent", "scale", "unit", "sign"))
        if parts:
            words = _decimal(whole, parts) if whole else f"point {_one_by_one(parts)}"
        else:
            words = _whole(whole) if plain else _cardinal(whole)
        rest = _tail(match, used="")
    if match["sign"]:
        words = "minus " + words
    return _apart(match, words + rest)


def _tail(match: re.Match[str], used: str) -> str:
    """Words for what stands behind a number; the group ``used`` is spoken already."""
    if match["percent"]:
        return " percent"
    if match["unit"]:
        singular = match["whole"] == "1" and not match["parts"]
        return " " + UNITS[match["unit"]][0 if singular else 1]
    if match["scale"] and used != "scale":
        return match["scale"] if match["scale"][0] == " " else " " + match["scale"]
    # An ending such as "th" behind a fraction is no ordinal.
    return " " + match["ordinal"] if match["ordinal"] else ""


def _money(currency: str, whole: str, parts: str, scale: str) -> str:
    unit, units, hundredth, hundredths = CURRENCIES[currency]
    if scale:
        amount = _decimal(whole or "0", parts) if parts else _cardinal(whole)
        return f"{amount} {_SCALES.get(scale, scale.strip())} {units}"
    if len(parts) == 3 and parts.count(".") == 1:
        cents = int(parts[1:])
        words = []
        if whole.strip("0,") or not cents:
            words.append(f"{_cardinal(whole or '0')} {unit if whole == '1' else units}")
        if cents:
            words.append(f"{_cardinal(str(cents))} {hundredth if cents == 1 else hundredths}")
        return " and ".join(words)
    if parts:
        return f"{_decimal(whole or '0', parts)} {units}"
    return f"{_cardinal(whole)} {unit if whole == '1' else units}"


def _apart(match: re.Match[str], words: str) -> str:
    """``words`` in place of a match, with blanks where they would touch a letter or digit."""
    text, start, end = match.string, match.start(), match.end()
    before = " " if start and (text[start - 1].isalnum() or text[start - 1] in SYMBOLS) else ""
    after = " " if end < len(text) and text[end].isalnum() else ""
    return before + words + after


# Dates and times.


def _month(name: str) -> str:
    return _MONTH_BY_ABBREVIATION.get(name, name)


def _date(match: re.Match[str], year: int, month: int, day: int) -> str:
    if not (1 <= month <= 12 and 1 <= day <= 31 and 1000 <= year < 2100):
        return match[0]
    return f"{MONTHS[month - 1]} {_num2words(day, 'ordinal')}, {_num2words(year, 'year')}"


def _slash_date(match: re.Match[str]) -> str:
    first, second, year = (int(group) for group in match.groups())
    # Month first, as is usual in English, unless only the other order makes sense.
    month, day = (first, second) if first <= 12 else (second, first)
    return _date(match, year, month, day)


def _month_day(match: re.Match[str]) -> str:
    day = int(match[2])
    if not 1 <= day <= 31:
        return match[0]
    year = "" if match[4] is None else match[3] + _whole(match[4])
    return f"{_month(match[1])} {_num2words(day, 'ordinal')}{year}"


def _day_month(match: re.Match[str]) -> str:
    day = int(match[1])
    if not 1 <= day <= 31:
        return match[0]
    year = "" if match[3] is None else " " + _whole(match[3])
    stop = _full_stop(match.string, match.end()) if match[0].endswith(".") else ""
    before = match.string[max(0, match.start() - 4) : match.start()]
    article = "" if before.lower() == "the " else "the "
    return f"{article}{_num2words(day, 'ordinal')} of {_month(match[2])}{year}{stop}"


def _full_stop(text: str, end: int) -> str:
    """The full stop of an abbreviation that ends at ``end``, if it ends a sentence as well."""
    rest = text[end : end + 3].lstrip()
    return "." if not rest or rest[0].isupper() or rest[0] in "\"'\u201c\u2018([" else ""


def _half_day(match: re.Match[str], group: int) -> str:
    stop = _full_stop(match.string, match.end()) if match[group + 1] else ""
    return f"{match[group].upper()} M{stop}"


def _clock(match: re.Match[str]) -> str:
    hour, minute = int(match[1]), int(match[2])
    words = _num2words(hour, "cardinal")
    if minute:
        words += f" {'oh ' if minute < 10 else ''}{_num2words(minute, 'cardinal')}"
    elif not match[4] and not match[3]:
        words += " o'clock" if 1 <= hour <= 12 else " hundred"
    if match[3]:
        words += f" and {_num2words(int(match[3]), 'cardinal')} seconds"
    if match[4]:
        return f"{words} {_half_day(match, 4)}"
    return _apart(match, words)


def _decade(match: re.Match[str]) -> str:
    words = _whole(match[1]) if len(match[1]) == 4 else _cardinal(match[1])
    plural = words[:-1] + "ies" if words.endswith("y") else words + "s"
    # "00s" is no decade that has a name.
    return plural if match[1] != "00" else match[0].replace("00", "zero zero ")


# Other expressions with digits.


def _vulgar_fraction(match: re.Match[str]) -> str:
    return _apart(match, _VULGAR[match[0]])


def _web(match: re.Match[str]) -> str:
    address = re.sub(r"^https?://", "", match[0])
    core = address.rstrip(".,;:!?)\"'\u201d\u2019")
    spoken = re.sub(
        r"[._/@-]",
        lambda m: {".": " dot ", "_": " underscore ", "/": " slash ", "@": " at "}.get(
            m[0], " dash "
        ),
        core,
    )
    return " ".join(spoken.split()) + address[len(core) :]


def _phone(match: re.Match[str]) -> str:
    groups = re.findall(r"[0-9]+", match[0])
    plus = "plus " if match[0].startswith("+") else ""
    return plus + ", ".join(_one_by_one(group) for group in groups)


def _range(match: re.Match[str]) -> str:
    first, number, second = match.groups()
    if first and not second:
        # "$10-20": the currency belongs to both and is spoken once.
        return f"{number} to {first}"
    return f"{first}{number} to {second}"


def _fraction(match: re.Match[str]) -> str:
    count, numerator, denominator = match[1], int(match[2]), int(match[3])
    lead = "" if count is None else f"{_cardinal(count)} "
    if (numerator, denominator) in ((24, 7), (9, 11)):
        return lead + f"{_num2words(numerator, 'cardinal')} {_num2words(denominator, 'cardinal')}"
    if not (0 < numerator < denominator <= 100 and match[2][0] != "0" != match[3][0]):
        return lead + f"{_cardinal(match[2])} over {_cardinal(match[3])}"
    name = {2: "half", 4: "quarter"}.get(denominator) or _num2words(denominator, "ordinal")
    plural = "" if numerator == 1 else "s"
    joint = "and " if count else ""
    return f"{lead}{joint}{_num2words(numerator, 'cardinal')} {name}{plural}"


# Symbols and abbreviations.


def _symbol(match: re.Match[str]) -> str:
    return _apart(match, SYMBOLS[match[0]])


def _saint(match: re.Match[str]) -> str:
    """``St.`` is a street behind a name, else a saint before one."""
    before, after = match[1], match[2]
    lead = "" if before is None else before + " "
    named = before is not None and before[0].isupper() and before not in _BEFORE_SAINT
    if named or not after[:1].isalpha():
        return f"{lead}Street{'.' if not after or after.isupper() else ''}"
    return f"{lead}Saint"


def _abbreviation(match: re.Match[str]) -> str:
    short, after = match[1], match[2]
    if short in _TITLES:
        return _TITLES[short]
    ends = not after or after.isupper() or after in "\"'\u201c\u201d\u2019)"
    return _ENDINGS[short] + ("." if ends else "")


# Other languages.

_DECIMAL_WORDS = {
    "fr": ("virgule", "pour cent"),
    "de": ("Komma", "Prozent"),
    "es": ("coma", "por ciento"),
    "it": ("virgola", "per cento"),
    "pt": ("v\u00edrgula", "por cento"),
    "nl": ("komma", "procent"),
}
_FOREIGN_NUMBER = re.compile(
    r"([0-9]{1,3}(?:[. \u00a0\u202f][0-9]{3})+(?![0-9])|[0-9]+)(?:,([0-9]+))?( ?%)?"
)


def _spell_numbers_in(text: str, language: str) -> str:
    if language not in _DECIMAL_WORDS:
        known = ", ".join(["en", *_DECIMAL_WORDS])
        raise ValueError(f"cannot spell numbers in language {language!r} (known: {known})")
    comma, percent = _DECIMAL_WORDS[language]

    def spell(match: re.Match[str]) -> str:
        digits = _LOOSE_NUMBER.findall(match[1])
        plain = "".join(digits)
        if len(plain) > LONGEST_CARDINAL or (len(plain) > 1 and plain[0] == "0"):
            words = " ".join(_num2words(int(digit), "cardinal", language) for digit in plain)
        else:
            words = _num2words(int(plain), "cardinal", language)
        if match[2]:
            decimals = (_num2words(int(digit), "cardinal", language) for digit in match[2])
            words += f" {comma} {' '.join(decimals)}"
        if match[3]:
            words += f" {percent}"
        return _apart(match, words)

    return _FOREIGN_NUMBER.sub(spell, text)
