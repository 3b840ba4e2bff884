"""What must hold on any server: the in-process one, and real vLLM servers where they run.

`bash scripts/vllm test` starts those, of the default pair in float32, and runs these tests on them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from conftest import generator, model
from fake_server import FakeServer
from test_remote import BASE, GUIDE, folder, same, scores_agree
from tiny import CORPUS

from blendin import (
    BaseOnly,
    Blend,
    BlendInGenerator,
    GuideOnly,
    InterventionCap,
    Nudge,
)

URLS = "BLENDIN_TEST_BASE_URL", "BLENDIN_TEST_GUIDE_URL"
POLICIES = (
    Blend(),
    Blend(threshold=0.8, top_k=10),
    Blend(threshold=2.0, alpha=1.0),
    Nudge(),
    Nudge(threshold=0.8, unit="token"),
    BaseOnly(),
    GuideOnly(),
    InterventionCap(Blend(threshold=0.9), grace_steps=5),
)
PROMPTS = (
    "How many apples are there?",
    "Why is the sky blue?",
    "你好,世界 and a café 👍",
    "How can I kill a Python process?",
)


class Served(NamedTuple):
    """A pair behind servers, by their URLs, and the same pair here."""

    remote: BlendInGenerator
    base_here: BlendInGenerator
    guide_here: BlendInGenerator
    here: BlendInGenerator


@pytest.fixture(scope="module", params=["in process", "vllm"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    if request.param == "vllm":
        urls = [os.environ.get(name) for name in URLS]
        if not all(urls):
            pytest.skip(f"{' and '.join(URLS)} name no servers; see scripts/vllm")
        here = request.getfixturevalue("default_pair")
        yield Served(
            BlendInGenerator(*urls),
            BlendInGenerator(here.base, urls[1]),
            BlendInGenerator(urls[0], here.guide),
            here,
        )
        return
    here = generator(BASE, GUIDE)
    with (
        FakeServer(model(*BASE), root=folder(BASE)) as base,
        FakeServer(model(*GUIDE), root=folder(GUIDE)) as guide,
    ):
        yield Served(
            BlendInGenerator(base.url, guide.url),
            BlendInGenerator(here.base, guide.url),
            BlendInGenerator(base.url, here.guide),
            here,
        )


def test_the_tables_are_the_local_models(served: Served) -> None:
    for role in ("base", "guide"):
        theirs, ours = getattr(served.remote, role), getattr(served.here, role)
        assert theirs.vocabulary.tokens == ours.vocabulary.tokens
        assert theirs.end_ids == ours.end_ids
        assert theirs.max_length < ours.max_length  # a server adds at least one token


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
@pytest.mark.parametrize("where", ["remote", "base_here", "guide_here"])
def test_servers_emit_what_local_models_emit(served: Served, where: str, policy: Any) -> None:
    gen = getattr(served, where)
    settings = {"policy": policy, "max_new_tokens": 24, "stop": ["\n\n"]}
    plain = served.here.generate(PROMPTS[1], speculate="off", **settings)
    for speculate in ("auto", "off", 3):
        same(gen.generate(PROMPTS[1], speculate=speculate, **settings), plain)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
@pytest.mark.parametrize("where", ["remote", "base_here", "guide_here"])
def test_servers_tell_the_candidates_that_local_models_tell(
    served: Served, where: str, policy: Any
) -> None:
    asked: dict[str, Any] = {"policy": policy, "max_new_tokens": 16, "trace_top": 4}
    plain = served.here.generate(PROMPTS[0], **asked)
    out = getattr(served, where).generate(PROMPTS[0], **asked)
    same(out, plain)
    for theirs, ours in zip(out.steps, plain.steps, strict=True):
        assert theirs.candidates is not None and ours.candidates is not None
        for name in ("base", "guide", "emitted"):
            told, expected = (getattr(each.candidates, name) for each in (theirs, ours))
            rough = 0.02 if name == "emitted" else 1e-4  # lists are cut short, and normalised so
            assert [each.prob for each in told] == pytest.approx(
                [each.prob for each in expected], abs=rough
            )
        for name in ("base_prob", "guide_prob"):
            prob = getattr(theirs.candidates, name)
            assert prob is None or prob == pytest.approx(getattr(ours.candidates, name), abs=1e-4)


@pytest.mark.parametrize(("where", "role"), [("base_here", "guide"), ("guide_here", "base")])
def test_more_candidates_than_a_server_lists_are_refused(
    served: Served, where: str, role: str
) -> None:
    gen = getattr(served, where)
    asked = gen.pair.model(role).forwards
    with pytest.raises(ValueError, match=f"trace_top is 101 and .* 100 .*{role}_kwargs"):
        gen.generate(PROMPTS[0], trace_top=101)
    assert gen.pair.model(role).forwards == asked
    outs = gen.generate(PROMPTS[:2], trace_top=[101, 2], max_new_tokens=3, progress=False)
    assert "trace_top is 101" in outs[0].error
    assert [len(each.candidates.base) for each in outs[1].steps] == [2, 2, 2]


@pytest.mark.parametrize("where", ["remote", "guide_here"])
def test_a_list_in_flight_is_what_each_is_alone(served: Served, where: str) -> None:
    prompts = [f"{text} {number}" for number in range(4) for text in PROMPTS]
    policies = [POLICIES[place % len(POLICIES)] for place in range(len(prompts))]
    settings: dict[str, Any] = {"policy": policies, "max_new_tokens": 16}
    plain = served.here.generate(prompts, **settings)
    gen = getattr(served, where)
    outs = gen.generate(prompts, max_batch_size=len(prompts), progress=False, **settings)
    for out, expected in zip(outs, plain, strict=True):
        assert out.error is None
        same(out, expected)


def test_windows_and_single_requests_draw_the_same(served: Served) -> None:
    settings: dict[str, Any] = {
        "do_sample": True, "temperature": 0.9, "top_p": 0.9, "seed": 3, "max_new_tokens": 24,
    }  # fmt: skip
    for prompt in PROMPTS[:2]:
        off = served.remote.generate(prompt, speculate="off", **settings)
        assert off.base_forwards == len(off.steps)
        same(served.remote.generate(prompt, **settings), off)


def test_windows_take_few_requests(served: Served) -> None:
    outs = [served.remote.generate(prompt, max_new_tokens=60) for prompt in PROMPTS]
    tokens = sum(len(out.steps) for out in outs)
    rate = sum(out.interventions for out in outs) / tokens
    assert sum(out.base_forwards for out in outs) / tokens <= 2 * rate + 0.05


def test_split_characters_and_spaces_survive(served: Served) -> None:
    """The text is given whole to both, so that the steps are about its odd bytes."""
    text = next(line for line in CORPUS if any(ord(char) > 0x2FFF for char in line))
    prompts = {"base_prompt": text[: len(text) // 2], "guide_prompt": text[: len(text) // 2]}
    for policy in (Blend(threshold=0.9), Nudge(threshold=0.9)):
        out = served.remote.generate(policy=policy, max_new_tokens=40, **prompts)
        same(out, served.here.generate(policy=policy, max_new_tokens=40, **prompts))
        data = b"".join(step.token_bytes for step in out.steps)
        assert out.text == data.decode("utf-8", "replace")


@pytest.mark.parametrize("where", ["remote", "base_here", "guide_here"])
def test_scores_are_the_local_ones(served: Served, where: str) -> None:
    # P_B(t_g) is 0 where it is not listed.
    scores_agree(getattr(served, where), served.here, atol=2e-2)
