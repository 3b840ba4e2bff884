"""The page in a real browser, behind it the real server of the real default pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import browser
import pytest
from browser import Tab
from hostile import SCRIPT
from serving import Served, held_steps, served, until

from blendin import BaseOnly, Blend, BlendInGenerator, Generation, Step
from blendin.page import ALTERNATIVES, read_traces

pytestmark = [browser.needs_browser, pytest.mark.pair]

PROMPT = "How can I kill a Python process?"
LENGTH = 12

TEXTS = "all('.panel').map(e => [...e.querySelectorAll('.text .t')].map(t => t.textContent))"
OPTIONS = """(cells => Array.from(
    {length: cells.length / 4}, (_, i) => cells.slice(4 * i, 4 * i + 4)
  ))([...one('.options').children].map(each => each.textContent))"""


@pytest.fixture(scope="module")
def server(default_pair: BlendInGenerator) -> Iterator[Served]:
    with served(default_pair) as running:
        yield running


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    tab = Tab(tmp_path_factory.mktemp("profile"))
    yield tab
    tab.close()


@pytest.fixture
def tab(window: Tab, server: Served) -> Iterator[Tab]:
    """The server's own page; what it complained of by the end of the test is a fault."""
    window.show(1200, 900)
    window.open(f"{server.url}/")
    window.wait("one('[name=policy][value=base]')")
    window.problems.clear()
    yield window
    assert [each for each in window.problems if "status of 404" not in each] == []  # its icon


def ask(tab: Tab, prompt: str, *policies: str) -> None:
    for name in ("blend", *policies):
        tab.do(f"one('[name=policy][value={name}]').checked = {str(name in policies).lower()}")
    tab.do(f"one('#max').value = {LENGTH}; one('#prompt').focus()")
    tab.write(prompt)
    tab.click("#send")


def finished(tab: Tab, panels: int) -> list[str]:
    """The texts that are shown, once there are so many and none is running."""
    tab.wait(f"all('.panel').length === {panels} && one('#stop').disabled", 180)
    return shown(tab)


def shown(tab: Tab) -> list[str]:
    """The texts of the panels, without the marks of tokens that add nothing to them."""
    return ["".join(text) for text in tab.do(TEXTS.replace(".t'", ".t:not(.chip)'"))]


def traced(gen: BlendInGenerator, prompt: Any, policy: Any) -> Generation:
    return gen.generate(prompt, policy=policy, max_new_tokens=LENGTH, trace_top=ALTERNATIVES)


def certain(steps: Sequence[Step]) -> int:
    """How many steps are told of: those up to the last whose text is certain."""
    return max((place + 1 for place, step in enumerate(steps) if step.text), default=0)


def test_what_is_asked_streams_is_compared_and_goes_on_from_an_alternative(
    tab: Tab, server: Served, default_pair: BlendInGenerator, tmp_path: Path
) -> None:
    outs = [traced(default_pair, PROMPT, policy) for policy in (Blend(), BaseOnly())]
    with held_steps() as held:
        ask(tab, PROMPT, "blend", "base")
        until(lambda: server.in_flight == 2)
        queue = server.service.queue
        asked = (*queue._begun.values(), *queue._waiting)
        found = {type(live.sequence.policy): live for live in asked}
        lives, sizes = (found[Blend], found[BaseOnly]), (set[int](), set[int]())
        while not all(live.sequence.done for live in lives):
            held.make()
            counts = [certain(live.output.steps) for live in lives]
            tab.wait(f"all('.panel').every((e, at) => "
                     f"e.querySelectorAll('.t').length >= {counts}[at])")  # fmt: skip
            for size, count in zip(sizes, counts, strict=True):
                size.add(count)
        assert all(len(size) > LENGTH / 4 for size in sizes)
    assert finished(tab, 2) == [out.text for out in outs]
    for at, out in enumerate(outs):
        panel = f".panel:nth-child({at + 1})"
        marked = f"all('{panel} .t.both, {panel} .t.guide').map(each => Number(each.dataset.i))"
        assert tab.do(marked) == [i for i, step in enumerate(out.steps) if step.intervened]
    ids = zip(*([step.token_bytes for step in out.steps] for out in outs), strict=False)
    parts = next(i for i, (one, other) in enumerate(ids) if one != other)
    assert f"at token {parts + 1}" in tab.do("all('.panel')[1].innerText")

    steps = outs[0].steps
    place = next(i for i, step in enumerate(steps) if step.source == "both")
    tab.move(f".panel .t[data-i='{place}']")
    candidates, tip = steps[place].candidates, tab.do("one('#tip').innerText").split("\n")
    assert candidates is not None and f"token {place + 1} of {len(steps)}" in tip[1]
    told = float(tip[tip.index("α") + 1])
    assert told == pytest.approx(steps[place].alpha, abs=2e-3)
    first = next(row for row in tab.do(OPTIONS)[1:] if not any("<" in each for each in row[1:]))
    expected = (candidates.base_prob, candidates.guide_prob, candidates.chosen.prob)
    assert tuple(map(float, first[1:])) == pytest.approx(expected, abs=2e-3)

    other = candidates.emitted[1]
    tab.click(f".panel .t[data-i='{place}']")
    tab.press("ArrowDown", "Enter")  # the second of the list
    first, branch, second = finished(tab, 3)
    before = b"".join(step.token_bytes for step in steps[:place]) + other.token_bytes
    begun = [{"role": "user", "content": PROMPT},
             {"role": "assistant", "content": before.decode()}]  # fmt: skip
    goes_on = traced(default_pair, begun, Blend())
    assert [first, second] == [out.text for out in outs]
    assert branch == before.decode() + goes_on.text

    tab.press("Escape")
    tab.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    tab.click(".panel:nth-child(2) button")
    until(lambda: any(file.stat().st_size for file in tmp_path.glob("*.json")))
    (saved,) = tmp_path.glob("*.json")
    (kept,) = read_traces(saved)
    assert "".join(step.text for step in kept.steps) == branch
    assert kept.steps[place].source == "you" and kept.steps[-1].text == goes_on.steps[-1].text
    tab.call("Page.reload")
    tab.wait("document.readyState === 'complete' && !one('.panel') && one('[name=policy]')")
    tab.drop(saved)
    assert finished(tab, 1) == [branch]


def test_hostile_text_stays_text_on_its_way_there_and_back(
    tab: Tab, default_pair: BlendInGenerator
) -> None:
    """As a prompt, as own words in an answer, and as what the base copies from both."""
    prompt = f"Repeat: {SCRIPT}</script><img src=x onerror=alert(1)>"
    own = tab.do("all('script, style, img, svg, iframe').length")
    ask(tab, prompt, "base")
    (text,) = finished(tab, 1)
    assert text == traced(default_pair, prompt, BaseOnly()).text
    tab.click(".t[data-i='1']")
    tab.do("one('#own input').focus()")
    tab.write(SCRIPT)
    tab.press("Enter")
    _, branch = finished(tab, 2)
    assert SCRIPT in branch
    # Each text has a strip, which is an svg.
    assert tab.do("all('script, style, img, svg, iframe').length") == own + 2
    assert tab.do("document.title") == "blendin trace"
