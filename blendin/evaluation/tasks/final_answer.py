"""Where a worked answer says its final number: marks, equations, statements.

The final number of a text (`final_number`) is, from the first of these that gives one:

1. what follows the last "####": the first number, no word between;
2. what stands behind the last mark: "the answer is", "would be" and the like (in the same
   sentence), "answer:" or a heading "Final Answer", \\boxed{}, <answer>;
3. where no mark gives one, the last statement of the text that has a number.

Behind a mark, a number that comes at once, with no word between, is the answer; of a statement
("the answer is that she makes ..."), its last equation's result, else its first number. Behind
"answer:" may also stand the whole working: a list, or equations sentence after sentence. Then, as
without a mark, the last statement counts.

An equation comes to its right side, whatever joins its parts: signs, × or x, units ("9 eggs * $2 =
$18"), words ("9 times 2 equals 18", "150% of $80,000 = $120,000"). A range ends in its end: "####
10-12" in 12. Of the last statement what follows "so" or "which leaves" goes before the rest, its
last equation before its last number, and a reason ("because 200 - 174 = 26") counts only where
nothing else does. Numbers that count or name steps, and those of a list, are no results.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise

from .numerals import Numeral, numerals, plain
from .thoughts import own_answer

_LONGEST_GAP = 200
"""Characters between a mark and its number; what is longer has a word in it."""
_LONGEST_BOX = 2000

_HASHES = re.compile(r"#{4,}")
_DECORATION = r"[*_`\"'#]*"
_TOPIC = (
    r"(?:\s*\([^()\n]{0,40}\)|,? (?:then|therefore|thus|hence|here|so),?"
    r"|\s(?:to|for|of|in)\s(?!(?:[^.:\n]{0,30}\s)?(?:part|step|first|previous|next)\b)[^.:\n]{1,80}?)?"
)
_MARK = re.compile(
    rf"(?P<hashes>\A)(?!)|(?P<box>\\f?boxed\s*\{{)|(?P<tag><(?:final_)?answer>)"
    rf"|(?<!\bto )\b(?:answer|ans\b\.?){_DECORATION}{_TOPIC}\s*{_DECORATION}"
    rf"(?:(?P<open>(?:is|was|['’]s|(?:would|should|will|must|could|can|may|might|has to|ought to"
    rf"|turns out to|works out to) be|(?:comes|works|turns)(?: out)? to|equals|becomes)\b)"
    rf"(?!\s*{_DECORATION}[:=])"
    rf"|(?:(?:is|was|(?:would|should|will|must) be)\s*)?{_DECORATION}(?P<colon>[:=]|→|[-=]+>))"
    rf"|^[ \t>]*{_DECORATION}[ \t]*(?:the |my )?(?:final )?answer[ \t]*{_DECORATION}[ \t]*$"
    rf"|\bfinal answer{_DECORATION}[ \t]*-*[ \t]*(?=[$(]?-?[0-9])",
    re.IGNORECASE | re.MULTILINE,
)
_WORD = re.compile(r"(?<!\\)\b(?!USD\b|Rs\b)[A-Za-z]+")
_FILLER = re.compile(
    r"\b(?:about|approximately|roughly|around|exactly|simply|just|only|the number"
    r"|a total of|equal to"
    r"|therefore|thus|then|negative|minus)\b",
    re.IGNORECASE,
)
_ABBREVIATED = (
    r"(?<!\bRs\.)(?<!\bNo\.)(?<!\bvs\.)(?<!\bMr\.)(?<!\bMrs\.)(?<!\bDr\.)"
    r"(?<!\bapprox\.)(?<!\bi\.e\.)"
)
_SENTENCE_END = re.compile(rf"(?<=[.!?]){_ABBREVIATED}(?![ ]=)[\s*_)]+|\n+")
_EQUALS = re.compile(
    r":=|[-=]{0,4}[=≈≅≃≡→⇒⟶⟹]+>?|->|\b(?:equals?|is equal to|equal to|equalling|equaling)\b"
)
_OPERATOR = r"(?:[-+*/×÷^]|\b(?:times|plus|minus|divided by|multiplied by|of|added to)\b)"
_TERM = r"[$(]*(?<![0-9])[0-9](?:[0-9,.]{0,30}[0-9])?%?\)?(?:\s+[A-Za-z][A-Za-z/'-]*){0,3}?\)?"
_SAID_EQUALS = re.compile(
    rf"{_TERM}(?:\s*{_OPERATOR}\s*{_TERM}){{1,6}}\s*,?\s+"
    r"(?:(?:(?:which|that|this|and|it) )?(?:is|are|makes?|gives?|leaves?|comes? (?:out )?to|yields?"
    r"|results? in|totals?|equals?)\b(?: us| you| a total of)?|(?:or|that is|namely)\b|i\.e\.,?)",
    re.IGNORECASE,
)
# From the sign to its number: currency, brackets, and at most a few small words.
_TO_RESULT = re.compile(
    r"[^A-Za-z0-9\n=.]{0,20}(?:(?:in|only|about|just|a total of|exactly|USD|Rs\.?)\s+){0,3}"
                        r"[^A-Za-z0-9\n=.]{0,20}(?=[0-9]|\.[0-9])")  # fmt: skip
_RANGE = re.compile(r"[%$]?-\$?(?=[0-9])")
_FURTHER = re.compile(r"\s*[-+*/×÷^]\s*[$(]*[0-9]")
_CLAUSE_END = re.compile(
    r"[,;:](?=\s)|(?<=[\w.%)])\s+\((?![^()0-9]*\)\s*=)|\s-+\s(?![$(]?[0-9])|—|\b(?:because|since)\b",
    re.I,
)
_REASON = re.compile(r"\b(?:because|since)\b", re.IGNORECASE)
_CONCLUSION = re.compile(
    r",?\s\bso(?: that)?\b|[,;]\s+(?:and\s+)?(?:therefore|thus|hence|giving|leaving|making|meaning"
    r"|which (?:means|leaves|gives|makes|is)|then)\b|—",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"\b(?:steps?|part|method|approach|option|question|problem|equation|example|case|figure|confidence)"
    r"\s*[:#]?\s*\(?$",
    re.IGNORECASE,
)
_LISTED = re.compile(r"(?:^|\n)[\s#*_>-]*$")
_COUNTS_STEPS = re.compile(r"\s+(?:\w+ )?steps?\b", re.IGNORECASE)
_STEPS_COUNTED = re.compile(
    r"\b(?:took|in|after|within|with|using)\s+(?:me |us |only |just )*$", re.I
)
_SPAN_OF_TIME = re.compile(
    r"\s+(?:more |full )?(?:seconds?|minutes?|hours?|days?|weeks?|months?|years?)\b", re.IGNORECASE
)
_LASTING = re.compile(
    r"\b(?:in|after|over|within|for|during|every|each|per)\s+(?:the )?(?:last |next |first )?$",
    re.I,
)
_FOR_A_PURPOSE = re.compile(
    r"(?<!need)(?<!needs)(?<!have)(?<!has)(?<!had)(?<!going)(?<!able)(?<!wants)(?<!want)(?<!ought)"
    r"\s+to\s+(?!be\b)[a-z]+\s+(?:all |the )?$"
)


def final_number(text: str, finished: bool = True) -> Fraction | None:
    """The number that a text ends in, by the rules above; None where it has none.

    Args:
        text: a whole completion; thoughts in it and questions that the model asks itself are
            left out first (`thoughts.own_answer`).
        finished: False where the text was cut off at a limit: then only a mark gives a number,
            as the last number of half a working is no answer.
    """
    own = own_answer(text)
    return None if own is None else _Reading(plain(_joined(own))).final(finished)


def _joined(text: str) -> str:
    """GSM8K's calculator annotations, such as <<9*2=18>>, are before what they come to."""
    text = re.sub(r"<<[^<>\n]*>>(?=\s*[-$.]*[0-9])", "", text)
    # A line that begins with "=" goes on with the equation above it.
    lines: list[str] = []
    for line in text.split("\n"):
        if lines and line.lstrip(" \t&\\").startswith("="):
            lines[-1] += " " + line.lstrip(" \t&\\")
        else:
            lines.append(line)
    return "\n".join(lines)


class _Reading:
    """A text in plain signs, with its numbers."""

    def __init__(self, text: str) -> None:
        self.text, self.numbers = text, numerals(text)

    def final(self, finished: bool) -> Fraction | None:
        if not self.numbers or self._ends_in_half_a_box():
            return None
        for candidates in (self._after_hashes(), self._after_marks()):
            for found in candidates:
                return found.value
        if not finished:
            return None
        return (self._last_statement(0, len(self.text)) or self.numbers[-1]).value

    def _ends_in_half_a_box(self) -> bool:
        boxes = [mark for mark in _MARK.finditer(self.text) if mark["box"]]
        return bool(boxes) and self._closing_brace(boxes[-1].end()) is None

    def _within(self, start: int, end: int) -> list[Numeral]:
        at = bisect_left(self.numbers, start, key=lambda number: number.start)
        to = bisect_left(self.numbers, end, key=lambda number: number.start)
        return [each for each in self.numbers[at:to] if each.end <= end]

    def _first(self, start: int, end: int) -> Numeral | None:
        at = bisect_left(self.numbers, start, key=lambda number: number.start)
        is_there = at < len(self.numbers) and self.numbers[at].end <= end
        return self.numbers[at] if is_there else None

    def _after_hashes(self) -> Iterator[Numeral]:
        """Numbers after "####", the last mark's first; a Markdown heading's number is none."""
        for mark in reversed(list(_HASHES.finditer(self.text))):
            found = self._first(mark.end(), len(self.text))
            if (
                found
                and not self._has_word(mark.end(), found.start)
                and not re.match(r"[.)] +[A-Za-z]", self.text[found.end :])
            ):
                yield self._direct(found, self._sentence_end(found.end, len(self.text)))

    def _after_marks(self) -> Iterator[Numeral]:
        for mark in reversed(list(_MARK.finditer(self.text))):
            start, end = mark.end(), len(self.text)
            if mark["box"]:
                found = self._boxed(start)
            elif mark["open"]:
                # What is said may begin on the next line.
                begin = re.compile(r"[\s*_]*").match(self.text, start)
                end = self._sentence_end(begin.end() if begin else start, end)
                found = self._statement(start, end)
            else:
                if mark["tag"] and (close := self.text.find("</", start)) >= 0:
                    end = close
                found = self._body(start, end)
            if found:
                yield found

    def _boxed(self, start: int) -> Numeral | None:
        end = self._closing_brace(start)
        found = None if end is None else self._first(start, end)
        return self._direct(found, end) if found and end else None

    def _closing_brace(self, start: int) -> int | None:
        """Where the brace that was opened before `start` closes, or its line ends; else None."""
        depth = 1
        for place in range(start, min(len(self.text), start + _LONGEST_BOX)):
            depth += {"{": 1, "}": -1}.get(self.text[place], 0)
            if not depth:
                return place
        line = self.text.find("\n", start)
        return line if line >= 0 and self.text[line:].strip() else None

    def _has_word(self, start: int, end: int) -> bool:
        return (
            end - start > _LONGEST_GAP
            or _WORD.search(_FILLER.sub("", self.text[start:end])) is not None
        )

    def _sentence_end(self, start: int, end: int) -> int:
        found = _SENTENCE_END.search(self.text, start, end)
        return found.start() if found else end

    def _statement(self, start: int, end: int) -> Numeral | None:
        """What one sentence behind a mark says."""
        found = self._first(start, end)
        if found is None:
            return None
        if not self._has_word(start, found.start):
            return self._direct(found, end)
        return self._conclusion(start, end, first=True)

    def _direct(self, found: Numeral, end: int) -> Numeral:
        """The answer that begins with a number: it, or what its own equation comes to."""
        said = _SAID_EQUALS.match(self.text, found.start, end)
        clause = _CLAUSE_END.search(self.text, max(found.end, said.end() if said else 0), end)
        stop = clause.start() if clause else end
        # The clause's own sign of equality may be reached through its other words.
        results = [each for at, each in self._results(found.start, stop) if at >= found.end]
        return results[-1] if results else self._end_of_expression(found, end)

    def _body(self, start: int, end: int) -> Numeral | None:
        """What "answer:" or a heading announces: the answer at once, or the whole working."""
        found = self._first(start, end)
        if found is None:
            return None
        if self._has_word(start, found.start):
            return self._last_statement(start, end)
        stop = self._sentence_end(found.end, end)
        is_list = re.match(r"[.)]\s+\S", self.text[found.end : found.end + 9]) and self._is_label(
            found
        )
        if is_list or (self._says_more(found, stop) and self._results(stop, end)):
            return self._last_statement(start, end)
        return self._direct(found, stop)

    def _says_more(self, found: Numeral, stop: int) -> bool:
        """Whether a sentence that begins with a number is a step of a working, not an answer."""
        return (
            bool(self._results(found.start, stop))
            or len(_WORD.findall(self.text[found.end : stop])) > 3
        )

    def _last_statement(self, start: int, end: int) -> Numeral | None:
        """The result of the last sentence that has one."""
        cuts = [start, *(cut.end() for cut in _SENTENCE_END.finditer(self.text, start, end)), end]
        for begin, stop in reversed(list(pairwise(cuts))):
            if any(not self._is_label(each) for each in self._within(begin, stop)):
                return self._conclusion(begin, stop)
        return None

    def _conclusion(self, start: int, end: int, first: bool = False) -> Numeral | None:
        """Of one sentence the clause that concludes, and in it the result."""
        for reason in _REASON.finditer(self.text, start, end):
            if self._candidates(start, reason.start()):
                end = reason.start()
                break
        for so in reversed(list(_CONCLUSION.finditer(self.text, start, end))):
            if self._candidates(so.end(), end):
                start = so.end()
                break
        if results := self._results(start, end):
            return results[-1][1]
        candidates = self._candidates(start, end) or self._within(start, end)
        if not candidates:
            return None
        chosen = candidates[0] if first else candidates[-1]
        return self._end_of_expression(chosen, end)

    def _candidates(self, start: int, end: int) -> list[Numeral]:
        """Numbers that may be a result, without those of time spans and purposes if others are."""
        found = [each for each in self._within(start, end) if not self._is_label(each)]
        return [each for each in found if not self._is_aside(each, start)] or found

    def _is_label(self, number: Numeral) -> bool:
        before = self.text[max(0, number.start - 40) : number.start]
        after = self.text[number.end : number.end + 40]
        if _LISTED.search(before) and re.match(r"[.)][*_]*\s+\S", after):
            return True
        counts = _COUNTS_STEPS.match(after) and _STEPS_COUNTED.search(before)
        return bool(counts) or _LABEL.search(before) is not None

    def _is_aside(self, number: Numeral, start: int) -> bool:
        before = self.text[max(start, number.start - 40) : number.start]
        lasting = _SPAN_OF_TIME.match(self.text, number.end) and _LASTING.search(before)
        in_brackets = re.search(r"\w%?[ ]\([^()]*$", before)
        return bool(lasting or in_brackets) or _FOR_A_PURPOSE.search(before) is not None

    def _results(self, start: int, end: int) -> list[tuple[int, Numeral]]:
        """The equations' results, each with the place of its sign or words, in the text's order."""
        signs = [
            *_EQUALS.finditer(self.text, start, end),
            *_SAID_EQUALS.finditer(self.text, start, end),
        ]
        found = []
        for sign in sorted(signs, key=lambda each: each.end()):
            gap = _TO_RESULT.match(self.text, sign.end(), end)
            right = gap and self._first(gap.end(), end)
            if (
                not gap
                or not right
                or right.start != gap.end()
                or _FURTHER.match(self.text, right.end, end)
            ):
                continue
            if self._first(start, sign.end()):
                found.append((sign.end(), right))
        return found

    def _end_of_expression(self, found: Numeral, end: int) -> Numeral:
        """The number that an equation or a range beginning at a number comes to, else that one."""
        results = [each for at, each in self._results(found.start, end) if at >= found.end]
        between = self.text[found.end : results[0].start] if results else ""
        if (
            results
            and not _WORD.search(_FILLER.sub("", between))
            and not re.match(r"\s*\(", between)
        ):
            return results[-1]
        if (joint := _RANGE.match(self.text, found.end, end)) and (
            right := self._first(joint.end(), end)
        ):
            return right
        return found


__all__: Sequence[str] = ("final_number",)
