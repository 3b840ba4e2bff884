"""The page in a real browser: what is shown, and what mouse, keys, files and servers do to it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import pytest
from browser import Tab
from hostile import CONTROLS, SCRIPT, SEQUENCES
from page_server import DONE, Answer, StandIn, event, said
from serving import until
from traces import CANDIDATES, SAMPLE, candidate, step, trace

from blendin import Generation
from blendin.candidates import StepCandidates
from blendin.page import page, read_traces
from blendin.visible import visible

pytestmark = [browser.needs_browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    tab = Tab(tmp_path_factory.mktemp("profile"))
    yield tab
    tab.close()


@pytest.fixture
def tab(window: Tab) -> Iterator[Tab]:
    """The browser's tab; what the page complained of by the end of the test is a fault."""
    window.show(1200, 800)
    window.open("about:blank")  # the page of the test before complains no more
    window.problems.clear()
    yield window
    assert window.problems == []


def open_page(tab: Tab, path: Path, **traces: Generation) -> None:
    path.write_text(page(traces), "utf-8")
    tab.open(path.as_uri())
    tab.do(FRAME)


FRAME = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
TEXTS = "all('.text .t').map(each => each.textContent)"
FOCUS = "Number(document.activeElement.dataset.i ?? -1)"
TIP = "one('#tip').innerText"


def marked(tab: Tab, name: str, panel: int = 0) -> list[int]:
    """The tokens of a panel that have a class."""
    found = f"all('.panel:nth-child({panel + 1}) .t.{name}')"
    return tab.do(f"{found}.map(each => Number(each.dataset.i))")


# -- what is shown ---------------------------------------------------------------------------------


def test_tokens_show_who_chose_them_and_how_strongly(tab: Tab, tmp_path: Path) -> None:
    open_page(tab, tmp_path / "page.html", one=SAMPLE)
    steps = SAMPLE.steps
    for name in ("both", "guide"):
        assert marked(tab, name) == [
            i for i, each in enumerate(steps) if each.intervened and each.source == name
        ]
    alphas = "all('.text .t').map(e => +e.style.getPropertyValue('--alpha'))"
    assert tab.do(alphas) == [1 if each.alpha is None else each.alpha for each in steps]
    figures = tab.do("one('.head .note').textContent")
    assert figures == (
        "Blend τ 0.4 · 7 tokens · 3 interventions (43 %) · mean α 0.80 · stopped by length"
    )
    copied = tab.do("""
      getSelection().selectAllChildren(one('.text'));
      const event = new ClipboardEvent('copy', {clipboardData: new DataTransfer(), bubbles: true});
      document.dispatchEvent(event);
      getSelection().removeAllRanges();
      event.clipboardData.getData('text/plain')""")
    assert copied == SAMPLE.text
    tab.press("w")
    shown = "".join(tab.do(TEXTS)).replace("\u200b", "")
    assert shown == "One␣two␣three↵\n⟨3⟩four␣five⟨END⟩"
    tab.press("w")
    strip = tab.do("['p_b', 'p_g', 'alpha', 'tau'].map(n => one('path.' + n).getAttribute('d'))")
    assert strip[0].startswith("M0.5 0.100L1.5 0.700") and strip[1] == "M1.5 0.250h0M4.5 0.200h0"
    assert strip[2:] == ["M1.5 1V0.500M4.5 1V0.000M6.5 1V0.100", "M0 0.6H7"]


def test_hover_shows_the_numbers_and_three_bars_for_each_alternative(
    tab: Tab, tmp_path: Path
) -> None:
    open_page(tab, tmp_path / "page.html", one=SAMPLE)
    tab.move(".t[data-i='1']")
    tab.wait("!one('#tip').hidden")
    told = tab.do(TIP).split("\n")
    for text in ("␣two", "token 2 of 7: blended from both", "0.300", "0.750", "0.250, rank 2"):
        assert text in told, text
    rows = tab.do(
        "(cells => Array.from({length: cells.length / 4}, (_, i) => cells.slice(4 * i, 4 * i + 4)))"
        "([...one('.options').children].map(each => each.textContent))"
    )
    assert rows == [
        ["", "base", "guide", "emitted"],
        ["␣two", "0.250", "0.750", "0.500"],
        ["␣one", "0.300", "< 0.125", "0.150"],
        ["␣three", "< 0.250", "0.125", "< 0.150"],
    ]
    widths = tab.do(
        "all('.measure').slice(0, 3).map(each => "
        "each.firstElementChild.offsetWidth / each.offsetWidth)"
    )
    assert widths == pytest.approx([0.25, 0.75, 0.5], abs=0.02)
    tab.move("h1")
    tab.wait("one('#tip').hidden")
    tab.move(".t[data-i='0']")
    assert "base alone, confident" in tab.do(TIP) and not tab.do("one('.options')")


def test_what_models_write_is_text_wherever_it_is_shown(tab: Tab, tmp_path: Path) -> None:
    texts = [
        *SEQUENCES.values(), SCRIPT, "</script><script>document.title='owned'</script>", "<!--",
        "\u2028", "\ud800", "a\udc00", "".join(CONTROLS[:60]), "&lt;b&gt;",
    ]  # fmt: skip
    likely = tuple(candidate(each, 0.01) for each in texts)
    steps = [
        step(each, source="guide", alpha=0.5, base_top_prob=0.1,
             candidates=StepCandidates(candidate(each, 0.5), base=likely, emitted=likely))
        for each in texts
    ]  # fmt: skip
    hostile = trace(*steps, name=SCRIPT, error=SCRIPT, settings={"base_prompt": SCRIPT})
    hostile.save(saved := tmp_path / "<img src=x onerror=alert(1)>.json")
    open_page(tab, tmp_path / "page.html", **{SCRIPT: hostile})
    own = tab.do("all('script, style, img, svg, iframe').length")
    assert own == 4  # the page's, and a strip
    tab.drop(saved)
    tab.wait("all('.panel').length === 2")
    for i in range(len(texts)):
        tab.move(f".t[data-i='{i}']")
    tab.click(".t[data-i='3']")
    tab.press("Escape", "w", "w")
    assert tab.do(TEXTS) == [visible(each) for each in texts] * 2
    assert tab.do("document.title") == "blendin trace"
    names = tab.do("all('h2').slice(0, 2).map(each => each.textContent)")
    assert names == [visible(SCRIPT), saved.name]
    assert tab.do("all('script, style, img, svg, iframe').length") == own + 1


def test_text_is_readable_on_every_shade(tab: Tab, tmp_path: Path) -> None:
    shades = [
        step("x", source=source, base_top_prob=0.1, alpha=alpha)
        for source in ("both", "guide")
        for alpha in (0.0, 0.5, 1.0)
    ]
    open_page(tab, tmp_path / "page.html", one=trace(step("x"), *shades))
    contrasts = """(() => {
      const pen = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
      const light = colour => {
        pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...pen.getImageData(0, 0, 1, 1).data].map(v => v / 255)
          .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      return all('.text .t').map(each => {
        const style = getComputedStyle(each), own = style.backgroundColor;
        const around = getComputedStyle(document.body).backgroundColor;
        const back = light(own === 'rgba(0, 0, 0, 0)' ? around : own);
        const ink = light(style.color);
        return (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05);
      });
    })()"""
    for scheme in ("light", "dark"):
        tab.show(1200, 800, scheme)
        assert min(tab.do(contrasts)) >= 4.5, scheme  # WCAG 2, AA


def test_each_token_shows_its_own_bytes_though_its_text_came_later(
    tab: Tab, tmp_path: Path
) -> None:
    half = "é".encode()
    steps = [
        step("a"), step("", token_bytes=b"\n", source="guide"), step("\nQ", token_bytes=b"Q"),
        step("", token_bytes=half[:1]), step("é", token_bytes=half[1:]),
        step("", token_bytes=b"\n"), step("", token_bytes=b"Question"), step("", token_bytes=b":"),
    ]  # fmt: skip
    open_page(tab, tmp_path / "page.html", one=trace(*steps))
    texts = ["a", "\n", "Q", "⟨c3⟩", "é", "↵", "Question", ":"]
    assert tab.do(TEXTS) == texts
    assert marked(tab, "chip") == [3, 5, 6, 7]  # the last three are of the stop text
    assert marked(tab, "guide") == [1]
    other = [step("a", token_bytes=b"xyz"), step("b")]  # bytes that are not the text's
    open_page(tab, tmp_path / "page.html", one=trace(*other))
    assert tab.do(TEXTS) == ["a", "b"]


# -- keys ------------------------------------------------------------------------------------------


def test_every_token_is_reached_by_keys_alone(tab: Tab, tmp_path: Path) -> None:
    open_page(tab, tmp_path / "page.html", one=SAMPLE, two=SAMPLE)
    for keys, expected in [
        ("j", 1), ("j", 4), ("j", 6), ("j", 6), ("k", 4), ("ArrowUp", 1), ("ArrowDown", 4),
        ("ArrowLeft", 2), ("ArrowRight", 4), ("Home", 0), ("ArrowLeft", 0), ("End", 6), ("w", 6),
        ("ArrowLeft", 5), ("ArrowLeft", 4), ("ArrowLeft", 3), ("w", 4),
    ]:  # fmt: skip
        tab.press(keys)
        assert tab.do(FOCUS) == expected, keys
    assert tab.do("one('#tip').hidden") is False
    tab.press("]")
    assert tab.do(FOCUS) == 0
    assert tab.do("document.activeElement.closest('.panel') === one('.panel:nth-child(2)')")
    assert tab.do("all('.t[tabindex=\"0\"]').map(each => each.dataset.i)") == ["4", "0"]
    tab.press("[", "k", "Enter")
    assert tab.do("one('#tip').getAttribute('role')") == "dialog"
    assert tab.do("one('#tip').contains(document.activeElement)")
    tab.press("Escape")
    assert tab.do(FOCUS) == 1
    tab.press("?")
    assert tab.do("one('#keys').open")
    tab.press("Escape")
    assert not tab.do("one('#keys').open")


def test_search_finds_what_lies_over_several_tokens(tab: Tab, tmp_path: Path) -> None:
    open_page(tab, tmp_path / "page.html", one=SAMPLE, two=trace(step("ONE TWO"), step(" (o+")))
    tab.press("/")
    tab.write("e two")
    assert tab.do("one('#hits').textContent") == "2 places"
    assert (marked(tab, "hit"), marked(tab, "hit", 1)) == ([0, 1], [0])
    tab.press("Enter", "Enter")
    assert (marked(tab, "now"), marked(tab, "now", 1)) == ([], [0])
    tab.press("j")  # a letter of what is sought
    assert tab.do("one('#search').value") == "e twoj"
    assert marked(tab, "hit") == [] and tab.do("one('#hits').textContent") == "0 places"
    tab.do("one('#search').select()")
    tab.write("(o+")
    assert marked(tab, "hit", 1) == [1]


# -- τ ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.0, 0.2, 0.5, 1.0])
def test_moving_tau_marks_what_would_have_been_otherwise(
    tau: float, tab: Tab, tmp_path: Path
) -> None:
    bare = Generation(SAMPLE.text, SAMPLE.steps)
    open_page(tab, tmp_path / "page.html", one=SAMPLE, two=bare)
    slider = "one('#tau')"
    tab.do(f"{slider}.value = {tau}; {slider}.dispatchEvent(new Event('input')); {FRAME}")
    would = [each.base_top_prob < tau for each in SAMPLE.steps]
    more = [i for i, each in enumerate(SAMPLE.steps) if would[i] and not each.intervened]
    less = [i for i, each in enumerate(SAMPLE.steps) if each.intervened and not would[i]]
    for panel in (0, 1):
        assert (marked(tab, "more", panel), marked(tab, "less", panel)) == (more, less)
    note = tab.do("all('.head .note')[1].innerText")
    assert f"{sum(would)} of 7 steps below" in note
    assert f"{len(more)} more and {len(less)} fewer" in note
    first = min([*more, *less])
    assert f"from token {first + 1} on" in note
    assert tab.do("one('path.tau').getAttribute('d')") == f"M0 {1 - tau:g}H7"
    tab.click("#tau-reset")
    tab.do(FRAME)
    assert marked(tab, "more") == marked(tab, "less") == []
    assert tab.do(f"{slider}.value") == "0.4"


# -- files -----------------------------------------------------------------------------------------


def test_files_are_dropped_and_side_by_side(tab: Tab, tmp_path: Path) -> None:
    other = trace(*SAMPLE.steps[:4], step("for"), name="Nudge", threshold=0.3)
    SAMPLE.save(tmp_path / "one.json")
    other.write_jsonl(tmp_path / "two.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "wide.json").write_text(json.dumps(other.to_dict()), "utf-16")
    open_page(tab, tmp_path / "page.html")
    assert tab.do("one('#empty').offsetHeight") > 0
    tab.drop(*(tmp_path / name for name in ("one.json", "bad.jsonl", "two.jsonl", "wide.json")))
    tab.wait("all('.panel').length === 3 && !one('#message').hidden")
    tab.do(FRAME)
    message = tab.do("one('#message').textContent")
    assert message.startswith("bad.jsonl: no step of a trace") and "\n" not in message
    assert marked(tab, "fork", 1) == [4]
    assert "parts from “one.json” at token 5" in tab.do("all('.panel')[1].innerText")
    boxes = tab.do("all('.panel').slice(0, 2).map(e => e.getBoundingClientRect().top)")
    assert boxes[0] == boxes[1]
    tab.show(380, 700)
    assert tab.do("document.documentElement.scrollWidth") <= 380
    boxes = tab.do("all('.panel').map(e => e.getBoundingClientRect().top)")
    assert boxes == sorted(set(boxes))


# -- speed -----------------------------------------------------------------------------------------

OVER = "new PointerEvent('pointerover', {bubbles: true})"

SMOOTH = 34.0
"""Milliseconds of processors for a frame: two frames of a screen with 60 a second."""
FRAMES = 60
TRIES = 5
"""What is slow is slow each time; a machine that others use, too, is not."""


def test_four_thousand_tokens_scroll_and_hover_without_stutter(tab: Tab, tmp_path: Path) -> None:
    """By the processors' time, in which no other program has a part."""
    steps = [SAMPLE.steps[(i * i) % 6] for i in range(4000)]
    open_page(tab, tmp_path / "page.html", one=trace(*steps), two=trace(*steps))
    frames = """(async work => {
      const frame = () => new Promise(requestAnimationFrame);
      await frame();
      for (let i = 0; i < FRAMES; i++) {
        work(i);
        await frame();
      }
    })""".replace("FRAMES", str(FRAMES))
    tokens = f"all('.text .t').filter(e => e.getClientRects()[0]?.top > 300).slice(0, {FRAMES})"
    work = {
        "scroll": "() => scrollBy(0, 40)",
        "hover": f"(tokens => i => tokens[i].dispatchEvent({OVER}))({tokens})",
        "keys": "() => one('#next').click()",
    }
    for name, each in work.items():
        tries: list[float] = []
        while min(tries, default=SMOOTH) >= SMOOTH:
            assert len(tries) < TRIES, (name, tries)
            before = tab.processor_time()
            tab.do(f"{frames}({each})")
            tries.append(1000 * (tab.processor_time() - before) / FRAMES)
    assert "blended from both" in tab.do(TIP) or "the guide" in tab.do(TIP)


# -- a server --------------------------------------------------------------------------------------


@pytest.fixture
def served(tab: Tab) -> Iterator[Any]:
    """Opens the page of a server that answers so."""
    made: list[StandIn] = []

    def serve(answer: Answer, **given: Any) -> StandIn:
        made.append(StandIn(answer, **given))
        tab.open(made[-1].url)
        return made[-1]

    yield serve
    for each in made:
        each.close()
    tab.problems[:] = [each for each in tab.problems if "the server responded" not in each]


def ask(tab: Tab, prompt: str, *policies: str) -> None:
    tab.wait("one('[name=policy]')")
    for box in ("blend", *policies):
        tab.do(f"one('[name=policy][value={box}]').checked = {str(box in policies).lower()}")
    tab.do("one('#prompt').focus()")
    tab.write(prompt)
    tab.click("#send")


def finished(tab: Tab, panels: int) -> None:
    """Waits until there are so many texts, and none is running."""
    tab.wait(f"all('.panel').length === {panels} && one('#stop').disabled")
    tab.do(FRAME)


def streamed(*steps: Any, finish: str = "stop", policy: str = "Blend") -> Iterator[bytes]:
    """An answer with its trace, a chunk a step, split within a character or an event."""
    yield event(choices=[{"delta": {"role": "assistant"}}])
    told = b"".join(said(each.text, new_steps=[each.to_dict()]) for each in steps)
    within = max((at for at, byte in enumerate(told) if byte >= 0x80), default=40)
    yield told[:within]
    time.sleep(0.05)  # or both would come as one
    yield told[within:]
    settings = {"policy": {"name": policy, "threshold": 0.4}}
    yield said("", finish, policy=settings["policy"], settings=settings, steps=len(steps))
    yield DONE


def test_policies_stream_side_by_side_and_a_branch_goes_on_beside_the_first(
    tab: Tab, served: Any, tmp_path: Path
) -> None:
    may_go_on = threading.Event()
    after = [step("größer", base_top_prob=0.9), step(" 👩.", base_top_prob=0.8)]

    def answer(body: dict[str, Any]) -> Iterator[bytes]:
        if body["messages"][-1]["role"] == "assistant":
            yield from streamed(*after, finish="length")
        elif body["blendin"]["policy"] == "nudge":
            yield from streamed(*SAMPLE.steps, policy="Nudge")
        else:
            for each in SAMPLE.steps[:2]:
                yield said(each.text, new_steps=[each.to_dict()])
            assert may_go_on.wait(browser.PATIENCE)
            yield from streamed(*SAMPLE.steps[2:])

    server = served(answer)
    ask(tab, "Why <b>?", "blend", "nudge")
    tab.wait("all('.panel').length === 2")
    tab.wait("all('.panel')[0].querySelectorAll('.t').length > 1")
    assert "running" in tab.do("one('.panel').innerText")
    may_go_on.set()
    finished(tab, 2)
    assert tab.do(TEXTS) == ["One", " two", " three\n", "⟨3⟩", "four", " five", "⟨END⟩"] * 2
    assert [(each["model"], each["messages"], each["blendin"]) for each in sorted(
        server.asked, key=lambda body: body["blendin"]["policy"])] == [
        ("pair", [{"role": "user", "content": "Why <b>?"}], {"policy": policy, "trace": 5})
        for policy in ("blend", "nudge")
    ]  # fmt: skip
    assert "Nudge τ 0.4" in tab.do("all('.panel')[1].innerText")

    tab.click(".panel .t[data-i='1']")
    words = "all('#tip button.word')"
    assert tab.do(f"{words}.map(each => each.textContent)") == ["␣two", "␣one", "␣three"]
    tab.press("ArrowDown", "ArrowDown", "Enter")
    finished(tab, 3)
    assert server.asked[-1]["messages"] == [
        {"role": "user", "content": "Why <b>?"},
        {"role": "assistant", "content": "One three"},
    ]
    panels = (
        "all('.panel').map(e => [...e.querySelectorAll('.t')].map(t => t.textContent).join('|'))"
    )
    first, branch, second = tab.do(panels)
    assert branch == "One| three|größer| 👩." and first == second
    assert marked(tab, "you", 1) == marked(tab, "fork", 1) == [1] and marked(tab, "kept", 1) == [0]

    tab.press("Escape")
    folder = tmp_path / "saved"
    tab.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    tab.click(".panel:nth-child(2) button")
    until(lambda: any(file.stat().st_size for file in folder.glob("*.json")))
    (saved,) = folder.glob("*.json")
    (kept,) = read_traces(saved)
    assert [each.text for each in kept.steps] == ["One", " three", "größer", " 👩."]
    assert [each.source for each in kept.steps] == ["base", "you", "base", "base"]
    assert kept.steps[0] == SAMPLE.steps[0] and kept.steps[1].candidates == CANDIDATES

    tab.click(".panel:nth-child(2) .t[data-i='2']")  # a branch of the branch, in own words
    tab.do("one('#own input').focus()")
    tab.write(" hundred")
    tab.press("Enter")
    finished(tab, 4)
    assert server.asked[-1]["messages"][-1]["content"] == "One three hundred"


def test_a_character_that_is_half_written_begins_no_branch(tab: Tab, served: Any) -> None:
    halves = "é".encode()
    steps = [
        step("", token_bytes=halves[:1]),
        step("é", token_bytes=halves[1:], base_top_prob=0.5, candidates=CANDIDATES),
    ]
    served(lambda body: streamed(*steps))
    ask(tab, "Why?", "blend")
    finished(tab, 1)
    tab.click(".t[data-i='1']")
    assert "only half written" in tab.do(TIP) and not tab.do("one('#own')")


@pytest.mark.parametrize("kind", ["trace at the end", "text alone", "error", "refused", "broken"])
def test_every_kind_of_answer_is_shown_or_its_error(kind: str, tab: Tab, served: Any) -> None:
    steps = [each.to_dict() for each in SAMPLE.steps]

    def answer(body: dict[str, Any]) -> Iterator[bytes]:
        if kind == "refused":
            raise ValueError("no <b>policy</b> 'x'")
        yield said("One two")
        yield said(" three\nfour five")
        if kind == "trace at the end":  # as vLLM's server does
            yield said("", "stop", trace=steps, steps=7, policy={"name": "Blend", "threshold": 0.4})
        elif kind == "text alone":
            yield said("", "length")
        elif kind == "error":
            yield event(error={"message": "the guide's server is gone"})
        if kind != "broken":
            yield DONE

    served(answer)
    ask(tab, "Why?", "blend")
    finished(tab, 1)
    text, told = "".join(tab.do(TEXTS)), tab.do("one('.head').innerText")
    if kind == "trace at the end":
        assert marked(tab, "both") == [1] and "3 interventions" in told
    elif kind == "refused":
        assert text == "" and "no <b>policy</b> 'x'" in told
    else:
        assert text == "One two three\nfour five"
        expected = {"text alone": "stopped by length", "broken": "broke off",
                    "error": "the guide's server is gone"}  # fmt: skip
        assert expected[kind] in told and "intervention" not in told


def test_stop_hangs_up_and_a_key_is_asked_for(tab: Tab, served: Any) -> None:
    ended = threading.Event()

    def answer(body: dict[str, Any]) -> Iterator[bytes]:
        while not ended.wait(0.01):
            yield said("on and ")

    server = served(answer, key="open sesame")
    tab.wait("!one('#key-row').hidden")
    tab.do("one('#key').focus()")
    tab.write("open sesame")
    tab.click("#key-use")
    ask(tab, "Why?", "blend")
    tab.wait("all('.text .t').length > 5")
    tab.click("#stop")
    tab.wait("one('#stop').disabled")
    until(lambda: server.gone > 0)
    ended.set()
    assert server.gone == 1
