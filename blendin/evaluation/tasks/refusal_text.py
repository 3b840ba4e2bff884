"""A completion as its speaker's sentences: signs made plain, quotations and ordered texts apart."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from .refusal_cues import ASKS_TEXT, pattern

_APOSTROPHES = str.maketrans(dict.fromkeys("‘’‛‚ʼʻʽʾʿʹˈˊˋ´′‵＇ꞌ՚՝׳᾽᾿", "'"))
_QUOTES = str.maketrans(dict.fromkeys("“”„‟«»″＂", '"'))
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufe00-\ufe0f\ufeff]")
_CONTRACTED = re.compile(
    r"\b(ca|do|wo|does|did|is|are|was|were|could|would|should|have|has)nt\b|\bi(?=m\b)"
)
_QUOTED = (
    re.compile(r'"[^"\n]* [^"\n]*"'),
    re.compile(r"(?<!\w)'(?=\w)[^'\n]*(?:'\w[^'\n]*){0,9}(?<=\w)[.,!?]?'(?!\w)"),
    re.compile(r"`[^`\n]* [^`\n]*`"),
)
_FENCED = re.compile(r"```.*?```", re.DOTALL)
_LIST_MARK = re.compile(r"^\s*(?:\d+[.)]|[-*•])\s+", re.MULTILINE)
# A line break inside a sentence, as in text wrapped by hand.
_WRAPPED = re.compile(r"(?<=[a-z,])[ \t]*\n[ \t]*(?=[a-z])")
_OWN_LABEL = re.compile(
    r"\W*(?:(?:final|short|my|model)_)?(?:answer|response|reply|assistant|ai|bot|chatbot|output|a)"
    r"\W{0,4}[:：]\W*".replace("_", " ")
)
_HEADING = re.compile(r"\s*(?:#+[^\n]*|(\*\*|__)[^\n.!?]{1,40}\1:?\s*)\n+(?=.*\w)", re.DOTALL)
_OWN_VOICES = frozenset(
    "answer response reply assistant ai bot output a q question user human system note disclaimer "
    "warning edit update ps".split()
)
_SPEAKER = re.compile(r"^\W{0,4}([A-Za-z][\w.' -]{0,29}?)\W{0,4}[:：]\s+\S", re.MULTILINE)
_LEAD = pattern(
    r"""\b(?:here(?:'s|_is|_are)|below_is|you_(?:could|can|might)_(?:say|write|reply|send)|
    something_like|try_saying|for_example|sure|certainly|of_course)\b[^:]{0,80}:$|
    ^[\w.'_]{1,40}_(?:says?|said|replies|replied|answers?|responds?)_?:|
    ^(?:say|reply|write|try|example|for_example|e\.g\.|sample|template|script|subject|title|dear|
    translation)\b[^:]{0,20}:"""
)
_NARRATED = pattern(
    r"""\b(?:said|replied|whispered|answered|muttered|shouted|sighed|cried|says|replies)_(?:the|a|
    an|his|her|to_(?:him|her|them))_\w+|\b(?:he|she|they|it)_(?:said|says|replied|replies|
    whispered|answered|muttered|shouted|sighed)\b"""
)
_SALUTATION = re.compile(
    r"^\W*(?:dear|hi|hello|hey|to|subject)\b[^\n]{0,60}[,:]?[^\n]{0,40}\n", re.I
)
_SIGNED = re.compile(
    r"\n\W*(?:(?:yours|best|kind|warm|warmest|with|many|all|sincerely|regards|love|cheers|thanks|"
    r"thank you|respectfully|take care|see you)\b[^\n]{0,40}[,\n]|\[your name)",
    re.I,
)
_SUBJECT = re.compile(r"^\W*subject\W{0,4}:", re.I)


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of a completion, in lower case.

    Attributes:
        text: with straight quotes and without marks around it.
        place: how many sentences that are more than a courtesy come before it.
        is_own: the speaker's own words, not those of a letter, a dialogue or an example.
    """

    text: str
    place: int
    is_own: bool


def plain(text: str) -> str:
    """Lower case, one kind of each sign, contractions with their apostrophe, single spaces."""
    text = text.translate(_APOSTROPHES).translate(_QUOTES)
    text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    text = _WRAPPED.sub(" ", text).lower()
    text = re.sub(r"(?<=[a-z])`(?=(?:t|s|m|d|re|ve|ll)\b)", "'", text)
    text = re.sub(r"(?<=n) ?' ?(?=t\b)", "'", text)
    text = _CONTRACTED.sub(lambda found: f"{found[1]}n't" if found[1] else "i'", text)
    return re.sub(r"[^\S\n]+", " ", text).strip()


def unquoted(text: str) -> str:
    """The text without phrases in quotation marks, code and quoted lines, which are mentions.

    What is quoted as a whole is said.
    """
    lines = text.split("\n")
    own = [line for line in lines if not line.lstrip().startswith(">")]
    text = "\n".join(own) if re.search(r"\w", "".join(own)) else text
    text = unlabelled(text)
    for mention in (_FENCED, *_QUOTED):
        kept = mention.sub(" ", text)
        if re.search(r"\w", kept):
            text = kept
    return re.sub(r'["`]', "", text).strip()


def unlabelled(text: str) -> str:
    """The text without a heading or "Answer:" at its head."""
    if heading := _HEADING.match(text):
        text = text[heading.end() :]
    label = _OWN_LABEL.match(text)
    return text[label.end() :] if label and re.search(r"\w", text[label.end() :]) else text


def split(text: str) -> list[str]:
    """Sentences and lines, without the marks of lists, emphasis and pictures."""
    text = re.sub(r"(?<!\*)\*\w+s [^*\n]{1,40}\*(?!\*)", "", text)  # *shakes head*
    unlisted = re.sub(r"\*|~~|(?<![^\W_])_+|_+(?![^\W_])|</?\w{1,8}>", "", _LIST_MARK.sub("", text))
    unlisted = re.sub(r"\bno\. (?=\d)", "no.", unlisted)  # a number
    parts = (part.strip() for part in re.split(r"(?<=[.!?;])\s+|\n+", unlisted))
    bare = (re.sub(r"^[^\w'(\[]+|(?<=[\w.!?,;:)])[^\w.!?,;:)'\]]+$", "", part) for part in parts)
    return [part for part in bare if re.search(r"\w", part)]


def written_to_order(prompt: str, completion: str) -> bool:
    """Whether the prompt, as `plain` makes it, asks for a text and the completion has its form.

    A letter has a subject, or a salutation and a signature; verse has short lines; a translation
    is as long as its source.
    """
    if (asked := ASKS_TEXT.search(prompt)) is None:
        return False
    if _SUBJECT.match(completion) or (_SALUTATION.match(completion) and _SIGNED.search(completion)):
        return True
    words = len(completion.split())
    source = len(prompt[asked.end() :].partition(":")[2].split())
    if asked["copies"] and source and 0.5 <= words / source <= 2:
        return True
    if _LIST_MARK.search(completion):
        return False
    lines = [line.strip() for line in completion.splitlines() if line.strip()]
    run_on = sum(not line.endswith((".", "!", "?", ":")) for line in lines)
    return len(lines) >= 3 and 2 * run_on >= len(lines) and words <= 14 * len(lines)


def quoted_from(sentences: list[str]) -> int:
    """Where the speaker's own words end: at the lead to an example, a letter or a story."""
    for number, sentence in enumerate(sentences):
        if _LEAD.search(sentence):
            return number
    return len(sentences)


def is_dialogue(completion: str) -> bool:
    """Whether at least two lines name their speakers, other than the two of a chat."""
    named = [name.lower().strip() for name in _SPEAKER.findall(completion)]
    speakers = [name for name in named if name not in _OWN_VOICES and len(name.split()) <= 3]
    return len(speakers) >= 2 and len(speakers) > len(set(speakers))


def is_narrated(sentence: str) -> bool:
    """Whether it says who spoke, as a story does."""
    return _NARRATED.search(sentence) is not None


_ENGLISH = frozenset(
    "the of and to is that it you for not with this are can be i your have will from or by if but "
    "what how do does i'm can't my there which they about would should could".split()
)
# Words of the commonest other languages in Latin letters that are no English words.
_OTHER = (
    frozenset(
        "el los las que de del en para por con una es su lo como pero puedo "  # Spanish
        "le les des et est une du pas je ne vous nous pour dans sur avec qui mais peux "  # French
        "der das und ist nicht ich sie ein eine zu mit auf dem den auch kann wie aber "  # German
        "il che di non per una sono della con questo posso mi "  # Italian
        "os um uma não em ao você posso isso com "  # Portuguese
        "het een niet ik van dat deze maar kan "  # Dutch
        "nie jest się nad że mogę "  # Polish
        "och att det inte jag som ett "  # Swedish
        "bir ve bu için değil yang dan tidak saya untuk dengan ini và không là của tôi".split()
    )
    - _ENGLISH
)


def is_english(text: str) -> bool:
    """Whether a text may be English: False where its script or its small words say otherwise.

    A few Latin words without small ones, and code, tell nothing and count as English.
    """
    letters = [letter for letter in text if letter.isalpha()]
    latin = sum("LATIN" in unicodedata.name(letter, "") for letter in letters)
    if 2 * latin < len(letters):
        return False
    words = re.findall(r"[^\W\d_]+(?:'\w+)?", text.translate(_APOSTROPHES).lower())
    english, other = (sum(word in known for word in words) for known in (_ENGLISH, _OTHER))
    return other < 2 or other <= english
