"""The option that a text chooses by its letter."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from .thoughts import own_answer

_SURE = (
    r"(?:\s*,?\s*\b(?:probably|(?:most )?likely|definitely|clearly|certainly|therefore|thus|then"
    r"|simply"
    r"|surely|undoubtedly|obviously|actually|indeed|still|again|of course|perhaps|maybe|just|only"
    r"|option|choice|letter|answer|number|the|that)\b,?)*"
)
_IS = r"(?:\s*(?:is|was|(?:would|must|should|will|has to|might|could|may) be)\b|['’]s\b)"
_STATES_BEFORE = (
    r"\b(?:answer|option|choice|letter|response|solution|pick|guess)s?"
    r"(?:,? (?:then|here|therefore|thus),?)?"
    rf"(?:\s+(?:to|for|of|among|from)\s[^.:\n]{{1,60}}?)?(?:{_IS}{_SURE}\s*:?|\s*[:=]){_SURE}\s*",
    rf"\b(?:it|that|this|(?:correct|right|best|true|accurate) (?:one|statement|answer))"
    rf"{_IS}{_SURE}\s*:?\s*",
    r"\b(?:I|we)(?:['’](?:d|ll|m|ve)|\s+(?:would|will|have to|must|am|should|can))*"
    r"(?:\s+(?:going to|have to|say|probably|definitely|also))*\s+"
    r"(?:go(?:ing)? (?:with|for)|went with|choose|chose|pick(?:ed)?|select(?:ed)?|say|guess|think"
    r"|believe"
    r"|answer|vote for|opt for|lean towards?|settle on|stick with|take)"
    rf"(?:\s+(?:it|that){_IS})?{_SURE}\s*:?\s*",
    r"\bnot\b[^.\n]{1,40}?\bbut(?: rather)?\s+",
    r"\banswer\s*,\s*|答案[是为]?\s*:?\s*",
    r"(?:\b(?:therefore|thus|hence|so|conclusion|finally)\b|→|⇒|[-=]>|✅|✔️?)\s*[,:]?\s*",
)
_VERDICT = (
    r"(?:correct|right|true|best|(?:most )?accurate|the (?:answer|one|truth)"
    r"|my (?:answer|choice|pick))"
)
_STATES_AFTER = (
    rf"\s*[)\]]?{_IS}\s+(?:(?:the|most|only|also|probably|likely|clearly|definitely|indeed|certainly)\s+)*"
    rf"(?:{_VERDICT}|correct|answer|one|choice|option)\b(?!-)"
    rf"|\s*[)\]]?\s+(?:seems|looks|appears)\s+(?:to be\s+)?"
    rf"(?:(?:the|most|quite|clearly)\s+)*{_VERDICT}\b"
    r"|\s*[)\]]?\s+it is\b|\s*[).:]\s*[-–]?\s*(?:correct|right|yes)\b"
)
_FALSE = (
    r"(?:(?:the|an?|also|just|both|all|simply|common|popular|widespread|old|\w+ly) )*"
    r"(?:wrong|incorrect|false|untrue|inaccurate|impossible|invalid|unlikely|misleading|not|never|out"
    r"|bad|myth|misconception|superstition|hoax|lie|trap|distractor|fiction|nonsense|eliminated|excluded"
    r"|ruled"
    r"|refuted|implausible|unsupported|dis(?:proved|proven)|debunked)"
)
_REJECTED_AFTER = re.compile(
    rf"\s*[)\]]?\s*(?:,|,? which)?(?:{_IS}|\s+are|\s+(?:seems?|looks?|appears?)(?: to be)?)"
    rf"\s+{_FALSE}\b|\s*[)\]]?\s*\?\s*(?:no|nope|wrong|not)\b"
    r"|\s*[)\]]?\s+(?:is|are|was|ca|wo|does|do|would|could)n['’]?t\b"
    r"|\s*[)\]]?\s+(?:cannot|can not|can be (?:ruled|eliminated|excluded|dismissed)"
    r"|does not|fails)\b"
    r"|\s*[).:]?\s*[-–:]\s*(?:wrong|incorrect|false)\b",
    re.IGNORECASE,
)
_REJECTED_BEFORE = re.compile(
    r"\b(?:not|never|neither|nor|rather than|instead of|unlike|except(?: for)?|than|against"
    r"|exclud(?:e|es|ed|ing)|eliminat(?:e|es|ed|ing)|reject(?:s|ed|ing)?|dismiss(?:es|ed|ing)?"
    r"|rul(?:e|es|ed|ing) out|\w+n['’]t)"
    r"\s+(?:be\s+|choose\s+|pick\s+|select\s+|say\s+|think\s+(?:it(?:['’]s| is)\s+)?)?"
    r"(?:the\s+)?(?:(?:option|choice|letter|answer)s?\s+)?$",
    re.IGNORECASE,
)
_JOINT = (
    r"\s*(?:,\s*(?:and|or)?|/|&|\+|\b(?:and|or|nor)\b|[ \t]+)\s*(?:(?:option|choice|letter)\s+)?"
)
_ALSO = r"[^.!?\n]*\b(?:correct|right|true|best|accurate),?\s+(?:and|or|as is)\s+(?:also\s+)?[(\[]?"
_OPENING = re.compile(
    r"\b(?:option|choice|letter|answer|sure|certainly|ok|okay|well|hmm+|yes|probably|most likely"
    r"|likely"
    r"|definitely|clearly|of course|easy|maybe|perhaps)\b|\W",
    re.IGNORECASE,
)
_NAMED = re.compile(r"\b(?:option|choice|letter)\s+$", re.IGNORECASE)
_LONGEST_CONTEXT = 100


@dataclass(frozen=True, slots=True)
class _Mention:
    """Letters that a text names together: "B", "A or C", "(A), (B) and (D)".

    Attributes:
        start, end: where.
        letters: capitals, without those that are rejected ("B is wrong", "not C").
        rejected: the others.
        is_stated: whether they are called the answer.
        is_named: whether a bracket or "option" says that this is a letter and no word.
    """

    start: int
    end: int
    letters: frozenset[str]
    rejected: frozenset[str]
    is_stated: bool
    is_named: bool


def chosen_letter(text: str, letters: str) -> str | None:
    """The option that a text chooses: one of `letters` (capitals), or None.

    Thoughts, and further questions that the model asks itself, are no part of the text. A letter
    that is rejected ("B is wrong", "not B") is not chosen, nor is one of several named together
    ("A, C", "A or B"). From the first of these that gives one:

    1. the last letter that is called the answer: "the answer is probably B", "Answer: (B)", "it's
       B", "I'd go with B", "B is correct", \\boxed{B};
    2. the letter that the text begins with: "B", "B) Nothing", "(B)", "Option B", "B because ...";
       a copied list of the options is passed over;
    3. the letter that stands alone on the last line;
    4. the one letter that the text names as "(B)", "B)" or "option B", or beside letters that it
       rejects, if it names no other.

    An A or I is a letter only where it cannot be a word: not in "A man", "I think" or "I, too".
    """
    own = own_answer(text)
    if own is None:
        return None
    text = _plain(own)
    reading = _Reading(letters)
    mentions = list(reading.mentions(text))
    stated = [each for each in mentions if each.is_stated and each.letters]
    if len(stated) > 1 and re.fullmatch(_ALSO, text[stated[-2].end : stated[-1].start], re.I):
        return _only(stated[-2].letters | stated[-1].letters)
    for each in reversed(stated):
        later = {
            letter for other in mentions if other.start > each.start for letter in other.rejected
        }
        if not each.letters <= later:
            return _only(each.letters)
    text = reading.without_list(text)
    mentions = [each for each in reading.mentions(text) if each.letters or each.rejected]
    for each in mentions:
        if reading.begins(text, each) and each.letters:
            return _only(each.letters)
    for each in mentions:
        if reading.is_last_line(text, each) and each.letters:
            return _only(each.letters)
    rejected = {letter for each in mentions for letter in each.rejected}
    # Where others are rejected, the one that is left needs no bracket.
    named = {
        letter for each in mentions if each.is_named or rejected for letter in each.letters
    } - rejected
    return _only(frozenset(named))


def _only(letters: frozenset[str]) -> str | None:
    return next(iter(letters)) if len(letters) == 1 else None


def _plain(text: str) -> str:
    """Without mark-up, quotes and the widths of other scripts."""
    text = unicodedata.normalize("NFKC", text).translate(
        str.maketrans("【〔「『〈《】〕」』〉》", "(((((())))))")
    )
    text = re.sub(r"\\f?boxed\s*\{|<(?:final_)?answer>", " answer: ", text, flags=re.IGNORECASE)
    text = re.sub(r"</?[a-z_]+>", " ", text)
    text = re.sub(r"\\[A-Za-z]+\s*\{|[*_`$\"“”„«»{}\\]", "", text)
    text = re.sub(r"(?<!\w)['‘’‚‹]+\s*([A-Za-z])\s*['’‘›]+(?!\w)", r"\1", text)
    return re.sub(r"(?<!\w)['‘’]+(?=\(?[A-Za-z][).:])", "", text)


class _Reading:
    """The patterns for some letters."""

    def __init__(self, letters: str) -> None:
        letter = _letter(letters)
        self.letters = letters
        self.letter = re.compile(letter, re.IGNORECASE)
        self.group = re.compile(rf"{letter}(?:{_JOINT}{letter})*", re.IGNORECASE)
        self.before = re.compile(rf"(?:{'|'.join(_STATES_BEFORE)})[\s(\[]*$", re.IGNORECASE)
        self.after = re.compile(_STATES_AFTER, re.IGNORECASE)
        self.listed = re.compile(rf"[ \t]*[-•]?[ \t]*\(?([{letters}])[).:](?!\w)", re.IGNORECASE)

    def mentions(self, text: str) -> Iterator[_Mention]:
        for found in self.group.finditer(text):
            before = text[max(0, found.start() - _LONGEST_CONTEXT) : found.start()]
            # A sentence that ended says nothing of the letters of the next one.
            before = re.split(r"(?<=[.!?])\s+(?=[A-Z(\[])", before + found[0][0])[-1][:-1]
            names = [_name(each) for each in self.letter.finditer(found[0])]
            rejected: set[str] = set()
            if _REJECTED_BEFORE.search(before):
                rejected.update(names)
            elif after := _REJECTED_AFTER.match(text, found.end()):
                all_of_them = re.search(r"\bare(?:n|\b)", after[0]) or after[0].lower().endswith(
                    "both"
                )
                rejected.update(names if all_of_them else names[-1:])
            stated = self.before.search(before) or self.after.match(text, found.end())
            yield _Mention(
                found.start(),
                found.end(),
                frozenset(names) - rejected,
                frozenset(rejected),
                bool(stated),
                bool(
                    re.search(r"[)\]]", found[0])
                    or re.match(r"[)\]]", text[found.end() :])
                    or _NAMED.search(before)
                ),
            )

    def without_list(self, text: str) -> str:
        """The text without the first list of options in it, each on a line or all on one."""
        lines = text.split("\n")
        kept, listed = [], list[str]()
        for line in lines:
            inline = [each.upper() for each in re.findall(rf"(?<!\w)\(?([{self.letters}])\)", line)]
            if len(set(inline)) > 2 and inline == sorted(inline) and not listed:
                listed += inline
                continue
            found = self.listed.match(line)
            if found and (not listed or found[1].upper() > listed[-1]):
                listed.append(found[1].upper())
                continue
            kept.append(line)
        return "\n".join(kept) if len(set(listed)) > 1 else text

    def begins(self, text: str, mention: _Mention) -> bool:
        return not _OPENING.sub("", text[: mention.start])

    def is_last_line(self, text: str, mention: _Mention) -> bool:
        line = text[text.rfind("\n", 0, mention.start) + 1 : mention.start]
        rest = text[mention.end :]
        if re.search(r"\w", re.sub(r"(?i)\b(?:option|choice|letter)\b", "", line)):
            return False
        return not re.search(r"\w", rest) or (
            "\n" not in rest.strip() and re.match(r"[).:]", rest) is not None
        )


def _letter(letters: str) -> str:
    """A pattern for one of the letters as a token of its own, in brackets or not."""
    words = "".join(letter for letter in letters if letter in "AI")
    others = "".join(letter for letter in letters if letter not in "AI")
    inner = r"[A-Za-zÀ-ɏЀ-ӿ0-9_'’]"
    alone = [rf"[(\[][{letters}][)\]]"]
    if others:
        # Not within a word, "B's", "X-ray" or "D.C."
        alone.append(rf"(?<!{inner})[{others}](?!{inner}|[-–.]\w)")
    if words:
        next_one = rf"[{others}]\b" if others else r"(?!)"
        joined = rf"{_JOINT}\(?(?:{next_one}|[{words}]\b(?!\s+\w))(?!['’])"
        alone.append(
            rf"(?<!{inner})[{words}](?=\s*(?:[)\]:;!?]|\.(?!\w)|\n|$)"
            rf"|\s+(?:is|because|since|isn['’]t|rather than|instead of|not)\b"
            rf"|\s+[-–—]\s|(?<=[Aa]),|{joined})"
        )
        alone += [rf"(?<={word} )[{words}]\b" for word in ("option", "choice", "letter")]
        alone.append(
            rf"(?<!{inner})A(?=\s+(?:seems|looks|appears|would be|must be|cannot|can['’]t)\b)"
        )
    return f"(?:{'|'.join(alone)})"


def _name(found: re.Match[str]) -> str:
    return re.sub(r"[^A-Z]", "", found[0].upper())
