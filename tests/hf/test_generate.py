"""`generate(custom_generate=...)` writes what the contract says, as callable and as folder."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import generator, model, tokenizer
from reference import Reference
from tiny import end_token_ids, tiny_model
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    StoppingCriteria,
    TextIteratorStreamer,
)
from transformers.generation import StoppingCriteriaList, StopStringCriteria

from blendin import BaseOnly, Blend, GuideOnly, Nudge, hf
from blendin.hf.pairs import NAME

BASE, GUIDE = ("llama", "byte-level", 0), ("gemma3", "no-bytes", 1)
QUESTIONS = ["How many apples are there?", "Why?", "Wie groß ist der Garten? 😀"]
FORMS = ("callable", "aliases", "folder")


@pytest.fixture(scope="module", autouse=True)
def module_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """transformers copies a folder's code into a cache of its own."""
    from transformers import dynamic_module_utils as modules

    before, modules.HF_MODULES_CACHE = modules.HF_MODULES_CACHE, str(tmp_path_factory.mktemp("hf"))
    yield
    modules.HF_MODULES_CACHE = before


def arguments(form: str) -> dict[str, Any]:
    """The models, under the names of a form, and how `generate` is told of it."""
    (_, of_base), guide = model(*BASE), model(*GUIDE)
    if form == "callable":
        names, way = ("base_tokenizer", "guide", "guide_tokenizer"), hf.generate
    else:
        names, way = ("tokenizer", "assistant_model", "assistant_tokenizer"), hf.generate
    if form == "folder":
        way = str(hf.REPO)
    found = dict(zip(names, (of_base, *guide), strict=True)) | {"custom_generate": way}
    return found | ({"trust_remote_code": True} if form == "folder" else {})


def base_text(question: str) -> str:
    return f"Question: {question}\nAnswer:"


def padded(texts: list[str]) -> dict[str, torch.Tensor]:
    """Prompts of the base, padded on the left."""
    tok = tokenizer(BASE[1])
    rows = [tok.encode(text) for text in texts]
    width = max(map(len, rows))
    ids = [[tok.pad_token_id] * (width - len(row)) + row for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def written(question: str, **settings: Any) -> list[int]:
    """What the reference emits, in the base's ids."""
    reference = Reference(*model(*BASE), *model(*GUIDE))
    guide_prompt = generator(BASE, GUIDE).pair.prompts.guide(
        [{"role": "user", "content": question}]
    )
    settings = {"policy": "blend", "max_new_tokens": 24} | settings
    return reference.generate(base_text(question), str(guide_prompt), **settings).base_ids


class Recorder:
    """A streamer that keeps what it is given."""

    def __init__(self) -> None:
        self.columns: list[list[int]] = []
        self.ends = 0

    def put(self, value: torch.Tensor) -> None:
        assert not self.ends
        self.columns.append(value.tolist())

    def end(self) -> None:
        self.ends += 1


@pytest.mark.parametrize("form", ("aliases", "folder"))
def test_every_row_of_a_padded_batch_is_what_the_reference_writes(form: str) -> None:
    (base, tok), inputs = model(*BASE), padded(list(map(base_text, QUESTIONS)))
    streamer = Recorder()
    out = base.generate(
        **inputs, **arguments(form), messages=QUESTIONS, max_new_tokens=24, streamer=streamer,
        return_dict_in_generate=True,
    )  # fmt: skip
    width = inputs["input_ids"].shape[1]
    assert isinstance(out, hf.BlendInOutput)
    assert torch.equal(out.sequences[:, :width], inputs["input_ids"])
    expected = [written(question)[:24] for question in QUESTIONS]
    for row, ids in enumerate(expected):
        own = out.sequences[row, width:].tolist()
        assert own == ids + [tok.pad_token_id] * (len(own) - len(ids))
    assert out.sequences.shape[1] - width == max(map(len, expected))
    rates = [trace.intervention_rate for trace in out.trace]
    assert out.intervention_rate.tolist() == pytest.approx(rates) and any(0 < r < 1 for r in rates)
    assert streamer.columns[0] == inputs["input_ids"].tolist() and streamer.ends == 1
    assert torch.tensor(streamer.columns[1:]).T.tolist() == out.sequences[:, width:].tolist()


@pytest.mark.parametrize("form", FORMS)
def test_a_thread_that_reads_a_stream_comes_to_its_end(form: str) -> None:
    (base, tok), inputs = model(*BASE), padded([base_text("Why?")])
    streamer = TextIteratorStreamer(tok, skip_prompt=True, timeout=300)
    call = arguments(form) | inputs | {"messages": "Why?", "max_new_tokens": 8}
    worker = threading.Thread(target=base.generate, kwargs={**call, "streamer": streamer})
    worker.start()
    text = "".join(streamer)
    worker.join()
    assert text == tok.decode(base.generate(**call)[0, inputs["input_ids"].shape[1] :])


@pytest.mark.parametrize("form", FORMS)
def test_a_streamer_ends_where_the_call_fails(form: str) -> None:
    streamer = Recorder()
    with pytest.raises(ValueError, match="num_beams=2"):
        model(*BASE)[0].generate(
            **padded(["a"]), **arguments(form), messages="a", streamer=streamer, num_beams=2
        )
    assert streamer.ends == 1


class After(StoppingCriteria):
    """Ends the rows that have gained so many tokens; keeps what it was shown."""

    def __init__(self, width: int, counts: list[int]) -> None:
        self.width, self.counts, self.seen = width, counts, list[int]()

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.seen.append(input_ids.shape[1])
        length = input_ids.shape[1] - self.width
        return torch.tensor([length >= count for count in self.counts])


@pytest.mark.parametrize("form", ("callable", "folder"))
def test_criteria_see_every_column_and_end_rows_one_by_one(form: str) -> None:
    base, inputs = model(*BASE)[0], padded(list(map(base_text, QUESTIONS)))
    width, pad = inputs["input_ids"].shape[1], tokenizer(BASE[1]).pad_token_id
    after = After(width, [3, 9, 1])
    out = base.generate(
        **inputs, **arguments(form), messages=QUESTIONS, max_new_tokens=24,
        policy=Nudge(threshold=2), stopping_criteria=[after], return_dict_in_generate=True,
    )  # fmt: skip
    nudged = {"policy": "nudge-word", "threshold": 2.0}
    whole = [written(question, **nudged) for question in QUESTIONS]
    for row, count in enumerate(after.counts):
        ids = whole[row][:count]
        assert out.sequences[row, width:].tolist() == ids + [pad] * (9 - len(ids))
        steps = out.trace[row].steps
        assert "".join(step.text for step in steps) == out.trace[row].text
        kept = [id for step in steps for id in step.token_ids]
        assert kept[:count] == ids and len(kept) - len(steps[-1].token_ids) < count
        assert out.trace[row].stop_reason == ("end" if len(ids) < count else "stop")
    assert after.seen == [width + 1 + column for column in range(9)]
    assert any(len(step.token_ids) > 1 for trace in out.trace for step in trace.steps)


def test_max_length_counts_tokens_where_symbols_take_several() -> None:
    base, inputs = model(*BASE)[0], padded([base_text(QUESTIONS[2])])
    nudged = written(QUESTIONS[2], policy="nudge-word", threshold=2.0)
    width = inputs["input_ids"].shape[1]
    for most in (1, 5, 11):
        out = base.generate(
            **inputs, **arguments("callable"), messages=QUESTIONS[2], policy=Nudge(threshold=2),
            max_length=width + most, return_dict_in_generate=True,
        )  # fmt: skip
        assert out.sequences[0, width:].tolist() == nudged[:most]
        assert out.trace[0].stop_reason == "length"


@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 30},
        {"max_new_tokens": 30, "repetition_penalty": 1.3},
        {"max_length": 60},
        {"max_new_tokens": 30, "eos_token_id": [70, 303, *end_token_ids(tokenizer(BASE[1]))]},
        {"generation_config": GenerationConfig(max_new_tokens=5)},
    ],
)
def test_threshold_0_is_the_bases_own_generate_which_stays_as_it_was(
    settings: dict[str, Any],
) -> None:
    (base, tok), inputs = model(*BASE), padded(list(map(base_text, QUESTIONS)))
    own = base.generate(**inputs, **settings)
    call = arguments("callable") | {"messages": QUESTIONS, "policy": Blend(threshold=0)}
    assert torch.equal(base.generate(**inputs, **call, **settings), own)
    call = {"custom_generate": hf.generate, "policy": "base", "base_tokenizer": tok}
    assert torch.equal(base.generate(**inputs, **call, **settings), own)
    assert torch.equal(base.generate(**inputs, **settings), own)


def test_stop_strings_end_a_text_after_them_as_in_transformers() -> None:
    (base, tok), inputs = model(*BASE), padded([base_text("Why?")])
    width = inputs["input_ids"].shape[1]
    ids = written("Why?")
    stop = tok.decode(ids[6:8])
    assert len(stop) > 1
    call = arguments("folder") | inputs | {"messages": "Why?", "max_new_tokens": 24}
    whole = base.generate(**call, stop_strings=[stop])
    criteria = StoppingCriteriaList([StopStringCriteria(tok, [stop])])
    call = arguments("callable") | inputs | {"messages": "Why?", "max_new_tokens": 24}
    again = base.generate(**call, stopping_criteria=criteria)
    assert torch.equal(whole, again)
    assert whole[0, width:].tolist() == ids[: whole.shape[1] - width]
    assert whole.shape[1] - width <= 8 and stop in tok.decode(whole[0, width:])


def test_draws_are_the_generators_own() -> None:
    base, inputs = model(*BASE)[0], padded([base_text("Why?")])
    drawn = {"do_sample": True, "temperature": 0.8, "top_k": 30, "top_p": 0.9, "min_p": 0.05}
    call = arguments("callable") | inputs | {"messages": "Why?", "max_new_tokens": 16} | drawn
    torch.manual_seed(5)
    out = base.generate(**call, num_return_sequences=3)
    torch.manual_seed(5)
    seed = int(torch.randint(2**62, ()))
    gen, width = generator(BASE, GUIDE), inputs["input_ids"].shape[1]
    guide_prompt = gen.pair.prompts.guide([{"role": "user", "content": "Why?"}])
    prompts = {"base_prompt": [base_text("Why?")] * 3, "guide_prompt": [str(guide_prompt)] * 3}
    settings = {k: v for k, v in drawn.items() if k != "top_k"} | {"sampling_top_k": 30}
    expected = gen.generate(**prompts, **settings, seed=seed, max_new_tokens=16, stop=())
    rows = [output.token_ids[:16] for output in expected]
    pad = tokenizer(BASE[1]).pad_token_id
    for row, ids in enumerate(rows):
        own = out[row, width:].tolist()
        assert own == ids + [pad] * (len(own) - len(ids))
    assert len({tuple(row) for row in rows}) > 1


def test_the_guides_prompt_may_be_tokens_padded_ones_too() -> None:
    base, inputs = model(*BASE)[0], padded(list(map(base_text, QUESTIONS)))
    gen, tok = generator(BASE, GUIDE), tokenizer(GUIDE[1])
    prompts = [gen.pair.prompts.guide([{"role": "user", "content": q}]).ids for q in QUESTIONS]
    width = max(map(len, prompts))
    ids = [[tok.pad_token_id] * (width - len(row)) + list(row) for row in prompts]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in prompts]
    call = arguments("callable") | inputs | {"max_new_tokens": 12}
    expected = base.generate(**call, messages=QUESTIONS)
    whole = torch.tensor(ids)
    for given in (
        {"guide_input_ids": list(map(list, prompts))},
        {"guide_input_ids": whole, "guide_attention_mask": torch.tensor(mask)},
        {"guide_input_ids": {"input_ids": whole, "attention_mask": torch.tensor(mask)}},
    ):
        assert torch.equal(base.generate(**call, **given), expected)
    with pytest.raises(ValueError, match="pass guide_attention_mask="):
        base.generate(**call, guide_input_ids=whole)


REFUSED: dict[str, dict[str, Any]] = {
    "num_beams=": {"num_beams": 3},
    "output_scores=": {"output_scores": True, "return_dict_in_generate": True},
    "output_hidden_states=": {"output_hidden_states": True},
    "no_repeat_ngram_size=": {"no_repeat_ngram_size": 3},
    "min_new_tokens=": {"min_new_tokens": 3},
    "suppress_tokens=": {"suppress_tokens": [5]},
    "typical_p=": {"do_sample": True, "typical_p": 0.1},
    "prefix_allowed_tokens_fn=": {"prefix_allowed_tokens_fn": lambda row, ids: [1]},
    "logits_processor has a Anything": {"logits_processor": True},
    "synced_gpus=": {"synced_gpus": True},
    "past_key_values=|cache=": {"past_key_values": True},
    "no guide: pass guide=": {"guide": None},
    "nothing to read: pass messages=": {"messages": None},
    "give one": {"guide_input_ids": [[1, 2]]},
    "messages has 2 prompts and input_ids 1": {"messages": ["a", "b"]},
    "pad on the left": {"attention_mask": torch.tensor([[1] * 5 + [0] + [1] * 9])},
    "no such policy|polic": {"policy": "nugde"},
    "call the guide's own generate": {"policy": GuideOnly()},
    "assistant_model is another name": {"assistant_model": "other"},
}


class Anything:
    """A logits processor."""

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores


@pytest.mark.parametrize("form", ("callable", "folder"))
@pytest.mark.parametrize("message", REFUSED)
def test_what_has_no_part_in_a_blend_is_refused_by_name(message: str, form: str) -> None:
    from transformers import DynamicCache

    base = model(*BASE)[0]
    inputs = {"input_ids": padded([base_text("Why?")])["input_ids"]}
    given = dict(REFUSED[message])
    if "logits_processor" in given:
        given["logits_processor"] = [Anything()]
    if "past_key_values" in given:
        given["past_key_values"] = DynamicCache()
    names = arguments(form)
    if "guide" in given:
        names = {k: v for k, v in names.items() if "guide" not in k and "assistant" not in k}
    elif "assistant_model" in given:
        names["guide"] = model(*GUIDE)[0]
        given["assistant_model"] = tiny_model("llama", tokenizer(BASE[1]), 9)
        names.pop("assistant_tokenizer", None)
    call = names | inputs | {"messages": "Why?", "max_new_tokens": 4} | given
    with pytest.raises(ValueError, match=message):
        base.generate(**call)


def test_what_the_checkpoint_asks_for_says_where_to_take_it_back() -> None:
    base = tiny_model("llama", tokenizer(BASE[1]), 0)
    base.generation_config.no_repeat_ngram_size = 3
    with pytest.raises(ValueError, match=r"set model\.generation_config\.no_repeat_ngram_size"):
        base.generate(**padded(["a"]), **arguments("callable"), messages="a")


def test_end_tokens_that_are_left_out_are_told(caplog: pytest.LogCaptureFixture) -> None:
    base = model(*BASE)[0]
    own = sorted(base.generation_config.eos_token_id)
    base.generate(
        **padded(["a"]),
        **arguments("callable"),
        messages="a",
        max_new_tokens=1,
        eos_token_id=own[0],
    )
    assert f"eos_token_id={own[0]} leaves out {own[1]}" in caplog.text


def test_a_pair_is_made_once_and_goes_with_its_model() -> None:
    base = tiny_model("llama", tokenizer(BASE[1]), 0, suppress=False)
    call = arguments("callable") | padded(["a"]) | {"messages": "a", "max_new_tokens": 4}
    first = base.generate(**call)
    (made,) = vars(base)[NAME].values()
    assert torch.equal(base.generate(**call), first)
    assert list(vars(base)[NAME].values()) == [made]
    for other in (copy.deepcopy(base), pickle.loads(pickle.dumps(base))):
        assert not vars(other)[NAME]
        assert torch.equal(other.generate(**call), first)
    assert NAME not in base.state_dict() and NAME not in base.config.to_dict()


def test_a_model_in_training_is_read_without_dropout_and_stays_in_training() -> None:
    base = tiny_model("llama", tokenizer(BASE[1]), 0)
    call = arguments("callable") | padded(["a"]) | {"messages": "a", "max_new_tokens": 4}
    seen = []
    base.lm_head.register_forward_hook(lambda module, *_: seen.append(module.training))
    base.generate(**call)
    base.train()
    base.generate(**call)
    assert base.training and base.lm_head.training and not any(seen)


def test_an_error_of_the_decoding_has_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from conftest import fail_third_step

    fail_third_step(monkeypatch, 7, "a fault")
    streamer = Recorder()
    with pytest.raises(FloatingPointError, match="a fault") as failed:
        model(*BASE)[0].generate(
            **padded(["a", "b"]), **arguments("callable"), messages=["a", "b"], max_new_tokens=7,
            streamer=streamer,
        )  # fmt: skip
    assert [len(output.steps) for output in failed.value.outputs] == [2, 2]  # type: ignore[attr-defined]
    assert streamer.ends == 1


def test_a_written_folder_beside_weights_makes_generate_blend(tmp_path: Path) -> None:
    """As a repository of the Hub: `from_pretrained` takes its `generate` from there."""
    base, tok = model(*BASE)
    base.save_pretrained(tmp_path)
    tok.save_pretrained(tmp_path)
    hf.write_repo(tmp_path)
    with pytest.raises(ValueError, match="is there already"):
        hf.write_repo(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True).eval()
    inputs, guide = padded([base_text("Why?")]), model(*GUIDE)
    call = {"guide": guide[0], "guide_tokenizer": guide[1], "messages": "Why?"}
    config = GenerationConfig(max_new_tokens=8)
    out = loaded.generate(inputs["input_ids"], config, **call)  # its tokenizer by its name
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    call |= {"custom_generate": hf.generate, "base_tokenizer": tok}
    assert torch.equal(out, plain.generate(**inputs, **call, max_new_tokens=8))


def test_a_policy_that_asks_no_guide_needs_none() -> None:
    (base, tok), inputs = model(*BASE), padded([base_text("Why?")])
    call = inputs | {"custom_generate": hf.generate, "base_tokenizer": tok, "max_new_tokens": 6}
    out = base.generate(**call, policy=BaseOnly(), return_dict_in_generate=True)
    assert out.intervention_rate.tolist() == [0.0] and len(out.trace[0].steps) <= 6
