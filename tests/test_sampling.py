"""Sampling draws from the distribution that docs/contract.md names, and repeats itself by seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from conftest import generator, model
from transformers import RepetitionPenaltyLogitsProcessor, set_seed

from blendin import BaseOnly, Blend, BlendInGenerator, Nudge, Sampling

BASE, GUIDE = ("llama", "byte-level", 0), ("llama", "sentencepiece", 1)


@pytest.fixture
def gen() -> BlendInGenerator:
    return generator(BASE, GUIDE)


def draws(gen: BlendInGenerator, count: int, **settings: object) -> Counter[tuple[bytes, bool]]:
    outs = gen.generate(["a"] * count, max_new_tokens=1, do_sample=True, seed=0, **settings)
    return Counter((out.steps[0].token_bytes, out.steps[0].is_end) for out in outs)


def chi_square(
    seen: Counter[tuple[bytes, bool]], expected: dict[tuple[bytes, bool], float]
) -> float:
    """How unlikely the draws are: the upper tail of chi-square, by simulation."""
    symbols = [symbol for symbol in expected if expected[symbol] > 0]
    assert set(seen) <= set(symbols)
    probs = np.array([expected[symbol] for symbol in symbols])
    probs /= probs.sum()
    count = sum(seen.values())

    def statistic(counts: np.ndarray) -> np.ndarray:
        return (((counts - count * probs) ** 2) / (count * probs)).sum(-1)

    observed = statistic(np.array([seen[symbol] for symbol in symbols]))
    simulated = statistic(np.random.default_rng(0).multinomial(count, probs, size=2000))
    return float((simulated >= observed).mean())


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_blend_is_drawn_from_p_blend(gen: BlendInGenerator, temperature: float) -> None:
    policy = Blend(threshold=2, top_k=5)
    seen = draws(gen, 400, policy=policy, temperature=temperature)
    out = gen.generate("a", policy=policy, max_new_tokens=1)
    pair = gen.pair
    views = []
    for lm, text in ((gen.base, "base_prompt"), (gen.guide, "guide_prompt")):
        ids = torch.tensor([lm.encode_prompt(out.settings[text])])
        with torch.inference_mode():
            views.append(lm.model(ids).logits[:, -1])
    base, guide = pair.predict_base(views[0]), pair.predict_guide(views[1])
    probs = policy.mix(base, guide, greedy=False).dense()[0]
    tempered = (probs ** (1 / temperature)).tolist()
    expected = {
        (pair.alignment.data(symbol), symbol == pair.tables.end): prob
        for symbol, prob in enumerate(tempered)
        if prob > 0
    }
    assert chi_square(seen, expected) > 0.001


def test_a_wrong_distribution_would_be_noticed(gen: BlendInGenerator) -> None:
    seen = draws(gen, 400, policy=Blend(threshold=2, top_k=5))
    assert chi_square(seen, dict.fromkeys(seen, 1.0)) < 0.001


def test_nudge_draws_from_the_guide(gen: BlendInGenerator) -> None:
    seen = draws(gen, 300, policy=Nudge(threshold=2, unit="token"), sampling_top_k=4)
    blended = draws(gen, 300, policy=Blend(threshold=2, alpha=1, top_k=None), sampling_top_k=4)
    assert seen == blended
    assert len(seen) == 4


def test_a_seed_repeats_and_the_ith_prompt_draws_with_its_own(gen: BlendInGenerator) -> None:
    settings = {"do_sample": True, "max_new_tokens": 12}
    first, second = gen.generate(["a", "a"], seed=3, **settings)
    assert first.token_ids != second.token_ids
    assert first.token_ids == gen.generate("a", seed=3, **settings).token_ids
    assert second.token_ids == gen.generate("a", seed=4, **settings).token_ids


def test_a_repetition_penalty_alone_is_transformers_own(gen: BlendInGenerator) -> None:
    lm, tok = model(*BASE)
    out = gen.generate(
        "How many apples?", policy=BaseOnly(), repetition_penalty=3.0, max_new_tokens=30
    )
    plain = gen.generate("How many apples?", policy=BaseOnly(), max_new_tokens=30)
    ids = torch.tensor([tok(out.settings["base_prompt"])["input_ids"]])
    expected = lm.generate(ids, do_sample=False, repetition_penalty=3.0, max_new_tokens=30)
    assert out.token_ids == expected[0, ids.shape[1] :].tolist()
    assert out.token_ids != plain.token_ids


def test_a_range_and_line_feeds_of_the_penalty() -> None:
    tokens = [b"a", b"\n", b"b\n", None]
    ids = [0, 1, 2, 3, 1]
    settings = [({}, ids), ({"repetition_penalty_range": 3}, [2, 3, 1]),
                ({"penalize_nl": False}, [0, 2, 3]),
                ({"penalize_nl": False, "repetition_penalty_range": 1}, [])]  # fmt: skip
    for given, expected in settings:
        assert Sampling(repetition_penalty=2, **given).penalized(ids, tokens) == expected


def test_the_last_tokens_alone_are_penalized(
    gen: BlendInGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, tok = model(*BASE)
    settings = {"repetition_penalty": 5.0, "max_new_tokens": 30, "stop": ()}
    penalty, differ = RepetitionPenaltyLogitsProcessor(5.0), 0
    for prompt in ("a", "How many apples?", "def f("):
        out = gen.generate(prompt, policy=BaseOnly(), repetition_penalty_range=3, **settings)
        ids = tok(out.settings["base_prompt"])["input_ids"]
        for id in out.token_ids:
            with torch.inference_mode():
                logits = lm(torch.tensor([ids])).logits[:, -1].float()
            assert int(penalty(torch.tensor([ids[-3:]]), logits).argmax()) == id
            ids.append(id)
        whole = gen.generate(prompt, policy=BaseOnly(), **settings)
        differ += out.token_ids != whole.token_ids
    assert differ
    blend = Blend(threshold=2)
    plain = gen.generate("a", policy=blend, max_new_tokens=30, stop=()).token_ids
    assert gen.generate("a", policy=blend, **settings).token_ids != plain
    monkeypatch.setattr(Sampling, "penalized", lambda *_: [])
    assert gen.generate("a", policy=blend, **settings).token_ids == plain


def test_sampling_the_base_alone_has_transformers_distribution(gen: BlendInGenerator) -> None:
    lm, tok = model(*BASE)
    warped = {"temperature": 0.8, "top_p": 0.9, "min_p": 0.1}
    seen = draws(gen, 400, policy=BaseOnly(), **warped)
    ids = torch.tensor(
        [tok(gen.generate("a", max_new_tokens=1).settings["base_prompt"])["input_ids"]]
    )
    set_seed(0)
    theirs = lm.generate(ids.repeat(4000, 1), do_sample=True, max_new_tokens=1, top_k=0, **warped)[
        :, -1
    ]
    counts = Counter(
        (gen.base.vocabulary.tokens[id] or b"", id in gen.base.end_ids) for id in theirs.tolist()
    )
    assert chi_square(seen, {symbol: float(count) for symbol, count in counts.items()}) > 0.001


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"do_sample": True, "temperature": -0.5}, "temperature is -0.5"),
        ({"do_sample": True, "top_p": 0.0}, "top_p is 0.0"),
        ({"do_sample": True, "sampling_top_k": 0}, "sampling_top_k is 0"),
        ({"repetition_penalty": -1.0}, "repetition_penalty is -1.0"),
        ({"temperature": 0.5}, "add do_sample=True"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)  # type: ignore[arg-type]
