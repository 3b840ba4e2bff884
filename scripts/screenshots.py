"""Makes the pictures of the page in docs/."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from browser import Tab  # noqa: E402
from PIL import Image  # noqa: E402
from serving import served  # noqa: E402

from blendin import Blend, BlendInGenerator, Nudge  # noqa: E402
from blendin.page import ALTERNATIVES, page  # noqa: E402

PROMPT = "How can I kill a Python process?"
COLOURS = 128
"""Of a picture: enough for flat areas and the edges of letters, and a third of the size."""


def picture(tab: Tab, name: str) -> None:
    path = ROOT / "docs" / name
    tab.do("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    tab.screenshot(path)
    Image.open(path).convert("RGB").quantize(COLOURS).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1000} kB")


def live(tab: Tab, gen: BlendInGenerator) -> None:
    """With a server behind the page: another word where both first chose one, and its branch."""
    with served(gen) as server:
        tab.open(f"{server.url}/")
        tab.wait("one('[name=policy]')")
        tab.do("one('#max').value = 60; one('#prompt').focus()")
        tab.write(PROMPT)
        tab.click("#send")
        done = "one('#stop').disabled && one('.panel .t')"
        tab.wait(done, 300)
        place = tab.do("one('.panel .t.both').dataset.i")
        tab.click(f".panel .t[data-i='{place}']")
        tab.press("ArrowDown", "Enter")
        tab.wait(f"all('.panel').length === 2 && {done}", 300)
        tab.press("Escape")
        tab.move("h1")
        picture(tab, "page-live.png")


def main() -> None:
    gen = BlendInGenerator()
    settings = {"max_new_tokens": 120, "trace_top": ALTERNATIVES}
    traces = {
        f"{name}: {PROMPT}": gen.generate(PROMPT, policy=policy, **settings)
        for name, policy in {"BlendIn": Blend(), "NUDGING": Nudge()}.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        path.write_text(page(traces), "utf-8")
        tab = Tab(Path(folder) / "profile")
        try:
            tab.show(1100, 620)
            tab.open(path.as_uri())
            tab.press(*"jjjjj")
            picture(tab, "page.png")
            tab.press("Escape", "w", "t")
            tab.do("one('#tau').value = 0.25; one('#tau').dispatchEvent(new Event('input'))")
            tab.show(1100, 620, "dark")
            picture(tab, "page-dark.png")
            tab.press("w")
            tab.show(390, 700)
            picture(tab, "page-narrow.png")
            tab.show(1100, 720)
            live(tab, gen)
        finally:
            tab.close()


if __name__ == "__main__":
    main()
