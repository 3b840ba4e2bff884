"""Text that does harm where it is obeyed, and what tells it."""

from __future__ import annotations

import unicodedata

BIDIRECTIONAL = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
MARKS = ("\N{ARABIC LETTER MARK}", "\N{LEFT-TO-RIGHT MARK}", "\N{RIGHT-TO-LEFT MARK}")
DEPRECATED = tuple(map(chr, range(0x206A, 0x2070)))


def dangerous(character: str) -> bool:
    """Whether a terminal, a browser or a file may do otherwise than show it."""
    return (
        (unicodedata.category(character) == "Cc" and character not in "\n\t")
        or unicodedata.category(character) in ("Zl", "Zp", "Cs")
        or unicodedata.bidirectional(character) in BIDIRECTIONAL
        or character in MARKS + DEPRECATED
    )


CONTROLS = [
    *(chr(code) for code in range(0x20) if chr(code) not in "\n\t"),
    *map(chr, range(0x7F, 0xA0)),
    *MARKS,
    *map(chr, range(0x2028, 0x202F)),
    *map(chr, range(0x2066, 0x206A)),
    *DEPRECATED,
    *map(chr, range(0xD800, 0xE000)),
]

SEQUENCES = {
    "title": "\x1b]0;owned\x07",
    "clear": "\x1b[2J\x1b[H",
    "C1": "\x9b2J\x9d0;owned\x9c",
    "link": "\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\",
    "clipboard": "\x1b]52;c;cm0gLXJm\x07",
    "overwrite": "rm -rf /\rls -l   ",
    "backspace": "rm\x08\x08ls",
    "NUL": "a\0b",
    "separators": "a\u2028b\u2029c\x85d",
    "override": "safe\u202egpj.exe\u202c",
    "isolate": "\u2067abc\u2069",
    "device": "\x1b[c\x05\x1b[6n",
}
MARKUP = ["gsm8k[/x]", "a[/b]", "[cot]", "[bold]", "[/]", "[link=http://evil]x[/link]", ":warning:"]
MARKUP += ["\\[cot]", "[", "[[]]"]

HOSTILE = "".join(SEQUENCES.values()) + "".join(MARKUP)

SCRIPT = (
    "</pre></title></style><script>document.title='owned'</script>"
    "<img src=x onerror=\"document.title='owned'\"><svg onload=\"document.title='owned'\">"
    "\" onmouseover=\"document.title='owned'\" x=\"' onfocus='alert(1)' autofocus "
    "<iframe srcdoc=\"<script>parent.document.title='owned'</script>\"></iframe>"
    "{{ 7*7 }}{% raw %}]]><!--"
)
