"""What of a completion is the answer: no thoughts before it, no further question behind it."""

from __future__ import annotations

import re

_NAMES = (
    r"(?:[A-Za-z]{2,10}:)?(?:ant)?(?:think|thinking|thoughts?|reason|reasoning|scratchpad|reflection"
    r"|analysis|internal_?monologue)"
)
_OPEN = (
    rf"<{_NAMES}(?:\s[^<>\n]*)?>|\[(?:THINK|THINKING|THOUGHTS?|REASONING)\]|◁think▷"
    r"|<\|(?:begin_of_thought|START_THINKING|begin_of_thinking|think|thinking)\|>"
    r"|(?:<\|start\|>assistant)?<\|channel\|>(?:analysis|commentary)\b[^<\n]*(?:<\|message\|>)?"
    r"|<\|channel>thought\b|<unused94>(?:thought\b)?"
)
_CLOSE = (
    rf"</{_NAMES}\s*>|\[/(?:THINK|THINKING|THOUGHTS?|REASONING)\]|◁/think▷"
    r"|<\|(?:end_of_thought|END_THINKING|end_of_thinking|/think|/thinking)\|>"
    r"|(?:<\|end\|>)?(?:<\|start\|>assistant)?<\|channel\|>final\b[^<\n]*(?:<\|message\|>)?"
    r"|<channel\|>|<unused95>"
)
_TAGS = re.compile(rf"(?P<open>{_OPEN})|(?P<close>{_CLOSE})", re.IGNORECASE)
# gpt-oss with its special tokens left out.
_CHANNELS_AS_WORDS = re.compile(r"\A\s*analysis(?=[A-Z\s])(?P<rest>.*)\Z", re.DOTALL)
_FINAL_AS_WORDS = re.compile(r"assistant\s?final")
_TOKENS = re.compile(
    r"<\|(?:begin_of_solution|end_of_solution|START_RESPONSE|END_RESPONSE|return|message)\|>"
)
_END_OF_TURN = re.compile(
    r"<\|(?:im_end|im_start|endoftext|end_of_text|eot_id|end|user|start_header_id|eom_id)\|>|</s>"
    r"|<end_of_turn>|\[INST\]|<\|start\|>user"
)
_HEADING = r"^[ \t#>*_\[]*(?:[0-9]{1,3}[.)][ \t]+)?"
_QUESTION = re.compile(
    rf"{_HEADING}(?:(?:new |next |another |follow-up )?"
    r"(?:question|problem|exercise|example|task|puzzle)"
    r"[ \t]*(?P<number>#?[0-9]{1,4}|[IVX]+)?[ \t]*[*_]*[:.)\]](?=\W|$)[*_]*"
    r"|(?:question|problem|exercise|example|task)[ \t]+#?(?P<named>[0-9]{1,4})[ \t]*[*_]*[ \t]*$"
    r"|(?<=#[ \t])(?:question|problem|exercise|instruction|input)[ \t]*:?[ \t]*$"
    r"|(?:Q|Human|User|Instruction|Student|Input)[ \t]?(?P<short>[0-9]{0,4})[*_]*"
    r"(?::|(?<=[0-9])[.)]))"
    r"|^[^\n]{0,40}\b(?:another|next|new) (?:question|problem|exercise|example|puzzle)\b"
    r"[^\n.:]{0,30}:"
    r"|(?<=[.!?] )(?:Q|Question)[ \t]?[0-9]{0,4}:",
    re.IGNORECASE | re.MULTILINE,
)


def without_thoughts(text: str) -> str | None:
    """A completion without what the model thought before it answered.

    The spellings of most reasoning models are known: <think>, <thinking>, <reasoning>, [THINK],
    <|channel|>analysis and others, in any case. What is before a closing tag that was opened by the
    prompt is a thought, too.

    Returns:
        The answer, which may be empty; None where a thought is not closed, for then there is no
        answer yet. A text without thoughts is returned as it is.
    """
    if words := _CHANNELS_AS_WORDS.match(text):
        finals = list(_FINAL_AS_WORDS.finditer(text))
        if finals:
            return text[finals[-1].end() :].strip()
        if "assistantcommentary" in words["rest"]:
            return None
    kept, depth, place = "", 0, 0
    for tag in _TAGS.finditer(text):
        if not depth:
            kept += text[place : tag.start()]
        if tag["open"]:
            # A channel ends where the next one begins.
            depth = 1 if "channel" in tag[0] else depth + 1
        elif depth:
            depth = 0 if "channel" in tag[0] else depth - 1
        else:
            kept = ""
        place = tag.end()
    if depth:
        return None
    return _TOKENS.sub("", kept + text[place:]).strip() if place else text


def spoken(text: str) -> str:
    """As `without_thoughts`, but empty where a thought is not closed: nothing was answered."""
    return without_thoughts(text) or ""


def is_unfinished(text: str) -> bool:
    """Whether a completion ends within a thought."""
    return without_thoughts(text) is None


def own_answer(text: str) -> str | None:
    """The answer to the question that was asked: without thoughts, up to the next question.

    Base models go on and ask themselves another question ("Q:", "Problem 2:"), which ends the
    answer wherever something was answered before it. Where a model divides its task into numbered
    questions from the start, they are its working.

    Returns:
        None where a thought is not closed.
    """
    text_or_none = without_thoughts(text)
    if text_or_none is None:
        return None
    text = text_or_none
    begin = len(text) - len(text.lstrip())
    if turn := _END_OF_TURN.search(text, begin + 1):
        text = text[: turn.start()]
    headings = list(_QUESTION.finditer(text))
    divides = bool(headings) and headings[0].start() <= begin and _is_numbered(headings[0])
    for heading in headings:
        if _has_content(text[: heading.start()]) and not (divides and _is_numbered(heading)):
            return text[: heading.start()].rstrip()
    return text


def _is_numbered(heading: re.Match[str]) -> bool:
    return any(heading[name] for name in ("number", "named", "short"))


def _has_content(text: str) -> bool:
    """Whether something was answered: a number, or a letter of an option."""
    return re.search(r"\d|\b[B-HJ-Z]\b|\A\W*[AI]\W*\Z", text) is not None
