"""lm-evaluation-harness' own API models against the server: what blendin's adapter gives."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from serving import Served, served

from blendin import BlendInGenerator

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
pytest.importorskip("tenacity", reason="the harness' API models need tenacity")

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import (
    LocalChatCompletion,
    LocalCompletionsAPI,
)

from blendin.lm_eval.model import BlendInLM

CONTEXTS = ("Question: How many?\nAnswer:", "def add(a, b):\n    return", "Où est la gare ?")
CHOICES = (" apples", " 你好", " a + b", " there are many of them")
SETTINGS = {"until": ["e", "\n\n"], "max_gen_toks": 12, "do_sample": False, "temperature": 0}


def roles(folders: list[str]) -> dict[str, str]:
    return dict(zip((each.removeprefix("--") for each in folders[::2]), folders[1::2], strict=True))


@pytest.fixture(scope="module")
def gen(pair_folders: list[str]) -> BlendInGenerator:
    return BlendInGenerator(**roles(pair_folders), dtype="float64")


@pytest.fixture(scope="module")
def server(gen: BlendInGenerator) -> Iterator[Served]:
    with served(gen) as running:
        yield running


@pytest.fixture(autouse=True)
def heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("lm_eval"), "propagate", True)


def client(kind: Any, server: Served, path: str, model: str, folders: list[str]) -> Any:
    """A model of the harness that asks the server, with the base's own tokenizer."""
    return kind(
        model=model, base_url=f"{server.url}/v1/{path}", max_retries=1, num_concurrent=2,
        tokenizer_backend="huggingface", tokenizer=roles(folders)["base"],
    )  # fmt: skip


def own(folders: list[str], policy: str) -> BlendInLM:
    return BlendInLM(**roles(folders), policy=policy, dtype="float64")


def ask(method: str, *arguments: Any) -> list[Instance]:
    return [
        Instance(request_type=method, doc={}, arguments=each, idx=i)  # type: ignore[arg-type]
        for i, each in enumerate(arguments)
    ]


def test_likelihoods_are_those_of_the_adapter(server: Served, pair_folders: list[str]) -> None:
    """`local-completions` reads them from the echoed prompt's log-probabilities, of the base."""
    asked = ask("loglikelihood", *((c, choice) for c in CONTEXTS for choice in CHOICES))
    lm = client(LocalCompletionsAPI, server, "completions", "pair:base", pair_folders)
    found = lm.loglikelihood(asked, disable_tqdm=True)
    expected = own(pair_folders, "base").loglikelihood(asked, disable_tqdm=True)
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected])
    assert [is_greedy for _, is_greedy in found] == [is_greedy for _, is_greedy in expected]


@pytest.mark.parametrize("policy", ["blend", "nudge", "base"])
def test_texts_are_those_of_the_adapter(
    server: Served, pair_folders: list[str], policy: str
) -> None:
    asked = ask("generate_until", *((context, dict(SETTINGS)) for context in CONTEXTS))
    lm = client(LocalCompletionsAPI, server, "completions", f"pair:{policy}", pair_folders)
    found = lm.generate_until(asked, disable_tqdm=True)
    assert found == own(pair_folders, policy).generate_until(asked, disable_tqdm=True)


def test_chats_are_what_generate_gives(
    server: Served, gen: BlendInGenerator, pair_folders: list[str]
) -> None:
    lm = client(LocalChatCompletion, server, "chat/completions", "pair", pair_folders)
    chats = [[{"role": "user", "content": context}] for context in CONTEXTS]
    chats[0] = [{"role": "system", "content": "Be brief."}, *chats[0]]
    asked = ask("generate_until", *((lm.apply_chat_template(c), dict(SETTINGS)) for c in chats))
    found = lm.generate_until(asked, disable_tqdm=True)
    texts = [gen.generate(c, max_new_tokens=12, stop=SETTINGS["until"]).text for c in chats]
    assert found == texts
