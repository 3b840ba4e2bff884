"""Models behind completions servers emit what the same models emit here."""

from __future__ import annotations

import atexit
import json
import logging
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
from conftest import generator, model
from fake_server import FakeServer, Fault
from serving import until
from typer.testing import CliRunner

from blendin import (
    BaseOnly,
    Blend,
    BlendInGenerator,
    Generation,
    GuideOnly,
    Nudge,
)
from blendin.cli.app import app
from blendin.models.remote import session as sessions
from blendin.models.remote.answers import Row
from blendin.models.remote.errors import ServerError
from blendin.models.remote.window import AcceptanceEstimate, Standing, Window

BASE, GUIDE = ("llama", "byte-level", 0), ("llama", "sentencepiece", 1)
PROMPTS = (
    "How many apples are there?",
    "Why is the sky blue?",
    "你好,世界 and a café 👍",
    "def add(a, b):\n    return",
)
EVERY = 10_000
"""Of log-probabilities: more than any tiny vocabulary has."""


@pytest.fixture(scope="module")
def here() -> BlendInGenerator:
    return generator(BASE, GUIDE)


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[FakeServer, FakeServer]]:
    with (
        FakeServer(model(*BASE), max_logprobs=EVERY) as base,
        FakeServer(model(*GUIDE), max_logprobs=EVERY) as guide,
    ):
        yield base, guide


@cache
def folder(own: Any) -> str:
    """Where a tiny model's tokenizer and configuration lie, without its weights."""
    path = tempfile.mkdtemp(prefix="blendin-tokenizer-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    lm, tokenizer = model(*own)
    tokenizer.save_pretrained(path)
    lm.config.save_pretrained(path)
    return path


def pair(base: Any = None, guide: Any = None, **options: Any) -> BlendInGenerator:
    """A generator of servers' URLs, or of the tiny models where there is none."""
    sides: dict[str, Any] = {}
    for role, url, own in (("base", base, BASE), ("guide", guide, GUIDE)):
        sides[role] = model(*own) if url is None else url
        if url is not None:
            sides[f"{role}_kwargs"] = {"tokenizer": folder(own), **options}
    return BlendInGenerator(**sides)


def run_out_sooner(monkeypatch: pytest.MonkeyPatch, times: float) -> None:
    """Has patience run out so many times sooner where a server fails.

    A server that is only slow, as in a busy process, still has all of the patience for each token.
    """
    hurried = SimpleNamespace(monotonic=lambda: times * time.monotonic())
    monkeypatch.setattr(sessions, "time", hurried)


def scores_agree(gen: BlendInGenerator, here: BlendInGenerator, atol: float) -> None:
    """Of given texts, under every policy, token by token."""
    texts = [" There are three of them, I think.", " blue 你好", "\n    return a + b"]
    for policy in (Blend(threshold=0.8), Nudge(threshold=0.8), BaseOnly(), GuideOnly()):
        plain = here.score(list(PROMPTS[:3]), texts, policy=policy)
        scores = gen.score(list(PROMPTS[:3]), texts, policy=policy)
        for ours, theirs in zip(scores, plain, strict=True):
            assert ours.token_ids == theirs.token_ids
            assert ours.interventions == theirs.interventions
            torch.testing.assert_close(
                torch.tensor(ours.token_log_likelihoods),
                torch.tensor(theirs.token_log_likelihoods),
                rtol=1e-3,
                atol=atol,
            )


@pytest.fixture(scope="module")
def remote(servers: tuple[FakeServer, FakeServer]) -> BlendInGenerator:
    return pair(servers[0].url, servers[1].url)


def same(one: Generation, other: Generation) -> None:
    """The same steps; probabilities as near as float32 on the way lets them be."""
    assert one.token_ids == other.token_ids and one.text == other.text
    assert one.stop_reason == other.stop_reason
    for ours, theirs in zip(one.steps, other.steps, strict=True):
        assert (ours.intervened, ours.token_bytes) == (theirs.intervened, theirs.token_bytes)
        for name in ("base_top_prob", "guide_top_prob", "alpha"):
            mine, its = getattr(ours, name), getattr(theirs, name)
            assert (mine is None) == (its is None)
            assert mine is None or abs(mine - its) < 1e-3  # rotary angles are float32


def test_a_hundred_listed_tokens_change_nothing_at_k_100(
    here: BlendInGenerator, servers: tuple[FakeServer, FakeServer]
) -> None:
    assert len(here.base.vocabulary) > 300 < len(here.guide.vocabulary)
    gen = pair(servers[0].url, servers[1].url, top_logprobs=100)
    interventions = 0
    for prompt in PROMPTS:
        plain = here.generate(prompt, policy=Blend(threshold=0.9), max_new_tokens=40)
        out = gen.generate(prompt, policy=Blend(threshold=0.9), max_new_tokens=40)
        same(out, plain)
        interventions += out.interventions
        for ours, theirs in zip(out.steps, plain.steps, strict=True):
            if ours.agreement:  # else the base did not list it
                assert abs(ours.agreement - (theirs.agreement or 0)) < 1e-4
                assert ours.agreement_rank and theirs.agreement_rank
                assert abs(ours.agreement_rank - theirs.agreement_rank) <= 1  # float32 ties
            elif theirs.agreement is not None and theirs.agreement_rank is not None:
                assert theirs.agreement_rank > 100
    assert interventions > 50


def test_draws_are_the_local_ones_where_all_is_listed(
    here: BlendInGenerator, servers: tuple[FakeServer, FakeServer]
) -> None:
    gen = pair(servers[0].url, servers[1].url, top_logprobs=EVERY)
    settings: dict[str, Any] = {"do_sample": True, "temperature": 1.3, "top_p": 0.95, "seed": 7}
    for policy in (Blend(), Nudge(), GuideOnly()):
        plain = here.generate(PROMPTS[0], policy=policy, max_new_tokens=30, **settings)
        for speculate in ("auto", "off"):
            out = gen.generate(
                PROMPTS[0], policy=policy, max_new_tokens=30, speculate=speculate, **settings
            )
            assert out.token_ids == plain.token_ids


def test_repetition_penalty_is_ours_and_not_the_servers(
    remote: BlendInGenerator, servers: tuple[FakeServer, FakeServer]
) -> None:
    out = remote.generate(PROMPTS[1], policy=BaseOnly(), max_new_tokens=30, repetition_penalty=5.0)
    counts = Counter(out.token_ids)
    free = remote.generate(PROMPTS[1], policy=BaseOnly(), max_new_tokens=30)
    assert max(counts.values()) < max(Counter(free.token_ids).values())
    assert all(body["repetition_penalty"] == 1.0 for body in servers[0].requests)


def test_windows_take_few_requests_and_off_takes_one_a_token(
    remote: BlendInGenerator, servers: tuple[FakeServer, FakeServer]
) -> None:
    tokens = requests = interventions = 0
    for prompt in PROMPTS:
        before = len(servers[0].requests)
        out = remote.generate(prompt, max_new_tokens=60)
        assert len(servers[0].requests) - before == out.base_forwards
        tokens += len(out.steps)
        requests += out.base_forwards
        interventions += out.interventions
        off = remote.generate(prompt, max_new_tokens=20, speculate="off")
        assert off.base_forwards == len(off.steps)
    assert requests / tokens <= 2 * interventions / tokens + 0.05
    asked = [body["max_tokens"] for body in servers[0].requests]
    assert max(asked) > 5 and min(asked) == 1
    assert all(body["temperature"] == 0 for body in servers[0].requests)


def test_a_window_grows_with_acceptance_and_keeps_what_agrees() -> None:
    high, low = AcceptanceEstimate(), AcceptanceEstimate()
    for _ in range(40):
        high.count(held=True)
        low.count(held=False)
    assert high.length > AcceptanceEstimate().length > low.length >= 1
    window = Window(start=2)
    assert window.standing([5, 6]) is Standing.COMING
    for row in (Row(7, [7], [0.0]), Row(8, [8], [0.0])):
        window.add(row)
    assert window.standing([5, 6, 7]) is Standing.HOLDS
    following = window.row_after([5, 6, 7])
    assert following is not None and following.token == 8
    assert window.standing([5, 6, 9]) is Standing.BROKEN
    assert window.standing([5, 6, 7, 8]) is Standing.COMING
    window.over = True
    assert window.standing([5, 6, 7, 8]) is Standing.RAN_OUT


# -- failures --------------------------------------------------------------------------------------


def every_third(fault: Fault) -> Callable[[int], Fault | None]:
    return lambda number: fault if number > 0 and number % 3 == 1 else None


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", status=503),
        Fault("status", status=429, retry_after=0.1),
        Fault("drop"),
        Fault("cut", after=2),
        Fault("garbage"),
        Fault("garbage", after=1),
        Fault("hang", seconds=1.5),
    ],
    ids=["503", "429", "dropped", "cut", "garbage", "garbage later", "hangs"],
)
def test_what_fails_is_asked_again_and_nothing_is_lost_or_doubled(
    here: BlendInGenerator, fault: Fault
) -> None:
    expected = here.generate(PROMPTS[0], max_new_tokens=25)
    with (
        FakeServer(model(*BASE), faults=every_third(fault)) as base,
        FakeServer(model(*GUIDE), faults=every_third(fault)) as guide,
    ):
        gen = pair(base.url, guide.url, timeout=60)
        for lm in (gen.base, gen.guide):  # shorter than a hang, now that they have been loaded
            assert lm._live.client.timeout.read == 60
            lm._live.client.timeout = httpx.Timeout(60, read=0.8)
        out = gen.generate(PROMPTS[0], max_new_tokens=25)
        same(out, expected)
        prompt = gen.base.encode_prompt(out.settings["base_prompt"])
        whole = prompt + out.token_ids
        for body in base.requests[1:]:  # each goes on from what was decided, token for token
            assert body["prompt"] == whole[: len(body["prompt"])] and len(body["prompt"]) >= len(
                prompt
            )


def test_a_refusal_is_told_with_the_url_and_not_repeated(
    servers: tuple[FakeServer, FakeServer],
) -> None:
    with FakeServer(
        model(*BASE), faults=lambda n: Fault("status", status=422) if n > 2 else None
    ) as base:
        gen = pair(base.url, servers[1].url)
        stream = gen.stream(PROMPTS[0], max_new_tokens=200, policy=Blend(threshold=0.9))
        with pytest.raises(ServerError, match=base.url) as refused:
            for _ in stream:
                pass
        assert stream.output.steps and "422" in (stream.output.error or "")
        assert refused.value.output is stream.output
        assert len(base.requests) == 4


def test_patience_ends_with_the_url_and_keeps_what_there_is(
    servers: tuple[FakeServer, FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = FakeServer(model(*BASE))
    with base:
        gen = pair(base.url, servers[1].url, patience=300)
        stream = gen.stream(PROMPTS[0], max_new_tokens=100, speculate="off")
        for _ in range(5):
            next(stream)
    run_out_sooner(monkeypatch, 300)
    began = time.monotonic()
    with pytest.raises(ServerError, match=f"{base.url}.*patience"):
        for _ in stream:
            pass
    assert 0.99 < time.monotonic() - began < 60
    assert len(stream.output.steps) >= 5 and stream.output.error


def test_a_server_that_is_started_again_goes_on_where_it_was(
    here: BlendInGenerator, servers: tuple[FakeServer, FakeServer]
) -> None:
    expected = here.generate(PROMPTS[3], max_new_tokens=30)
    with FakeServer(model(*BASE)) as base:
        stream = pair(base.url, servers[1].url).stream(PROMPTS[3], max_new_tokens=30)
        for _ in range(5):
            next(stream)
        base.stop()
        starter = threading.Timer(1.0, base.start)
        starter.start()
        for _ in stream:
            pass
        starter.join()
    same(stream.output, expected)


def test_one_row_fails_alone(servers: tuple[FakeServer, FakeServer]) -> None:
    prompts = ["short", "long " * 500, "short too"]
    with FakeServer(model(*BASE), max_model_len=300) as base:
        outs = pair(base.url, servers[1].url).generate(prompts, max_new_tokens=5, progress=False)
    assert [out.error is None for out in outs] == [True, False, True]
    assert "holds 299" in (outs[1].error or "")


def test_a_replica_that_dies_and_comes_back_changes_no_text(here: BlendInGenerator) -> None:
    prompts = [f"{PROMPTS[number % 4]} {number}" for number in range(30)]
    expected = here.generate(prompts, max_new_tokens=40)
    with ExitStack() as stack:
        bases = [stack.enter_context(FakeServer(model(*BASE), delay=0.01)) for _ in range(2)]
        guide = stack.enter_context(FakeServer(model(*GUIDE)))
        gen = pair(f"{bases[0].url},{bases[1].url}", guide.url, patience=300)
        dead, (replica, _) = threading.Event(), gen.base.replicas.all
        is_back = threading.Event()

        def wait_for_the_other(number: int) -> None:
            if dead.is_set():  # else it may have written all before the other one is back
                is_back.wait()
                until(lambda: replica.is_awake)

        bases[1].faults = wait_for_the_other
        before: list[int] = []

        def kill_and_restart() -> None:
            until(lambda: len(bases[0].requests) >= 30)
            dead.set()
            bases[0].stop()
            before.append(len(bases[0].requests))
            until(lambda: replica.failures > 0)
            bases[0].start()
            is_back.set()

        killer = threading.Thread(target=kill_and_restart)
        killer.start()
        outs = gen.generate(
            prompts, max_new_tokens=40, max_batch_size=30, speculate=3, progress=False
        )
        killer.join()
        for out, plain in zip(outs, expected, strict=True):
            assert out.error is None
            same(out, plain)
        assert len(bases[0].requests) > before[0]  # it is asked again once it is back


def test_a_sequence_stays_where_its_prefix_is_and_the_load_is_shared() -> None:
    prompts = [f"{number} {PROMPTS[number % 4]}" for number in range(12)]
    with ExitStack() as stack:
        bases = [stack.enter_context(FakeServer(model(*BASE))) for _ in range(3)]
        gen = pair(",".join(server.url for server in bases))
        starts = [
            gen.base.encode_prompt(out.settings["base_prompt"])
            for out in gen.generate(prompts, max_new_tokens=25, max_batch_size=12, progress=False)
        ]
        homes = []
        for start in starts:
            served = [
                any(body["prompt"][: len(start)] == start for body in server.requests)
                for server in bases
            ]
            assert served.count(True) == 1
            homes.append(served.index(True))
        assert [homes.count(place) for place in range(3)] == [4, 4, 4]


def test_requests_at_once_are_bounded() -> None:
    prompts = [f"{number} {PROMPTS[number % 4]}" for number in range(40)]
    with FakeServer(model(*BASE)) as base:
        gen = pair(base.url, None, max_connections=5)

        def wait_for_company(number: int) -> None:
            until(lambda: base.most_in_flight >= 5)
            time.sleep(0.05)  # for one too many

        base.faults = wait_for_company
        outs = gen.generate(
            prompts, max_new_tokens=5, max_batch_size=40, progress=False, speculate="off"
        )
        assert all(out.error is None for out in outs)
        assert base.most_in_flight == 5


class Held(FakeServer):
    """Writes one token, and then, once it is `held`, waits until the client is gone."""

    held = False

    def complete(self, ask: Any, wait: Callable[[float], None]) -> Iterator[Any]:
        pieces = super().complete(ask, wait)
        yield next(pieces)
        if self.held and ask.max_tokens > 1:
            wait(600)
        yield from pieces


def test_whoever_leaves_half_way_ends_the_requests(
    servers: tuple[FakeServer, FakeServer],
) -> None:
    with Held(model(*BASE)) as base:
        gen = pair(base.url, servers[1].url)
        base.held, before = True, base.generated
        stream = gen.stream(PROMPTS[0], max_new_tokens=500, policy=BaseOnly())
        next(stream)
        del stream
        until(lambda: base.aborted == 1)
        batch = gen.stream_batch(
            list(PROMPTS), max_new_tokens=[1, 500, 500, 500], policy=BaseOnly(), progress=False
        )
        next(batch)
        until(lambda: base.generated == before + 1 + len(PROMPTS))
        batch.close()
        until(lambda: base.aborted == 1 + len(PROMPTS) and base.in_flight == 0)
        assert base.generated == before + 1 + len(PROMPTS)


# -- what is refused -------------------------------------------------------------------------------


def test_a_key_goes_to_the_server_and_nowhere_else(
    servers: tuple[FakeServer, FakeServer],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with FakeServer(
        model(*BASE), api_key="s3cret-key", faults=lambda n: Fault("drop") if n == 1 else None
    ) as base:
        with pytest.raises(ServerError, match=f"{base.url}.*401.*BLENDIN_API_KEY"):
            pair(base.url, servers[1].url)
        monkeypatch.setenv("BLENDIN_BASE_API_KEY", "s3cret-key")
        with caplog.at_level(logging.DEBUG):
            out = pair(base.url, servers[1].url).generate(PROMPTS[0], max_new_tokens=8)
        assert base.headers[-1]["authorization"] == "Bearer s3cret-key"
        assert "authorization" not in servers[1].headers[-1]
        assert "s3cret" not in json.dumps(out.to_dict()) + caplog.text
        with pytest.raises(ValueError, match="user or a password") as refused:
            pair(base.url.replace("http://", "http://me:s3cret-key@"), None)
        assert "s3cret" not in str(refused.value)


def test_what_a_server_lacks_is_told_before_any_work(
    servers: tuple[FakeServer, FakeServer],
) -> None:
    with FakeServer(model(*BASE), max_logprobs=20) as few:
        with pytest.raises(ServerError, match=r"--max-logprobs 100.*top_logprobs"):
            pair(few.url, servers[1].url)
        pair(few.url, servers[1].url, top_logprobs=20).generate("x", max_new_tokens=3)
    with (
        FakeServer(model(*BASE), token_ids=False) as texts,
        pytest.raises(ServerError, match="token ids, as vLLM"),
    ):
        pair(texts.url, servers[1].url)
    with pytest.raises(ServerError, match=f"{servers[0].url} serves tiny, not other"):
        pair(f"{servers[0].url}#other")
    with pytest.raises(ValueError, match="other tokens"):
        BlendInGenerator(servers[0].url, model(*GUIDE), base_kwargs={"tokenizer": folder(GUIDE)})
    with pytest.raises(ValueError, match="no setting quantization_config"):
        pair(servers[0].url, quantization_config=None)
    with pytest.raises(ValueError, match="patience of the base is 0"):
        pair(servers[0].url, patience=0)
    with pytest.raises(ServerError, match="goes up to /v1"):
        pair(servers[0].url.removesuffix("/v1"))
    for wrong in ("http://", "https://host/v1?key=1", "http://one/v1,two/v1"):
        with pytest.raises(ValueError, match="no server's URL"):
            pair(wrong)


def test_a_server_that_is_away_is_told_of_at_once() -> None:
    with FakeServer(model(*BASE)) as base:
        url = base.url
    began = time.monotonic()
    with pytest.raises(ServerError, match=url):
        pair(url)
    assert time.monotonic() - began < 60  # of 600 s of patience


def test_guesses_that_need_a_local_model_are_refused(remote: BlendInGenerator) -> None:
    with pytest.raises(ValueError, match="use auto, off or a number"):
        remote.generate("x", speculate="lookup")


def test_the_servers_bound_is_the_contexts(
    here: BlendInGenerator, servers: tuple[FakeServer, FakeServer]
) -> None:
    with FakeServer(model(*BASE), max_model_len=60) as base:
        out = pair(base.url, servers[1].url).generate(PROMPTS[0], max_new_tokens=200)
    assert out.stop_reason == "length"
    prompt = here.base.encode_prompt(out.settings["base_prompt"])
    assert len(prompt) + len(out.token_ids) <= 60
    plain = here.generate(PROMPTS[0], max_new_tokens=len(out.steps))
    assert out.token_ids == plain.token_ids


# -- what else is built on it ----------------------------------------------------------------------


def test_scores_are_the_local_ones_where_all_is_listed(
    here: BlendInGenerator, servers: tuple[FakeServer, FakeServer]
) -> None:
    gen = pair(servers[0].url, servers[1].url, top_logprobs=EVERY)
    scores_agree(gen, here, atol=1e-3)


def test_a_pair_of_servers_is_diagnosed(tmp_path: Path) -> None:
    questions = tmp_path / "prompts.txt"
    questions.write_text("\n".join(PROMPTS[:2]), "utf-8")
    with (
        FakeServer(model(*BASE), root=folder(BASE)) as base,
        FakeServer(model(*GUIDE), root=folder(GUIDE)) as guide,
    ):
        command = [
            "diagnose", "--base", base.url, "--guide", guide.url, "--data", str(questions),
            "--max-new-tokens", "12", "--out", str(tmp_path / "out"),
        ]  # fmt: skip
        result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    told = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert "tiny" in json.dumps(told) and "as served" in json.dumps(told)


def test_the_command_line_takes_urls(
    here: BlendInGenerator, servers: tuple[FakeServer, FakeServer]
) -> None:
    command = [
        "generate", PROMPTS[0], "--base", servers[0].url, "--guide", f"{servers[1].url}#tiny",
        "--base-tokenizer", folder(BASE), "--guide-tokenizer", folder(GUIDE),
        "--top-logprobs", "50", "--max-new-tokens", "12", "--json",
    ]  # fmt: skip
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    plain = here.generate(PROMPTS[0], max_new_tokens=12, stop=["\nQuestion:"])
    assert told["token_ids"] == plain.token_ids
    wrong = CliRunner().invoke(app, [*command[:3], "http://127.0.0.1:9/v1", *command[4:]])
    assert wrong.exit_code == 2 and "127.0.0.1:9" in wrong.output
    assert "Traceback" not in wrong.output
