"""Numbers as people and models write them, read exactly.

`plain` gives a text's signs their plain ASCII spelling: digits of any script, LaTeX, Unicode's
minus signs, fractions and exponents, any currency. `numerals` finds the numbers of such a text.

"," groups thousands (1,00,000 too), and so do a space, an apostrophe, an underscore, and dots
where nothing else can be meant: 70 000, 1'000, 1.000.000, 1.000,50. Currency signs, percent signs
and units are passed over, so 18% is 18. Magnitudes count: $1.5 million, $70k, 2bn, 1.2 × 10^6,
1.2e6. 1/2 and 1 1/2 are fractions, so are ½ and \\frac. A hyphen that touches the number, or the
word "negative", is a minus unless something that it could join stands before it: "10-12" ends in
12, "3-year-old" in 3. A clock's h:mm is a number of hours: 5:00 is 5 and 3:30 is 7/2. Digits within
a word or in a unit's exponent (CO2, m^2) do not count. Not read: numbers in words.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

MAGNITUDES: Final = {
    "hundred": 10**2,
    "k": 10**3,
    "thousand": 10**3,
    "lakh": 10**5,
    "m": 10**6,
    "mn": 10**6,
    "million": 10**6,
    "crore": 10**7,
    "b": 10**9,
    "bn": 10**9,
    "billion": 10**9,
    "tn": 10**12,
    "trillion": 10**12,
}
_MOST_DIGITS = 1000  # a model stuck on a digit; int() refuses more than 4,300
_MOST_DIGITS_OF_A_BASE = 20

_INTEGER = (
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?![0-9])"
    r"|(?<![0-9][.,])[0-9]{1,3}(?: [0-9]{3})+(?![0-9/:]|-[A-Za-z])|[0-9]+)"
)
_PLAIN = rf"{_INTEGER}(?:\.[0-9]+)?|(?<![\w.])\.[0-9]+"
# An exponent may stand in braces, and the last of them may be of something around it.
_POWER = r"\^(?:\{(?P<power>-?[0-9]{1,2})\}|(?P<bare_power>-?[0-9]{1,2})(?![0-9]))"
_TEN = r"\^(?:\{(?P<ten>[-+]?[0-9]{1,3})\}|(?P<bare_ten>[-+]?[0-9]{1,3})(?![0-9]))"
_SCIENTIFIC = rf"(?: ?\* ?10{_TEN}|[eE](?P<e>[-+]?[0-9]{{1,3}})\b)"
_MAGNITUDE = (
    r"(?P<magnitude>(?:[ -]{0,3}(?i:hundred|thousand|lakh|million|crore|billion|trillion)s?\b){1,3}"
    r"|(?:[kK]|bn|mn|tn|[mMbB])(?![A-Za-z0-9^]|-[A-Za-z]))"
)
_NUMBER = re.compile(
    # Not within a word, an exponent or an index; USD18 and Rs500 are money.
    r"(?:(?<![A-Za-z0-9^])(?<![A-Za-z0-9)]_)(?<![\^_]\{)(?<!\^-)(?<!\^\{-)|(?<=USD)|(?<=Rs))"
    r"(?:(?P<hours>[0-9]{1,2}):(?P<minutes>[0-5][0-9])(?![0-9]|:[0-9])"
    rf"|(?P<whole>{_INTEGER}) (?P<part>[0-9]+/0*[1-9][0-9]*)(?![.,/]?[0-9])"
    rf"|(?P<over>{_PLAIN})(?:/(?P<under>{_PLAIN})|{_SCIENTIFIC}|{_POWER})?)"
    rf"{_MAGNITUDE}?"
)
_MINUS = re.compile(
    r"(?:^|[^\w)\]}%.$–—-]|(?:^|[^0-9\s])\s*\$\s?)-(?:\$ ?)?$"
    # "minus" takes away from a number before it, if there is one in the same clause.
    r"|\bnegative\s+\$?\s?$|(?:^|[=:;(.#{\n])[^0-9=:;(.#{\n]*\bminus\s+\$?\s?$",
    re.IGNORECASE,
)
_MONEY = re.compile(r"(?:\$|\b(?:USD|Rs\.?)) ?-?$")
_BEFORE = 48
"""How many characters before a number are looked at for its sign and currency."""

_HALVES = "[¼-¾⅐-⅞]"
_HYPHENS = str.maketrans(dict.fromkeys("−‐‑–﹣", "-"))
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_LATEX = (
    (r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it)|mbox|bf|operatorname)\s*\{([^{}]*)\}", r" \1 "),
    (r"\{,\}", ","),
    (r"\\[!]|\\(?:left|right|displaystyle|quad|qquad)\b", ""),
    (r"\\([$%#&_])", r"\1"),
    (r"\\(?:times|cdot|ast)\b", "*"),
    (r"\\div\b", "/"),
    (r"\\(?:approx|simeq|sim|equiv|cong)\b", "≈"),
    (r"\\(?:(?:long)?rightarrow|Rightarrow|to|implies)\b", "→"),
)
_DECIMAL_COMMA = re.compile(  # of euros
    r"(?<![0-9.,])([0-9]+),([0-9]{1,2})(?= ?€)|(?<=€)([0-9]+),([0-9]{1,2})\b"
)
_DOTTED = re.compile(
    r"(?<![0-9.,])[0-9]{1,3}"
    r"(?:(?:\.[0-9]{3}){2,}(?![0-9]|\.[0-9])|(?:\.[0-9]{3})+,[0-9]{1,2}(?![0-9,]))"
)
_SPACED = re.compile(r"(?<=[0-9])(?:\\[, ;]|[~\u00a0\u2007-\u200a\u202f'’_])(?=[0-9]{3}(?![0-9]))")
_FRACTION = re.compile(
    r"\\[dtc]?frac\s*(?:\{([^{}]*)\}|([0-9]))\s*(?:\{([^{}]*)\}|([0-9]))"  # also \frac12
)


@dataclass(frozen=True, slots=True)
class Numeral:
    """A number in a text.

    Attributes:
        start: its first character; the sign is before it.
        end: the character after it and its magnitude.
        value: None where it has none, as 1/0, or more digits than any answer has.
    """

    start: int
    end: int
    value: Fraction | None


def plain(text: str) -> str:
    """The text with all spellings of numbers, signs and operators in plain characters."""
    text = _DECIMAL_COMMA.sub(r"\1\3.\2\4", text)
    for pattern, sign in _LATEX:
        text = re.sub(pattern, sign, text)
    text = "".join(
        map(_ascii, re.sub(rf"(?<=[0-9])\s*(?=\\[dtc]?frac(?![A-Za-z])|{_HALVES})", " ", text))
    )
    text = _FRACTION.sub(_over, text.translate(_HYPHENS))
    text = re.sub(r"[⁰¹²³⁴-⁹⁻⁺]+", lambda run: "^" + run[0].translate(_SUPERSCRIPTS), text)
    text = re.sub(r"\\[,;: ]", " ", _SPACED.sub(",", text))
    text = _DOTTED.sub(lambda found: found[0].translate(str.maketrans(",.", ".,")), text)
    # A letter between two numbers, or alone between a unit and a number, is a sign of operation.
    text = re.sub(r"(?<=[0-9)%])\s*[xX](?=\s*[$(]?[0-9])|(?<=\s)[xX](?=\s+[$(]?[0-9])", "*", text)
    return text


def _ascii(character: str) -> str:
    """One character in ASCII where it is a digit, a form for print, an operator or a currency."""
    if character.isascii():
        return character
    if character in "×✕✖∗⋅·∙⨯":
        return "*"
    if character in "÷⁄∕":
        return "/"
    if "！" <= character <= "～" or re.match(_HALVES, character):
        return unicodedata.normalize("NFKC", character).replace("⁄", "/")
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.decimal(character))
    return {"٬": ",", "٫": "."}.get(character, "$" if category == "Sc" else character)


def _over(found: re.Match[str]) -> str:
    over, under = found[1] or found[2] or "", found[3] or found[4] or ""
    sign = "-" if re.match(r"\s*-", over) else ""
    over = over.strip().removeprefix(sign)
    simple = re.compile(rf"\s*(?:{_PLAIN})\s*")
    if simple.fullmatch(over) and simple.fullmatch(under):
        return f"{sign}{over.strip()}/{under.strip()}"
    return f"({sign}{over})/({under})"


def numerals(text: str) -> list[Numeral]:
    """The numbers of a text that `plain` has made, in their order."""
    return [_numeral(found, text) for found in _NUMBER.finditer(text)]


def _numeral(found: re.Match[str], text: str) -> Numeral:
    before = text[max(0, found.start() - _BEFORE) : found.start()]
    end = found.end()
    magnitude = found["magnitude"] or ""
    # 5m is five metres and $5m five millions; 5M and 5k need no currency.
    if magnitude in ("m", "b", "B") and not _MONEY.search(before):
        end, magnitude = end - len(magnitude), ""
    value = _value(found)
    if value is not None:
        for word in re.findall(r"[A-Za-z]+", magnitude):
            value *= MAGNITUDES[word.lower().removesuffix("s")]
        if _MINUS.search(before):
            value = -value
    return Numeral(found.start(), end, value)


def _value(found: re.Match[str]) -> Fraction | None:
    if len(found[0]) > _MOST_DIGITS:
        return None
    if found["hours"]:
        return int(found["hours"]) + Fraction(int(found["minutes"]), 60)
    if found["whole"]:
        return _decimal(found["whole"]) + Fraction(found["part"])
    value, under = _decimal(found["over"]), _decimal(found["under"] or "1")
    power = int(found["power"] or found["bare_power"] or "1")
    ten = int(found["ten"] or found["bare_ten"] or found["e"] or "0")
    is_vast = power != 1 and len(found["over"]) > _MOST_DIGITS_OF_A_BASE
    if is_vast or not under or (not value and power < 1):
        return None
    return value**power * Fraction(10) ** ten / under


def _decimal(digits: str) -> Fraction:
    return Fraction(digits.replace(",", "").replace(" ", ""))
