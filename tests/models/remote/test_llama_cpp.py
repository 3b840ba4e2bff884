"""A real llama.cpp server of the default guide's GGUF, where `pip install xllamacpp` was run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from blendin import BaseOnly, BlendInGenerator
from blendin.models import default_pair

pytestmark = [
    pytest.mark.slow,
    pytest.mark.pair,
    pytest.mark.skipif(find_spec("xllamacpp") is None, reason="xllamacpp is not installed"),
]

SERVE = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_parallel, params.n_ctx, params.port = 4, 8192, 0
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""
PROMPTS = ["Name three fruits.", "Schreibe ein Gedicht über Käse", "写一首关于春天的诗 🙂🙂🙂🙂"]
QUANTIZED = 0.1
"""How far probabilities may be apart: llama.cpp computes with 8-bit activations."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    gguf = default_pair._smollm2_gguf(None)  # type: ignore[arg-type]
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(gguf)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    try:
        yield f"{server.stdout.readline().strip()}/v1"
    finally:
        server.kill()


def test_decodes_and_scores_as_the_same_weights_here(url: str) -> None:
    name = default_pair.DEFAULT_GUIDE
    served = BlendInGenerator(url, name, dtype="float32", base_kwargs={"tokenizer": name})
    here = BlendInGenerator(name, name, dtype="float32")
    assert served.base.dialect.NAME == "llama.cpp"  # type: ignore[attr-defined]
    settings: dict[str, Any] = {"max_new_tokens": 24, "stop": ()}
    for prompt in PROMPTS:
        out, own = (gen.generate(prompt, **settings) for gen in (served, here))
        agreed = 0
        for ours, theirs in zip(out.steps, own.steps, strict=False):
            assert ours.base_top_prob == pytest.approx(theirs.base_top_prob, abs=QUANTIZED)
            if ours.token_ids != theirs.token_ids:
                break  # near a tie
            agreed += 1
        assert agreed == len(own.steps) or agreed > 0
        score, plain = (
            gen.score(prompt, " Äpfel, 苹果 🙂", policy=BaseOnly()) for gen in (served, here)
        )
        assert score.token_ids == plain.token_ids
        assert score.token_log_likelihoods == pytest.approx(plain.token_log_likelihoods, abs=0.6)
