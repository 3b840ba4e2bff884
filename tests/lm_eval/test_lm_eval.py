"""BlendIn as a model of lm-evaluation-harness, on tiny models saved to folders and local tasks."""

from __future__ import annotations

import gc
import json
import logging
import shutil
import subprocess
import sys
import threading
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import generator, model, tokenizer
from serving import until
from tiny import tiny_model
from typer.testing import CliRunner

# Of its own: this folder has the harness' name, and stands in for it where it is missing.
pytest.importorskip(
    "lm_eval.api", reason="lm_eval is not installed: pip install 'blendin[lm-eval]'"
)

import lm_eval.evaluator
import lm_eval.tasks
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook, CachingLM, hash_args
from lm_eval.api.registry import get_model, model_registry
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from sqlitedict import SqliteDict, SqliteMultithread
from transformers import AutoModelForCausalLM

from blendin import BaseOnly, Blend, BlendInGenerator, Nudge
from blendin.cli.app import app
from blendin.evaluation.runs import benchmark
from blendin.evaluation.runs.folder import RunFolder
from blendin.evaluation.tasks.registry import load
from blendin.evaluation.tasks.truthfulqa import mc2, primed
from blendin.lm_eval.harness import generation_settings
from blendin.lm_eval.model import BlendInLM, normalize_gen_kwargs
from blendin.prompts import guide_text

DOCS = [
    {"q": "How many apples are there?", "choices": ["There are 12.", "None"], "gold": 0},
    {"q": "Is Paris in France?", "choices": ["no", "yes, it is", "Berlin"], "gold": 1},
    {"q": "What is 48 / 2?", "choices": ["24", "72 😀"], "gold": 0},
]
COMMON = """
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}, train: {data}}}
  cache_dir: {cache}
test_split: test
fewshot_split: train
doc_to_text: "Question: {{{{q}}}}\\nAnswer:"
"""
GENERATE = """
task: tiny_generate
output_type: generate_until
doc_to_target: "{{{{choices[gold]}}}}"
generation_kwargs: {{until: ["e", "\\n\\n"], max_gen_toks: 12, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""
CHOOSE = """
task: tiny_choose
output_type: multiple_choice
doc_to_choice: choices
doc_to_target: gold
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A tiny pair with two tokenizers, the base's without BOS; the base is often unsure."""
    found = {}
    for seed, (role, kind) in enumerate((("base", "byte-level"), ("guide", "sentencepiece"))):
        found[role] = str(tmp_path_factory.mktemp(role))
        tok = tokenizer(kind)
        tiny_model("llama", tok, seed, sharpness=2.2, suppress=False).save_pretrained(found[role])
        tok.save_pretrained(found[role])
    return found


@pytest.fixture(scope="module")
def gen(folders: dict[str, str]) -> BlendInGenerator:
    return BlendInGenerator(**folders)


@pytest.fixture(scope="module")
def lm(folders: dict[str, str]) -> BlendInLM:
    return BlendInLM(**folders)


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder of task files and their data, all local."""
    data = tmp_path / "data.json"
    data.write_text("".join(json.dumps(doc) + "\n" for doc in DOCS), "utf-8")
    for name, text in (("generate", GENERATE), ("choose", CHOOSE)):
        filled = (text + COMMON).format(data=data, cache=tmp_path / "cache")
        (tmp_path / f"{name}.yaml").write_text(filled, "utf-8")
    return tmp_path


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the harness' 13,000 own task files and its report on the machine: 15 seconds."""
    plain = TaskManager

    def local(**arguments: Any) -> TaskManager:
        return plain(**arguments, include_defaults=False)

    monkeypatch.setattr(logging.getLogger("lm_eval"), "propagate", True)  # its CLI says False
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", local)
    monkeypatch.setattr(lm_eval.evaluator, "add_env_info", lambda storage: None)


def ask(method: str, *arguments: Any) -> list[Instance]:
    return [
        Instance(request_type=method, doc={}, arguments=each, idx=i)  # type: ignore[arg-type]
        for i, each in enumerate(arguments)
    ]


def prompts(gen: BlendInGenerator, context: str) -> dict[str, str]:
    """What a plain context is to be for both."""
    turn = [{"role": "user", "content": context}]
    return {"base_prompt": context, "guide_prompt": guide_text(turn, gen.guide.tokenizer)}


def expected(gen: BlendInGenerator, **settings: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """What the generator gives for the documents: texts, likelihoods, what the harness is given."""
    contexts = [f"Question: {doc['q']}\nAnswer:" for doc in DOCS]
    outs = [
        gen.generate(**prompts(gen, c), max_new_tokens=12, stop=["e", "\n\n"], **settings)
        for c in contexts
    ]
    scores = [
        [gen.score(**prompts(gen, c), text=f" {choice}", **settings) for choice in doc["choices"]]
        for c, doc in zip(contexts, DOCS, strict=True)
    ]
    return outs, scores, contexts


def check(results: dict[str, Any], samples: dict[str, Any], outs: Any, scores: Any) -> None:
    """Answers, metrics and intervention rates of a run over both tasks."""
    generated, chosen = samples["tiny_generate"], samples["tiny_choose"]
    assert [each["resps"][0][0] for each in generated] == [out.text for out in outs]
    for each, row in zip(chosen, scores, strict=True):
        for (told,), score in zip(each["resps"], row, strict=True):
            value, is_greedy = told
            assert float(value) == pytest.approx(score.log_likelihood, abs=1e-9)
            assert str(is_greedy) == str(score.is_greedy)
    best = [max(range(len(row)), key=lambda i, row=row: row[i].log_likelihood) for row in scores]
    accuracy = sum(i == doc["gold"] for i, doc in zip(best, DOCS, strict=True)) / len(DOCS)
    assert results["results"]["tiny_choose"]["acc,none"] == accuracy
    config, flat = results["config"], [score for row in scores for score in row]
    assert config["decoded_tokens"] == sum(len(out.steps) for out in outs)
    assert 0 < config["decoded_intervention_rate"] < 1
    assert config["decoded_intervention_rate"] == pytest.approx(
        sum(out.interventions for out in outs) / config["decoded_tokens"]
    )
    assert config["scored_tokens"] == sum(len(score.token_ids) for score in flat)
    assert config["scored_intervention_rate"] == pytest.approx(
        sum(score.interventions for score in flat) / config["scored_tokens"]
    )


def test_a_run_in_code_gives_what_the_generator_gives(
    folders: dict[str, str],
    gen: BlendInGenerator,
    tasks: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="lm_eval")
    results = lm_eval.evaluator.simple_evaluate(
        model="blendin",
        model_args=f"base={folders['base']},guide={folders['guide']},threshold=0.5,alpha=0.25",
        tasks=["tiny_generate", "tiny_choose"],
        task_manager=lm_eval.tasks.TaskManager(include_path=str(tasks)),
        bootstrap_iters=0,
    )
    outs, scores, contexts = expected(gen, policy=Blend(threshold=0.5, alpha=0.25))
    check(results, results["samples"], outs, scores)
    assert caplog.text.count("intervention rate") == 2
    assert [each["arguments"][0][0] for each in results["samples"]["tiny_generate"]] == contexts
    assert results["config"]["guide"] == folders["guide"]
    assert results["config"]["policy"] == {
        "name": "Blend", "threshold": 0.5, "agreement_bonus": 0.1, "top_k": 100, "alpha": 0.25
    }  # fmt: skip


def test_a_run_on_the_command_line_gives_what_the_generator_gives(
    folders: dict[str, str], gen: BlendInGenerator, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    arguments = (
        f"lm-eval run --model blendin --model_args base={folders['base']} guide={folders['guide']} "
        f"policy=nudge --tasks tiny_generate,tiny_choose --include_path {tasks} "
        f"--log_samples --output_path {tasks / 'out'} --batch_size auto --max_batch_size 2"
    )
    result = CliRunner().invoke(app, arguments.split(), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "|tiny_choose" in result.stdout
    (written,) = (tasks / "out").rglob("results_*.json")
    samples = {
        name: [
            json.loads(line)
            for line in next((tasks / "out").rglob(f"samples_{name}_*")).read_text().splitlines()
        ]
        for name in ("tiny_generate", "tiny_choose")
    }
    outs, scores, _ = expected(gen, policy=Nudge())
    check(json.loads(written.read_text()), samples, outs, scores)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]])
def test_help_is_the_harness_own(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    result = CliRunner().invoke(app, ["lm-eval", *arguments])
    assert result.exit_code == 0
    assert result.stdout.startswith("usage: lm-eval")


def test_the_harness_models_stay_beside_ours_and_blendin_does_without_the_harness() -> None:
    assert get_model("blendin") is BlendInLM
    assert "hf" in model_registry
    code = "import sys, blendin, blendin.cli; print('lm_eval' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_every_request_has_its_own_settings_and_its_place(
    lm: BlendInLM, gen: BlendInGenerator
) -> None:
    rows = [
        ("One", {"until": "e", "max_gen_toks": 30}),
        ("Two, and more of it", {"until": ["a", ""], "max_new_tokens": 3, "temperature": 0.0}),
        ("Three", {"repetition_penalty": 1.5, "max_gen_toks": 9, "do_sample": False, "top_p": 0.5}),
    ]
    texts = lm.generate_until(ask("generate_until", *rows), disable_tqdm=True)
    settings = [
        {"stop": "e", "max_new_tokens": 30},
        {"stop": "a", "max_new_tokens": 3},
        {"repetition_penalty": 1.5, "max_new_tokens": 9},
    ]
    alone = [
        gen.generate(**prompts(gen, context), **own).text
        for (context, _), own in zip(rows, settings, strict=True)
    ]
    assert texts == alone


def test_draws_follow_the_harness_seed_and_differ_between_repeats(lm: BlendInLM) -> None:
    rows = [("Once", {"do_sample": True, "temperature": 1.2, "max_gen_toks": 12})] * 3
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(lm.generate_until(ask("generate_until", *rows), disable_tqdm=True))
    assert runs[0] == runs[1] != runs[2]
    assert len(set(runs[0])) == 3


@pytest.mark.parametrize(
    ("given", "drawn"),
    [
        ({}, False),
        ({"do_sample": True}, True),
        ({"temperature": 0.7}, True),
        ({"do_sample": True, "temperature": 0}, False),
        ({"do_sample": False, "temperature": 0.7, "top_k": 5}, False),
    ],
)
def test_temperature_zero_or_no_sampling_is_greedy(given: dict[str, Any], drawn: bool) -> None:
    settings = generation_settings(normalize_gen_kwargs(given, 256))
    assert settings["do_sample"] is drawn
    assert settings["temperature"] == (given.get("temperature", 1.0) if drawn else 1.0)
    assert settings["max_new_tokens"] == 256


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"do_sample": True, "top_p": 0}, "top_p is 0"),
        ({"do_sample": True, "top_p": "0.0"}, "top_p is 0"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
    ],
)
def test_a_zero_out_of_range_is_refused_and_not_taken_for_missing(
    lm: BlendInLM, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        lm.generate_until(ask("generate_until", ("One", given)), disable_tqdm=True)


def test_a_default_length_of_zero_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ValueError, match="max_gen_toks is 0"):
        BlendInLM("./absent", "./absent", max_gen_toks="0")


def test_a_named_pair_is_the_pair_of_its_base_and_guide(
    folders: dict[str, str],
    gen: BlendInGenerator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "blendin.toml").write_text(
        f"[pairs.tiny]\nbase = {folders['base']!r}\nguide = {folders['guide']!r}\n"
        f"dtype = 'float64'\nguide_tokenizer = {folders['base']!r}\n"
    )
    monkeypatch.setenv("BLENDIN_CONFIG", str(tmp_path / "blendin.toml"))
    named = BlendInLM.create_from_arg_string("pair=tiny,policy=base").gen
    assert named.base.identity | {"weights": 0} == gen.base.identity | {"weights": 0}
    assert (named.base.name, named.guide.name) == (folders["base"], folders["guide"])
    assert named.base.precision == named.guide.precision == "float64"
    assert named.guide.tokenizer.get_vocab() == gen.base.tokenizer.get_vocab()


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        ("base=gpt2", "its own base"),
        ("dtype=auto", "its own dtype"),
        ("device_map=cpu", "its own device_map"),
        ("guide=here", r"base_verify.*no effect"),
        ("pair=smal", r"no pair is called 'smal'.*small"),
    ],
)
def test_a_named_pair_and_what_contradicts_it_are_refused_before_anything_is_loaded(
    beside: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "blendin.toml").write_text(
        "[pairs.small]\nbase = 'nowhere'\ndtype = 'float32'\ndevice_map = 'auto'\n"
        "base_verify = 'off'\n"
    )
    monkeypatch.setenv("BLENDIN_CONFIG", str(tmp_path / "blendin.toml"))
    given = beside if beside.startswith("pair=") else f"pair=small,{beside}"
    with pytest.raises(ValueError, match=message):
        BlendInLM.create_from_arg_string(given)


def test_white_space_at_the_end_of_a_context_is_scored_with_the_text(
    lm: BlendInLM, gen: BlendInGenerator
) -> None:
    told = lm.loglikelihood(
        ask("loglikelihood", ("Q: How?\nA:  ", "Yes"), ("Q: How?\nA:", "  Yes")), disable_tqdm=True
    )
    score = gen.score(**prompts(gen, "Q: How?\nA:"), text="  Yes")
    assert told == [(score.log_likelihood, score.is_greedy)] * 2


def test_truthfulqa_after_the_primer_is_what_the_harness_asks(
    lm: BlendInLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = {"Nothing": 1, "You wait": 1, "Bad luck": 0}
    row = {"question": "What happens?", "mc1_targets": {"You wait": 1, "Bad luck": 0}}
    data = tmp_path / "truthfulqa_mc.json"
    data.write_text(json.dumps([row | {"mc2_targets": targets}]))
    task = load("truthfulqa", tmp_path, primer=True)
    run = RunFolder(tmp_path / "run", benchmark.config(lm.gen, task))
    arms = {"base": BaseOnly(), "blend": Blend(threshold=0.9)}
    benchmark.run(lm.gen, task, arms, run, progress=False)
    for name, policy in arms.items():
        monkeypatch.setattr(lm.gen, "policy", policy)
        requests = ask(
            "loglikelihood", *((primed("What happens?"), f" {text}") for text in targets)
        )
        likelihoods = [told for told, _ in lm.loglikelihood(requests, disable_tqdm=True)]
        metrics = run.records(name)["0"].metrics
        assert metrics["MC2"] == pytest.approx(mc2(likelihoods, [True, True, False]), abs=1e-9)
        assert metrics["MC1"] == (likelihoods[1] > likelihoods[2])


def test_no_context_is_each_models_first_token(lm: BlendInLM, gen: BlendInGenerator) -> None:
    first = {"base_prompt": "<|end|>", "guide_prompt": "<bos>"}
    assert gen.base.encode_prompt("<|end|>") == [gen.base.tokenizer.eos_token_id]
    assert gen.guide.encode_prompt("<bos>") == [gen.guide.tokenizer.bos_token_id]
    score = gen.score(**first, text="The fox.")
    (told,) = lm.loglikelihood(ask("loglikelihood", ("", "The fox.")), disable_tqdm=True)
    assert told == (score.log_likelihood, score.is_greedy)
    rolled = lm.loglikelihood_rolling(ask("rolling", ("The fox.",)), disable_tqdm=True)
    assert rolled == [score.log_likelihood]


def test_what_a_context_spells_is_text(lm: BlendInLM, gen: BlendInGenerator) -> None:
    context = "Say <|end|> now"
    (told,) = lm.loglikelihood(ask("loglikelihood", (context, " so")), disable_tqdm=True)
    rendered = gen.pair.prompts
    turn = [{"role": "user", "content": context}]
    both = {"base_prompt": rendered.base_text(context), "guide_prompt": rendered.guide(turn)}
    assert gen.base.tokenizer.eos_token_id not in both["base_prompt"].ids
    assert told[0] == gen.score(**both, text=" so").log_likelihood
    assert told[0] != gen.score(**prompts(gen, context), text=" so").log_likelihood


def test_messages_are_read_as_the_generator_reads_them(
    lm: BlendInLM, gen: BlendInGenerator
) -> None:
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How?"},
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": "And why?"},
    ]
    context = lm.apply_chat_template(chat)
    settings = {"max_gen_toks": 10, "until": ["zz"]}
    (text,) = lm.generate_until(ask("generate_until", (context, settings)), disable_tqdm=True)
    assert text == gen.generate(chat, max_new_tokens=10).text
    told = lm.loglikelihood(
        ask("loglikelihood", (context, "Because"), (context, " Because")), disable_tqdm=True
    )
    assert told == [(gen.score(chat, " Because").log_likelihood, False)] * 2


def test_a_begun_answer_is_at_the_end_of_both_prompts(lm: BlendInLM, gen: BlendInGenerator) -> None:
    chat = [{"role": "user", "content": "Why?"}]
    begun = {"role": "assistant", "content": "The best answer is"}
    context = lm.apply_chat_template([*chat, begun], add_generation_prompt=False)
    both = {
        "base_prompt": "Question: Why?\nAnswer: The best answer is",
        "guide_prompt": guide_text(chat, gen.guide.tokenizer) + "The best answer is",
    }
    settings = {"max_gen_toks": 10, "until": ["zz"]}
    (text,) = lm.generate_until(ask("generate_until", (context, settings)), disable_tqdm=True)
    assert text == gen.generate(**both, max_new_tokens=10).text
    (told,) = lm.loglikelihood(ask("loglikelihood", (context, " yes")), disable_tqdm=True)
    assert told[0] == gen.score(**both, text=" yes").log_likelihood


@pytest.mark.parametrize("multiturn", [True, False])
def test_few_shot_messages_of_a_task_reach_the_models(
    lm: BlendInLM, gen: BlendInGenerator, tasks: Path, multiturn: bool
) -> None:
    manager = lm_eval.tasks.TaskManager(include_path=str(tasks))
    loaded = manager.load(["tiny_choose"])
    loaded["tasks"]["tiny_choose"].set_config(key="num_fewshot", value=1)
    results = lm_eval.evaluator.evaluate(
        lm,
        loaded,
        bootstrap_iters=0,
        system_instruction="Be brief.",
        apply_chat_template=True,
        fewshot_as_multiturn=multiturn,
    )
    for sample in results["samples"]["tiny_choose"]:
        (chat,) = json.loads(sample["arguments"][0][0]).values()
        roles = ["user", "assistant"] * multiturn + ["user"]
        assert [message["role"] for message in chat] == ["system", *roles]
        for (_, choice), (told,) in zip(sample["arguments"], sample["resps"], strict=True):
            assert told[0] == pytest.approx(gen.score(chat, f" {choice}").log_likelihood, abs=1e-9)


def test_a_chat_that_a_task_has_changed_is_refused(lm: BlendInLM) -> None:
    changed = lm.apply_chat_template([{"role": "user", "content": "x"}]) + " more"
    with pytest.raises(ValueError, match="run it without --apply_chat_template"):
        lm.loglikelihood(ask("loglikelihood", (changed, "y")))


def test_answers_enter_the_harness_cache_and_come_from_it(
    folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = BlendInLM(**folders)
    cached = CachingLM(lm, str(tmp_path / "cache.db"))
    good, bad = ("One", {"max_gen_toks": 4}), ("<bad>", {"max_gen_toks": 4})
    render = type(lm.gen.base).encode_prompt
    monkeypatch.setattr(
        lm.gen.base,
        "encode_prompt",
        lambda text: [10**6] if text == "<bad>" else render(lm.gen.base, text),
    )
    with pytest.raises(ValueError, match=r"1 of 2 requests failed, the first of them number 0: "):
        cached.generate_until(ask("generate_until", bad, good))
    decoded, scored = lm.decoded.tokens, ("One", " two")
    (text,) = cached.generate_until(ask("generate_until", good))
    assert lm.decoded.tokens == decoded > 0
    assert [text] == lm.generate_until(ask("generate_until", good))
    told = lm.loglikelihood(ask("loglikelihood", scored))
    rolled = lm.loglikelihood_rolling(ask("loglikelihood_rolling", ("Two",)))
    before = lm.scored.tokens
    assert cached.loglikelihood(ask("loglikelihood", scored)) == told
    assert cached.loglikelihood_rolling(ask("loglikelihood_rolling", ("Two",))) == rolled
    assert lm.scored.tokens == before


OTHERS: dict[str, Any] = {
    "policy": {"policy": "base"},
    "a setting of the policy": {"threshold": 0.5},
    "weights": {"base": "model.safetensors"},
    "a template": {"guide": "chat_template.jinja"},
    "dtype": {"dtype": "bfloat16"},
    "the length of answers": {"max_gen_toks": 7},
    "what a template is told": {"chat_template_kwargs": {"x": 1}},
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=[*OTHERS])
def test_the_harness_cache_hands_no_answer_to_another(
    change: dict[str, Any], folders: dict[str, str], tmp_path: Path
) -> None:
    for role, file in (("base", "model.safetensors"), ("guide", "chat_template.jinja")):
        if change.get(role) == file:
            shutil.copytree(folders[role], tmp_path / role)
            data = (tmp_path / role / file).read_bytes()
            is_text = file.endswith("jinja")
            (tmp_path / role / file).write_bytes(data + b"{# #}" if is_text else data[:-2] + b" ?")
            change = {role: str(tmp_path / role)}
    request, db = ask("loglikelihood", ("One", " two")), str(tmp_path / "cache.db")
    first = CachingLM(BlendInLM(**folders), db)
    told = first.loglikelihood(request)
    first.dbdict.close()
    for given, scores in ((change, True), ({}, False)):
        lm = BlendInLM(**folders | given)
        cached = CachingLM(lm, db)
        answers = cached.loglikelihood(request)
        assert (lm.scored.tokens > 0) == scores
        assert scores or answers == told
        cached.dbdict.close()


def cache_threads() -> set[threading.Thread]:
    """Each writes for one cache, later than it is told, and ends with it."""
    return {each for each in threading.enumerate() if isinstance(each, SqliteMultithread)}


def test_runs_with_one_cache_have_each_their_own_answers(
    folders: dict[str, str], gen: BlendInGenerator, tasks: Path
) -> None:
    others = cache_threads()
    for policy, is_first in (("base", True), ("blend", True), ("base", False)):
        results = lm_eval.evaluator.simple_evaluate(
            model="blendin",
            model_args=f"base={folders['base']},guide={folders['guide']},policy={policy}",
            tasks=["tiny_choose"],
            task_manager=lm_eval.tasks.TaskManager(include_path=str(tasks)),
            use_cache=str(tasks / "cache"),
            bootstrap_iters=0,
        )
        _, scores, _ = expected(gen, policy=policy)
        told = [row[0][0] for each in results["samples"]["tiny_choose"] for row in each["resps"]]
        assert told == pytest.approx([each.log_likelihood for row in scores for each in row])
        assert (results["config"]["scored_tokens"] > 0) == is_first
        until(lambda: gc.collect() >= 0 and cache_threads() <= others)  # all is written


def test_answers_of_nobody_are_not_used(
    lm: BlendInLM, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    request = ask("loglikelihood", ("One", " two"))
    with SqliteDict(str(tmp_path / "cache.db"), autocommit=True) as old:
        old[hash_args("loglikelihood", ("One", " two"))] = (1.0, True)
    assert CachingLM(lm, str(tmp_path / "cache.db")).loglikelihood(request)[0][0] < 0
    assert "do not say which model gave them" in caplog.text
    with pytest.raises(ValueError, match="leave --use_cache out"):
        lm.set_cache_hook(CacheHook(SimpleNamespace(dbdict={})))  # type: ignore[arg-type]
    lm.set_cache_hook(CacheHook(None))


# -- what is too long ------------------------------------------------------------------------------

WORDS = "The quick fox has 48 apples, 72 clips and no pears at all. "


@pytest.fixture
def short(folders: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A harness model of the base alone whose context holds 40 tokens, and the harness' own."""
    ours = BlendInLM(**folders, policy="base", dtype="float64")
    monkeypatch.setattr(ours.gen.base, "max_length", 40)
    loaded = AutoModelForCausalLM.from_pretrained(folders["base"], dtype=torch.float64)
    theirs = HFLM(loaded, tokenizer=ours.gen.base.tokenizer, max_length=40, batch_size=1,
                  device="cpu")  # fmt: skip
    return ours, theirs


@pytest.mark.parametrize(
    ("context", "text"),
    [
        ("How?", " Well."),
        (WORDS * 5, " Well."),
        (WORDS * 5, f" {WORDS}"[:60]),
        ("", " Well."),
        ("", f" {WORDS}"[:60]),
        (WORDS, " W"),
    ],
)
def test_contexts_are_cut_as_the_harness_cuts_them(short: Any, context: str, text: str) -> None:
    request = ask("loglikelihood", (context, text))
    (ours,), (theirs,) = (lm.loglikelihood(request, disable_tqdm=True) for lm in short)
    assert ours == (pytest.approx(theirs[0], abs=1e-4), theirs[1])
    length = len(short[0].gen.base.encode_prompt(context + text)) if context else 0
    assert short[0].get_model_info()["truncated_base_contexts"] == int(length > 41)


@pytest.mark.parametrize("repeats", [1, 2, 3, 9])
def test_long_texts_are_scored_in_the_harness_windows(short: Any, repeats: int) -> None:
    request = ask("loglikelihood_rolling", ((WORDS * repeats).strip(),))
    (ours,), (theirs,) = (lm.loglikelihood_rolling(request, disable_tqdm=True) for lm in short)
    assert ours == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("context", ["How?", WORDS * 5])
def test_answers_follow_the_end_of_a_context_that_is_too_long(short: Any, context: str) -> None:
    request = ask("generate_until", (context, {"until": ["zz"], "max_gen_toks": 12}))
    (ours,), (theirs,) = (lm.generate_until(request, disable_tqdm=True) for lm in short)
    assert ours == theirs


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": WORDS * 3},
    {"role": "assistant", "content": WORDS * 3},
    {"role": "user", "content": f"{WORDS * 3}And why?"},
]


@pytest.mark.parametrize("policy", ["blend", "guide", "nudge"])
@pytest.mark.parametrize("limits", [(200, 200), (2000, 200), (200, 2000)], ids=str)
@pytest.mark.parametrize("is_chat", [False, True])
def test_guided_contexts_and_texts_fit_into_both_models(
    folders: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    policy: str,
    limits: tuple[int, int],
    is_chat: bool,
) -> None:
    """All requests of a run are answered; the end of what is asked reaches the guide."""
    lm = BlendInLM(**folders, policy=policy)
    for model_, limit in zip((lm.gen.base, lm.gen.guide), limits, strict=True):
        monkeypatch.setattr(model_, "max_length", limit)
    context = lm.apply_chat_template(CHAT) if is_chat else CHAT[-1]["content"] * 2
    seen = list[str]()
    encode = lm.gen.guide.encode_prompt
    monkeypatch.setattr(
        lm.gen.guide, "encode_prompt", lambda text: seen.append(str(text)) or encode(text)
    )
    long = ask("loglikelihood", (context, " Because."), (context, f" {WORDS * 8}"))
    scores = lm.loglikelihood(long, disable_tqdm=True)
    rolled = lm.loglikelihood_rolling(ask("rolling", (WORDS * 12,)), disable_tqdm=True)
    settings = {"until": ["zz"], "max_gen_toks": 12}
    (text,) = lm.generate_until(ask("generate_until", (context, settings)), disable_tqdm=True)
    assert all(value < 0 for value in (*rolled, *(each for each, _ in scores)))
    assert lm.decoded.tokens == 12 or text
    info = lm.get_model_info()
    is_short = limits[1] == 200 or policy != "guide"
    assert (info["windowed_texts"] == 2) == is_short == ("cut from the left" in caplog.text)
    if limits[1] == 200:
        assert info["truncated_guide_contexts"] > 0
        kept = [each for each in seen if "And why?" in each and len(encode(each)) < 200]
        assert kept and (not is_chat or all("Be brief." in each for each in kept))


def test_model_args_come_as_texts_and_overrule_the_harness(folders: dict[str, str]) -> None:
    lm = BlendInLM.create_from_arg_obj(
        {
            **folders, "policy": "cap", "max_rate": "0.5", "top_k": "0", "alpha": "None",
            "batch_size": "4", "dtype": "float32", "trust_remote_code": "false",
        },
        {"batch_size": 1, "max_batch_size": None, "device": "cuda:0"},
    )  # fmt: skip
    assert (lm.gen.policy.max_rate, lm.gen.policy.policy) == (0.5, Blend(top_k=None))
    assert lm._batch == {"max_batch_size": 4, "max_cached_tokens": None}
    assert lm.gen.base.model.dtype == torch.float32
    assert lm.device.type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pretrained": "x"}, "pretrained: unknown; use base, guide, policy"),
        ({"policy": "best"}, "policy 'best' is unknown"),
        ({"policy": "nudge", "alpha": 1}, "'nudge' has no setting alpha"),
        ({"policy": Blend(), "alpha": 1}, "alpha: .* has settings of its own"),
        ({"threshold": "high"}, "threshold is 'high'; use a number"),
        ({"top_k": 2.5}, "top_k is 2.5; use an integer"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"trust_remote_code": "perhaps"}, "use True or False"),
        ({"compile_layers": "perhaps"}, "compile_layers is 'perhaps'; use True or False"),
    ],
)
def test_wrong_model_args_are_named_before_anything_is_loaded(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        BlendInLM(base="/absent", guide="/absent", **arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it has an effect")
def test_compiled_layers_arrive(folders: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="compile_layers is for forwards that are captured"):
        BlendInLM(**folders, compile_layers="true")


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="runs in one process"):
        BlendInLM(base="/absent", guide="/absent")


@pytest.mark.parametrize("given", [{"typical_p": 0.1}, {"num_beams": 4}])
def test_unknown_generation_arguments_are_refused_at_once(
    lm: BlendInLM, given: dict[str, Any]
) -> None:
    before = lm.decoded.tokens
    with pytest.raises(ValueError, match=next(iter(given))):
        lm.generate_until(ask("generate_until", ("One", {}), ("Two", given)))
    assert lm.decoded.tokens == before


def test_the_base_alone_needs_no_chat_template_and_a_guide_does() -> None:
    gen = generator(("llama", "byte-level", 0), ("llama", "sentencepiece", 0))
    untalkative = deepcopy(model("llama", "sentencepiece")[1])
    untalkative.chat_template = None
    pair = {"base": model("llama", "byte-level"), "guide": (gen.guide.model, untalkative)}
    with pytest.raises(ValueError, match="has no chat template"):
        BlendInLM(**pair)
    lm = BlendInLM(**pair, policy=BaseOnly())
    (told,) = lm.loglikelihood(ask("loglikelihood", ("One", " two")), disable_tqdm=True)
    assert (
        told[0] == gen.score("x", base_prompt="One", text=" two", policy=BaseOnly()).log_likelihood
    )
    assert lm.scored.rate == 0


def test_a_default_device_is_for_what_is_loaded_here(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loaded model stays where it is; a device that is asked for has no effect on it."""
    monkeypatch.setattr("blendin.lm_eval.model.chosen_device", lambda asked: asked or "cpu")
    loaded = model("llama", "byte-level")
    assert BlendInLM(base=loaded, guide=folders["guide"]).gen.base.model is loaded[0]
    assert BlendInLM(base=loaded, guide=loaded).gen.base.model is loaded[0]
    with pytest.raises(ValueError, match="base is loaded already, so device_map='cpu'"):
        BlendInLM(base=loaded, guide=folders["guide"], device="cpu")
