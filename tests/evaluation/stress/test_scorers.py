"""Scorers of a pair and process reward models, on tiny random models of each kind."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from conftest import generator, tokenizer
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForTokenClassification

from blendin.evaluation.stress.chains import Chain, LeftOut, Step
from blendin.evaluation.stress.readers import Source, Sources
from blendin.evaluation.stress.reward_models import EXTRA, RewardModel
from blendin.evaluation.stress.run import kept, run
from blendin.evaluation.stress.scorers import Scored, pair_scorers
from blendin.evaluation.stress.store import ScoreStore, key_of
from blendin.evaluation.stress.suite import build
from blendin.policy import BaseOnly, Blend, GuideOnly

QUESTION = "How many clips did she sell in April and May?"
CHAINS = [
    ["In May she sold 48 / 2 = 24 clips.", "So she sold 48 + 24 = 72 clips."],
    ["So she sold 48 + 24 = 72 clips.", "It is 72.", "The answer is 72."],
]
BASE, GUIDE = ("llama", "byte-level", 0), ("llama", "sentencepiece", 1)


def saved(folder: Path, lm: Any, tok: Any) -> str:
    lm.save_pretrained(folder)
    tok.save_pretrained(folder)
    return str(folder)


def config(**more: Any) -> LlamaConfig:
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 600}
    return LlamaConfig(vocab_size=420, **size, **heads, **more)


@pytest.fixture(scope="module")
def token_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    lm = LlamaForTokenClassification(config(num_labels=2))
    return saved(tmp_path_factory.mktemp("token"), lm, tokenizer("byte-level"))


@pytest.fixture(scope="module")
def extra_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A body with the head of Qwen2.5-Math-PRM, under the name of a class that nobody has."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("extra")
    tok = generator_tokenizer()
    tok.add_special_tokens({"additional_special_tokens": [EXTRA]})
    body = LlamaForCausalLM(config()).model
    saved(folder, body, tok)
    state = {
        f"model.{name}": value for name, value in load_file(folder / "model.safetensors").items()
    }
    head = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    state |= {f"score.{name}": value for name, value in head.state_dict().items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    settings["architectures"] = ["LlamaForProcessRewardModel"]
    (folder / "config.json").write_text(json.dumps(settings))
    return str(folder)


def generator_tokenizer() -> Any:
    """One of its own: the shared ones are not changed."""
    from tiny import byte_level_tokenizer

    return byte_level_tokenizer()


@pytest.fixture(scope="module")
def plus_minus_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(2)
    tok = generator_tokenizer()
    tok.add_tokens(["ки"])
    return saved(tmp_path_factory.mktemp("signs"), LlamaForCausalLM(config()), tok)


@pytest.mark.parametrize("kind", ["token", "extra_0", "plus_minus"])
def test_each_style_is_told_apart_and_gives_each_step_a_probability(
    kind: str, token_model: str, extra_model: str, plus_minus_model: str
) -> None:
    folder = {"token": token_model, "extra_0": extra_model, "plus_minus": plus_minus_model}[kind]
    reward = RewardModel(folder)
    assert reward.style == kind
    together = reward(QUESTION, CHAINS)
    assert [len(scored.scores["PRM"]) for scored in together] == [2, 3]
    assert all(0 < value < 1 for scored in together for value in scored.scores["PRM"])
    alone = [reward(QUESTION, [steps])[0].scores["PRM"] for steps in CHAINS]
    for one, other in zip(together, alone, strict=True):  # whatever stands beside it
        assert one.scores["PRM"] == pytest.approx(other, abs=2e-6)
    first = reward(QUESTION, [CHAINS[0][:1]])[0].scores["PRM"]
    assert together[0].scores["PRM"][0] == pytest.approx(first[0], abs=2e-6)  # causal


def test_a_score_is_the_models_own_at_the_end_of_the_step(token_model: str) -> None:
    reward = RewardModel(token_model)
    lm = LlamaForTokenClassification.from_pretrained(token_model).eval()
    text = f"{QUESTION}\n{CHAINS[0][0]}\n{CHAINS[0][1]}\n"
    ids = torch.tensor([reward.tokenizer(text)["input_ids"]])
    newlines = [n for n, id in enumerate(ids[0].tolist()) if "\n" in reward.tokenizer.decode(id)]
    with torch.inference_mode():
        expected = lm(input_ids=ids).logits.float().softmax(-1)[0, newlines[1:], 1]
    assert reward(QUESTION, CHAINS[:1])[0].scores["PRM"] == pytest.approx(
        expected.tolist(), abs=2e-6
    )


def test_signs_are_read_at_the_tag(plus_minus_model: str) -> None:
    reward = RewardModel(plus_minus_model)
    tok, lm = reward.tokenizer, LlamaForCausalLM.from_pretrained(plus_minus_model).eval()
    text = f"{QUESTION} Step 1: {CHAINS[0][0]} ки\nStep 2: {CHAINS[0][1]} ки\n"
    ids = torch.tensor([tok(text)["input_ids"]])
    signs = [tok.convert_tokens_to_ids("+"), tok.convert_tokens_to_ids("-")]
    with torch.inference_mode():
        logits = lm(input_ids=ids).logits[0][ids[0] == tok.convert_tokens_to_ids("ки")]
    expected = logits[:, signs].float().softmax(-1)[:, 0].tolist()
    assert reward(QUESTION, CHAINS[:1])[0].scores["PRM"] == pytest.approx(expected, abs=2e-6)


def test_the_head_of_a_checkpoint_is_read_without_its_code(extra_model: str) -> None:
    reward = RewardModel(extra_model)
    body, state = reward.model, load_file(Path(extra_model) / "model.safetensors")
    layout = reward.layout(QUESTION, CHAINS[0])
    ids = torch.tensor([reward.tokenizer(layout.text, add_special_tokens=False)["input_ids"]])
    at = ids[0] == reward.tokenizer.convert_tokens_to_ids(EXTRA)
    assert int(at.sum()) == 2
    with torch.inference_mode():
        hidden = body(input_ids=ids).last_hidden_state[0][at]
        inner = torch.relu(hidden @ state["score.0.weight"].T + state["score.0.bias"])
        logits = inner @ state["score.2.weight"].T + state["score.2.bias"]
    expected = logits.softmax(-1)[:, 1].tolist()
    assert reward(QUESTION, CHAINS[:1])[0].scores["PRM"] == pytest.approx(expected, abs=2e-6)
    with pytest.raises(ValueError, match="reads as a tag"):
        reward(QUESTION, [[f"She sold {EXTRA} 72."]])


def test_what_is_no_reward_model_is_refused_by_what_to_change(
    tmp_path: Path, token_model: str
) -> None:
    with pytest.raises(ValueError, match="cannot be loaded"):
        RewardModel(str(tmp_path / "nothing"))
    lm = LlamaForCausalLM(config())
    plain = saved(tmp_path / "plain", lm, tokenizer("byte-level"))
    with pytest.raises(ValueError, match="--prm-style"):
        RewardModel(plain)
    with pytest.raises(ValueError, match="would be random"):
        RewardModel(plain, style="token")
    with pytest.raises(ValueError, match="no head"):
        RewardModel(plain, style="extra_0")
    with pytest.raises(ValueError, match="tokens and"):
        RewardModel(token_model)(QUESTION, [["She sold 72 clips."] * 100])


def test_a_pairs_steps_are_scored_by_the_tokens_of_the_step() -> None:
    gen = generator(BASE, GUIDE)
    policy = Blend(threshold=0.5)
    scorers = pair_scorers(gen, {"policy": policy}, ("base", "guide"), None)
    assert [scorer.names for scorer in scorers] == [("policy", "base"), ("guide",)]
    with_policy, of_guide = (scorer(QUESTION, CHAINS)[0].scores for scorer in scorers)
    text = " " + "\n".join(CHAINS[0])
    for name, other, values in (
        ("policy", policy, with_policy),
        ("base", BaseOnly(), with_policy),
        ("guide", GuideOnly(), of_guide),
    ):
        score = gen.score(QUESTION, text if name != "guide" else text[1:], policy=other)
        vocabulary = (gen.guide if name == "guide" else gen.base).vocabulary
        end, byte = len(CHAINS[0][0].encode()) + (name != "guide"), 0
        parts: list[list[float]] = [[], []]
        for id, value in zip(score.token_ids, score.token_log_likelihoods, strict=True):
            parts[byte > end].append(value)
            byte += len(vocabulary.tokens[id] or b"")
        expected = [math.exp(sum(part) / len(part)) for part in parts]
        assert values[name] == pytest.approx(expected, abs=2e-6)


def test_a_scored_token_tells_what_the_step_of_the_loop_would() -> None:
    gen, compared = generator(BASE, GUIDE), 0
    policy = Blend(threshold=0.5, top_k=None)
    for question in ("How many?", "Why?", "What is 2 + 2?", QUESTION):
        out = gen.generate(question, policy=policy, max_new_tokens=9, stop=(), speculate="off")
        score = gen.score(question, out.text or " ", policy=policy)
        steps = [step for step in out.steps if step.token_bytes]
        read = [gen.base.vocabulary.tokens[id] for id in score.token_ids]
        for token, step, own in zip(score.tokens, steps, read, strict=False):
            if own != step.token_bytes:  # the base spells it otherwise, and reads on otherwise
                break
            compared += token.intervened
            assert token.base_top_prob == pytest.approx(step.base_top_prob, abs=1e-6)
            assert token.intervened == step.intervened
            assert token.guide_top_prob == pytest.approx(step.guide_top_prob, abs=1e-6)
            assert token.alpha == pytest.approx(step.alpha, abs=1e-6)
            assert token.agreement == pytest.approx(step.agreement, abs=1e-6)
    assert compared > 3


def test_scores_are_kept_line_by_line_and_damaged_lines_are_made_again(tmp_path: Path) -> None:
    scorer = pair_scorers(generator(BASE, GUIDE), {"policy": Blend()}, ("base",), None)[0]
    store = ScoreStore(tmp_path)
    keys = [key_of(scorer, QUESTION, steps) for steps in CHAINS]
    made = scorer(QUESTION, CHAINS)
    with store.writing() as writer:
        for key, scored in zip(keys, made, strict=True):
            writer.add(key, scored)
        with pytest.raises(ValueError, match="another process"), ScoreStore(tmp_path).writing():
            pass
    again = ScoreStore(tmp_path)
    assert all(again[key].scores == scored.scores for key, scored in zip(keys, made, strict=True))
    assert list(again[keys[0]].trace) == list(made[0].trace)
    data = again.path.read_bytes()
    again.path.write_bytes(data[:-20])
    half = ScoreStore(tmp_path)
    assert keys[0] in half and keys[1] not in half
    with half.writing() as writer:
        writer.add(keys[1], made[1])
    whole = ScoreStore(tmp_path)
    assert keys[0] in whole and keys[1] in whole


def test_scores_of_other_weights_or_texts_are_not_taken() -> None:
    one, other = (
        pair_scorers(
            generator(BASE, ("llama", "sentencepiece", seed)), {"policy": Blend()}, (), None
        )
        for seed in (1, 2)
    )
    key = key_of(one[0], QUESTION, CHAINS[0])
    assert key != key_of(other[0], QUESTION, CHAINS[0])
    assert key != key_of(one[0], QUESTION, CHAINS[1])


class TooLong:
    """Takes chains of up to three steps."""

    names = ("made",)
    identity: ClassVar[dict[str, str]] = {}

    def __call__(self, question: str, chains: Sequence[Sequence[str]]) -> list[Scored]:
        if any(len(steps) > 3 for steps in chains):
            raise ValueError("the chain is too long")
        return [Scored({"made": [0.5] * len(steps)}) for steps in chains]


def test_a_chain_that_cannot_be_scored_is_left_out_and_counted(tmp_path: Path) -> None:
    chain = Chain(
        "1", QUESTION, tuple(Step(t, n) for n, t in enumerate(CHAINS[1])), None, None, False
    )
    suite = build(Sources("made", "prmbench", 1, [Source(chain, chain)], {}), seed=1)
    store, scorers = ScoreStore(tmp_path), [TooLong()]
    run(suite, scorers, store)
    left = kept(suite, scorers, ScoreStore(tmp_path))
    assert len(left.originals) == len(left.variants["markers", 1.0]) == 1
    assert not left.variants["inflation", 1.0]
    assert left.left_out["scoring"] == [LeftOut("1", "the chain is too long")]
