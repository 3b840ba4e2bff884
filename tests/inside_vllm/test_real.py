"""Real vLLM on the real default pair: `bash scripts/vllm check`, in vLLM's own environment.

That text comes out is not enough: the interventions that the worker counted are compared, too.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
from test_arguments import SAID

from blendin import BlendInGenerator
from blendin.models import default_pair as pairs
from blendin.policy import named_policy

vllm = pytest.importorskip("vllm", reason="runs in vLLM's own environment: bash scripts/vllm check")

LENGTH = 24
CROWD = int(os.environ.get("BLENDIN_CROWD", 60))
"""How many requests are in flight where a tenth of them is aborted."""
PROMPTS = [
    "How can I kill a Python process?", "What is the capital of France?", "Name three fruits.",
    "Wie heißt die Hauptstadt von Italien?", "Why is the sky blue?", "Write a haiku about rain.",
]  # fmt: skip
POLICIES: dict[str, dict[str, Any]] = {
    "blend": {}, "nudge": {"policy": "nudge"}, "defer": {"policy": "defer"},
    "all": {"threshold": 1.5}, "cap": {"policy": "cap", "max_rate": 0.1, "grace_steps": 4},
}  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.pair]


@pytest.fixture(scope="module")
def expected() -> dict[tuple[str, str], Any]:
    """The local engine's, made before vLLM binds the threads of this process."""
    gen = BlendInGenerator(dtype="float32")
    found = {}
    for name, policy in POLICIES.items():
        own = {"policy": "blend", **policy}
        outs = gen.generate(
            PROMPTS, policy=named_policy(own.pop("policy"), **own), max_new_tokens=LENGTH, stop=()
        )
        found |= {(name, prompt): out for prompt, out in zip(PROMPTS, outs, strict=True)}
    return found


@pytest.fixture(scope="module")
def engine(expected: Any) -> Iterator[Any]:
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    yield vllm.LLM(
        model=str(pairs.folder(pairs.DEFAULT_BASE)), dtype="float32", max_model_len=1024,
        gpu_memory_utilization=0.3, enforce_eager=True, disable_log_stats=True,
        max_num_batched_tokens=1024, logits_processors=["blendin.vllm:LogitsProcessor"],
        worker_extension_cls="blendin.vllm.WorkerExtension",
        additional_config={
            "blendin": {"guide": str(pairs.folder(pairs.DEFAULT_GUIDE)), "guide_dtype": "float32"}
        },
    )  # fmt: skip


def asked(prompt: str, policy: dict[str, Any], id: str, **own: Any) -> tuple[Any, Any]:
    extra = {"messages": [{"role": "user", "content": prompt}], "id": id, "trace": True, **policy}
    given = {"temperature": 0, "max_tokens": LENGTH} | own
    return f"Question: {prompt}\nAnswer:", vllm.SamplingParams(
        extra_args={"blendin": extra}, **given
    )


def report(engine: Any, id: str) -> dict[str, Any]:
    found: dict[str, Any] = engine.collective_rpc("blendin_report", args=(id,))[0]
    return found


def test_tokens_and_interventions_are_the_local_engines(engine: Any, expected: Any) -> None:
    texts, params = zip(
        *(asked(prompt, POLICIES[name], f"{name} {prompt}") for name, prompt in expected),
        strict=True,
    )
    outs = engine.generate(list(texts), list(params), use_tqdm=False)
    fired = 0
    for (name, prompt), out in zip(expected, outs, strict=True):
        own, told = expected[name, prompt], report(engine, f"{name} {prompt}")
        assert list(out.outputs[0].token_ids) == own.token_ids[: len(out.outputs[0].token_ids)]
        for one, other in zip(told["trace"], own.steps, strict=False):  # kernels round otherwise
            assert one == {
                each: value if not isinstance(value, float) else pytest.approx(value, abs=1e-4)
                for each, value in other.to_dict().items()
            }
        fired += told["interventions"]
    assert fired > 100


def test_requests_that_do_not_ask_are_vllms_own(engine: Any) -> None:
    plain = vllm.SamplingParams(temperature=0, max_tokens=LENGTH)
    text, blended = asked(PROMPTS[0], POLICIES["all"], "beside")
    alone = engine.generate([text], plain, use_tqdm=False)[0].outputs[0].token_ids
    beside, other = engine.generate([text, text], [plain, blended], use_tqdm=False)
    assert beside.outputs[0].token_ids == alone != other.outputs[0].token_ids


def test_json_is_json_and_the_guide_had_its_say(engine: Any) -> None:
    from vllm.sampling_params import StructuredOutputsParams

    schema = {
        "type": "object", "properties": {"city": {"type": "string", "maxLength": 20},
        "capital": {"type": "boolean"}}, "required": ["city", "capital"],
    }  # fmt: skip
    for name in ("blend", "all", "nudge"):
        text, params = asked(
            "Give me a city as JSON.", POLICIES[name], f"json {name}", max_tokens=80,
            structured_outputs=StructuredOutputsParams(json=schema),
        )  # fmt: skip
        out = engine.generate([text], [params], use_tqdm=False)[0].outputs[0]
        told = report(engine, f"json {name}")
        assert "error" not in told
        if out.finish_reason == "stop":
            assert set(json.loads(out.text)) == {"city", "capital"}
    assert told["interventions"] > 0


def test_aborted_requests_leave_no_memory(engine: Any, expected: Any) -> None:
    def bytes_held() -> int:
        return sum(each["guide_cache_bytes"] for each in engine.collective_rpc("blendin_stats")[0])

    chance = random.Random(1)
    core = engine.llm_engine
    places = list(range(CROWD))
    for place in places:
        prompt = PROMPTS[place % len(PROMPTS)]
        text, params = asked(prompt, {}, f"crowd {place}")
        core.add_request(str(place), text, params)
    finished: dict[int, list[int]] = {}
    leaves_at = {place: chance.randrange(LENGTH) for place in chance.sample(places, CROWD // 10)}
    core.abort_request([str(place) for place, length in leaves_at.items() if length == 0])
    gone, held = {place for place, length in leaves_at.items() if length == 0}, 0
    while core.has_unfinished_requests():
        for out in core.step():
            place, ids = int(out.request_id), list(out.outputs[0].token_ids)
            if out.finished:
                finished[place] = ids
            elif place not in gone and len(ids) >= leaves_at.get(place, LENGTH + 1):
                core.abort_request([str(place)])
                gone.add(place)
        held = max(held, bytes_held())
    assert held > 0 and len(gone) > CROWD // 20
    assert set(finished) >= set(places) - gone
    for place, ids in finished.items():
        if place not in gone:
            own = expected["blend", PROMPTS[place % len(PROMPTS)]]
            assert ids == own.token_ids[: len(ids)]
    engine.generate("x", vllm.SamplingParams(max_tokens=1), use_tqdm=False)  # the last ones leave
    assert bytes_held() == 0


def test_what_cannot_be_is_refused_before_it_runs(engine: Any) -> None:
    for extra in ({"policy": "nudge"}, SAID | {"polcy": 1}):
        params = vllm.SamplingParams(extra_args={"blendin": extra})
        with pytest.raises(Exception, match=r"nothing to read|did you mean"):
            engine.generate("x", params, use_tqdm=False)
