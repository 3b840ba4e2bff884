"""Both of vLLM's interfaces, driven by stand-ins, against the local engine."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import model
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_in import Engine, Request, V1Engine, V2Engine, params

from blendin import BlendInGenerator, Generation
from blendin.models.loader import load_tokenizer
from blendin.policy import named_policy
from blendin.vllm.worker import WorkerRequests

PAIRS = {
    "one vocabulary": (("llama", "byte-level", 0), ("llama", "byte-level", 1)),
    "two vocabularies": (("qwen2", "byte-level", 0), ("llama", "sentencepiece", 1)),
    "a base without bytes": (("llama", "no-bytes", 0), ("qwen2", "byte-level", 1)),
    "a sliding base": (("gemma3", "sentencepiece", 0), ("llama", "byte-level", 1)),
}
ENGINES = {"v1": V1Engine, "v2": V2Engine}
PROMPTS = [
    "How many apples are there?", "Wie groß ist der Garten?", "你好,世界。", "def add(a, b):",
    "Say 😀.", "What is the capital of France?",
]  # fmt: skip
LENGTH = 14


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], str]:
    """Where a pair's base or guide is saved."""

    @cache
    def saved(name: str, role: str) -> str:
        folder = tmp_path_factory.mktemp(role)
        for each in model(*PAIRS[name][role == "guide"]):
            each.save_pretrained(folder)
        return str(folder)

    return saved


@pytest.fixture(scope="module")
def local(folders: Callable[[str, str], str]) -> Callable[[str], BlendInGenerator]:
    """The local engine, from the same folders: saving changes guides and tokenizers a little."""

    @cache
    def made(name: str) -> BlendInGenerator:
        lm, _ = model(*PAIRS[name][0])
        return BlendInGenerator(
            (lm, load_tokenizer(folders(name, "base"), {})), folders(name, "guide")
        )

    return made


def worker(folders: Callable[[str, str], str], name: str, **own: Any) -> WorkerRequests:
    """What vLLM's worker has of a pair."""
    lm, _ = model(*PAIRS[name][0])
    eos = lm.generation_config.eos_token_id
    config = SimpleNamespace(
        model="base", served_model_name="base",
        tokenizer=folders(name, "base"), tokenizer_mode="auto",
        tokenizer_revision=None, trust_remote_code=False, max_model_len=4096, dtype=torch.float64,
        get_vocab_size=lambda: lm.config.vocab_size,
        try_get_generation_config=lambda: {"eos_token_id": eos},
        hf_text_config=lm.config,
    )  # fmt: skip
    additional = {"blendin": {"guide": folders(name, "guide"), **own}}
    return WorkerRequests(
        SimpleNamespace(model_config=config, additional_config=additional), torch.device("cpu")
    )


def request(gen: BlendInGenerator, prompt: str, policy: dict[str, Any], **own: Any) -> Request:
    """What a server makes of a prompt."""
    base = gen.pair.prompts.base([{"role": "user", "content": prompt}])
    extra = {"messages": [{"role": "user", "content": prompt}], **policy}
    given = {"max_tokens": 4 * LENGTH, "all_stop_token_ids": set(gen.base.end_ids)} | own
    return Request(gen.base.encode_prompt(base), params(extra_args={"blendin": extra}, **given))


@pytest.fixture(scope="module")
def workers(folders: Callable[[str, str], str]) -> Callable[[str], WorkerRequests]:
    """A worker for each pair, without a bound."""
    return cache(lambda name: worker(folders, name))


def engine(kind: str, requests: WorkerRequests, name: str, seed: int, **options: Any) -> Engine:
    lm, _ = model(*PAIRS[name][0])
    return ENGINES[kind](requests, lm, random.Random(seed), **options)


POLICIES: dict[str, dict[str, Any]] = {
    "blend": {}, "all": {"threshold": 1.5}, "soft": {"policy": "blend", "alpha": 0.5},
    "nudge": {"policy": "nudge", "threshold": 0.6}, "defer": {"policy": "defer"},
    "token": {"policy": "nudge-token", "threshold": 1.1}, "base": {"policy": "base"},
    "cap": {"policy": "cap", "max_rate": 0.3, "grace_steps": 2, "threshold": 0.9},
}  # fmt: skip


SAMPLED: list[dict[str, Any]] = [
    {}, {"temperature": 0.8, "top_p": 0.9, "seed": 5}, {"temperature": 1.3, "top_k": 40, "seed": 7},
    {"repetition_penalty": 1.4}, {"temperature": 1.0, "seed": 11, "repetition_penalty": 1.2},
]  # fmt: skip


def local_settings(own: Mapping[str, Any]) -> dict[str, Any]:
    """`SamplingParams` as the local engine calls them."""
    settings = dict(own)
    if settings.get("temperature"):
        settings["do_sample"] = True
    if "top_k" in settings:
        settings["sampling_top_k"] = settings.pop("top_k")
    return settings


def expected(gen: BlendInGenerator, prompt: str, policy: str, own: Mapping[str, Any]) -> Generation:
    """What the local engine makes of it."""
    given = {"policy": "blend", **POLICIES[policy]}
    return gen.generate(
        prompt,
        policy=named_policy(given.pop("policy"), **given),
        max_new_tokens=LENGTH,
        stop=(),
        speculate="off",
        **local_settings(own),
    )


def same(told: Request, requests: WorkerRequests, expected: Generation) -> None:
    """The tokens and every number of the trace, up to where the engine ended the text."""
    hosted = requests.begin(told.params, told.prompt)
    assert hosted is not None and hosted.sequence.error is None
    steps = hosted.sequence.output.steps
    assert expected.token_ids[: len(told.outputs)] == told.outputs
    assert steps == expected.steps[: len(steps)]
    assert told.finished == "abort" or len(told.outputs) == LENGTH or told.finished == "stop"


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("name", PAIRS)
def test_every_policy_as_the_local_engine(
    kind: str,
    name: str,
    workers: Callable[[str], WorkerRequests],
    local: Callable[[str], BlendInGenerator],
) -> None:
    requests, gen = workers(name), local(name)
    run = engine(kind, requests, name, seed=1)
    asked = [(prompt, policy) for prompt in PROMPTS[:2] for policy in POLICIES]
    made = [request(gen, prompt, POLICIES[policy], max_tokens=LENGTH) for prompt, policy in asked]
    for told in made:
        run.add(told)
    run.run()
    for told, (prompt, policy) in zip(made, asked, strict=True):
        same(told, requests, expected(gen, prompt, policy, {}))


@pytest.mark.parametrize("kind", ENGINES)
@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    name=st.sampled_from(list(PAIRS)),
    trouble=st.sampled_from([0.0, 0.2, 0.5]),
    asked=st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(list(POLICIES)), st.sampled_from(SAMPLED)),
        min_size=1,
        max_size=6,
    ),
    aborted=st.sets(st.integers(0, 5)),
)
def test_company_preemption_and_draws_change_nothing(
    kind: str,
    seed: int,
    name: str,
    trouble: float,
    asked: list[tuple[int, str, dict[str, Any]]],
    aborted: set[int],
    workers: Callable[[str], WorkerRequests],
    local: Callable[[str], BlendInGenerator],
) -> None:
    requests, gen = workers(name), local(name)
    run = engine(kind, requests, name, seed, trouble=trouble)
    made = [
        request(gen, PROMPTS[prompt], POLICIES[policy], max_tokens=LENGTH, **own)
        for prompt, policy, own in asked
    ]
    for told in made:
        run.add(told)
    for place in aborted:
        for _ in range(2):
            if run.waiting or run.running:
                run.step()
        if place < len(made):
            run.abort(made[place])
    run.run()
    for told, (prompt, policy, own) in zip(made, asked, strict=True):
        same(told, requests, expected(gen, PROMPTS[prompt], policy, own))
        hosted = requests.begin(told.params, told.prompt)
        assert hosted is not None
        requests.suspend(hosted)
    assert requests.rows.cached_tokens == 0 and requests.rows.cache_bytes == 0


def allowing(gen: BlendInGenerator, texts: list[str]) -> Callable[[list[int]], torch.Tensor]:
    """A grammar's mask: what does not lead to one of the texts, which END follows."""
    tokens = gen.base.vocabulary.tokens
    wanted = [text.encode() for text in texts]

    def mask(outputs: list[int]) -> torch.Tensor:
        so_far = b"".join(tokens[id] or b"" for id in outputs)
        allowed = [
            bool(data) and any(text.startswith(so_far + data) for text in wanted) for data in tokens
        ]
        for id in gen.base.end_ids:
            allowed[id] = so_far in wanted
        return ~torch.tensor(allowed)

    return mask


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("name", PAIRS)
def test_what_a_grammar_masks_is_never_lifted_again(
    kind: str,
    name: str,
    workers: Callable[[str], WorkerRequests],
    local: Callable[[str], BlendInGenerator],
) -> None:
    requests, gen = workers(name), local(name)
    answers = [
        f'{{"apples": {number}, "ok": {ok}}}' for number in (1, 12, 72) for ok in ("true", "false")
    ]
    mask = allowing(gen, answers)
    interventions = 0
    for policy in ("blend", "all", "nudge", "token", "defer"):
        run = engine(kind, requests, name, seed=3)
        told = request(gen, PROMPTS[0], POLICIES[policy], max_tokens=80, structured_outputs="json")
        told.mask = mask
        run.add(told)
        run.run()
        assert told.finished == "stop"
        data = b"".join(gen.base.vocabulary.tokens[id] or b"" for id in told.outputs[:-1])
        assert data.decode() in answers and json.loads(data)
        hosted = requests.begin(told.params, told.prompt)
        assert hosted is not None and hosted.sequence.error is None, hosted.sequence.error
        assert b"".join(step.token_bytes for step in hosted.sequence.output.steps) == data
        interventions += hosted.sequence.interventions
    assert interventions > 10


@pytest.mark.parametrize("kind", ENGINES)
def test_end_is_masked_where_tokens_are_counted(
    kind: str, workers: Callable[[str], WorkerRequests], local: Callable[[str], BlendInGenerator]
) -> None:
    requests, gen = workers("one vocabulary"), local("one vocabulary")
    run = engine(kind, requests, "one vocabulary", seed=0)
    made = [
        request(gen, prompt, POLICIES[policy], max_tokens=24, ignore_eos=True)
        for prompt in PROMPTS
        for policy in ("blend", "nudge")
    ]
    for told in made:
        run.add(told)
    run.run()
    for told in made:
        assert told.finished == "length" and len(told.outputs) == 24
        assert gen.base.end_ids.isdisjoint(told.outputs)


@pytest.mark.parametrize("kind", ENGINES)
def test_the_guides_caches_are_bounded(
    kind: str,
    folders: Callable[[str, str], str],
    local: Callable[[str], BlendInGenerator],
) -> None:
    name, bound = "two vocabularies", 200
    requests, gen = worker(folders, name, max_cached_tokens=bound), local(name)
    run = engine(kind, requests, name, seed=0, size=6)
    made = [request(gen, prompt, POLICIES["all"], max_tokens=LENGTH) for prompt in PROMPTS]
    for told in made:
        run.add(told)
    while run.waiting or run.running:
        run.step()
        assert requests.rows.cached_tokens <= bound
    for told, prompt in zip(made, PROMPTS, strict=True):
        same(told, requests, expected(gen, prompt, "all", {}))


def test_requests_that_do_not_ask_are_left_alone(
    workers: Callable[[str], WorkerRequests], local: Callable[[str], BlendInGenerator]
) -> None:
    requests, gen = workers("two vocabularies"), local("two vocabularies")
    for kind in ENGINES:
        run = engine(kind, requests, "two vocabularies", seed=1)
        told = Request([5, 6, 7], params(max_tokens=8))
        run.add(told)
        run.add(request(gen, PROMPTS[0], {}, max_tokens=8))
        run.run()
        alone = Request([5, 6, 7], params(max_tokens=8))
        while not alone.finished:
            alone.take(int(run.logits(alone, [], len(alone.ids))[-1].argmax()))
        assert told.outputs == alone.outputs


@pytest.mark.parametrize("kind", ENGINES)
def test_what_goes_wrong_stays_with_its_request(
    kind: str, workers: Callable[[str], WorkerRequests], local: Callable[[str], BlendInGenerator]
) -> None:
    """The base goes on alone, and the report says why."""
    name = "two vocabularies"
    requests, gen = workers(name), local(name)
    run = engine(kind, requests, name, seed=1)
    long = [{"role": "user", "content": "word " * 3000}]
    broken = [
        Request(
            gen.base.encode_prompt("Question: Hi\nAnswer:"),
            params(extra_args={"blendin": {"threshold": 1.5, "id": id, **source}}, max_tokens=6),
        )
        for id, source in (
            ("long", {"messages": long}),
            ("id", {"guide_prompt_ids": [10**6]}),
            ("policy", {"guide_prompt_ids": [5], "rule": "bet"}),  # which the engine's has not
        )
    ]
    good = request(gen, PROMPTS[1], POLICIES["all"], max_tokens=LENGTH)
    for told in (broken[0], good, *broken[1:]):
        run.add(told)
    run.run()
    for told, why in zip(broken, ("holds", "1000000", "no setting rule"), strict=True):
        assert len(told.outputs) == 6
        report = requests.report(told.params.extra_args["blendin"]["id"])
        assert report is not None and why in report["error"] and report["interventions"] == 0
    same(good, requests, expected(gen, PROMPTS[1], "all", {}))
    assert requests.report("never asked") is None


def test_every_rank_decides_alike(
    folders: Callable[[str, str], str], local: Callable[[str], BlendInGenerator]
) -> None:
    """Under tensor parallelism every rank has all logits, a guide of its own and the same seed."""
    name = "two vocabularies"
    gen = local(name)
    made = [
        request(gen, prompt, {"threshold": 1.5}, max_tokens=LENGTH, temperature=1.0)
        for prompt in PROMPTS
    ]
    written = []
    for _ in range(2):
        run = engine("v1", worker(folders, name), name, seed=1)
        own = [Request(list(each.prompt), each.params) for each in made]
        for told in own:
            run.add(told)
        run.run()
        written.append([told.outputs for told in own])
    assert written[0] == written[1]
    again = request(gen, PROMPTS[0], {"threshold": 1.5}, max_tokens=LENGTH, temperature=1.0)
    assert again.params.seed != made[0].params.seed
