"""A calibration decides what docs/contract.md says it decides, and is refused where it cannot."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import generator
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from blendin import Blend, Calibration, Defer, InterventionCap, Nudge
from blendin.cli import app
from blendin.decision.prediction import DensePrediction
from blendin.decision.symbols import ModelSymbols
from blendin.decision.top_logprobs import ListedPrediction, TopLogprobs
from blendin.evaluation.runs.arms import arms, without_calibration
from blendin.policy import described, named_policy
from blendin.protocol.ours import read_ours
from blendin.vllm.arguments import EngineArguments, RequestArguments

FITTED = Calibration(1.5, 0.8, a=0.25, b=0.5, c=1.0, threshold=0.55)
PAIR = ("llama", "byte-level", 0), ("qwen2", "sentencepiece", 1)


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    for calibration in (FITTED, Calibration(), Calibration(2.0, threshold=0.3)):
        calibration.save(path, about={"base": "B", "n": 3})
        assert Calibration.load(path) == calibration
        assert json.loads(path.read_text())["about"] == {"base": "B", "n": 3}
        assert Blend(calibration=path) == Blend(calibration=calibration)
        assert Blend(calibration=calibration.to_dict()) == Blend(calibration=calibration)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "no JSON"),
        ("[]", "no calibration"),
        ("{}", "base_temperature"),
        ('{"version": 2, "base_temperature": 1}', "version 2"),
        ('{"base_temprature": 1}', "base_temprature"),
        ('{"base_temperature": 0}', "from 0.01 to 100"),
        ('{"base_temperature": NaN}', "from 0.01 to 100"),
        ('{"guide_temperature": "1"}', "from 0.01 to 100"),
        ('{"a": 1, "b": 2}', "c is missing"),
        ('{"threshold": 40}', "did you mean 0.4"),
    ],
)
def test_what_is_no_calibration_is_refused_by_file_and_value(
    content: str, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"calibration\.json") as caught:
        Calibration.load(path)
    assert told in str(caught.value)
    with pytest.raises(ValueError, match=r"calibration\.json"):
        Blend(calibration=path)
    missing: Any = tmp_path / "none.json"
    with pytest.raises(ValueError, match=r"none\.json cannot be read"):
        Blend(calibration=missing)


def test_tau_is_the_calibrations_where_none_is_given() -> None:
    assert Blend().threshold == Blend(calibration=Calibration(2.0)).threshold == 0.4
    assert Blend(calibration=FITTED).threshold == 0.55
    assert Blend(0.2, calibration=FITTED).threshold == 0.2
    assert Blend(0.0, calibration=FITTED).threshold == 0


symbols = ModelSymbols.of(
    torch.tensor([4, 5]),
    torch.tensor([True, True, True, False, False, False]),
    torch.arange(6),
    end=6,
)
logits = st.lists(st.floats(-8, 8, width=32), min_size=6, max_size=6)


@given(st.lists(logits, min_size=1, max_size=3), st.sampled_from((0.3, 0.9, 1.0, 1.8, 7.0)))
def test_probabilities_at_a_temperature_are_those_of_the_divided_logits(
    rows: list[list[float]], temperature: float
) -> None:
    """END's too: two end tokens together may overtake the likeliest token as T rises."""
    given_logits = torch.tensor(rows)
    for candidates_only in (False, True):
        read = DensePrediction(given_logits, symbols, candidates_only)
        other = DensePrediction(given_logits / temperature, symbols, candidates_only)
        torch.testing.assert_close(read.top_prob_at(temperature), other.top_prob)
        for symbol in range(7):
            asked = torch.full((len(rows),), symbol)
            torch.testing.assert_close(read.prob_at(asked, temperature), other.prob_of(asked))
        last = read.rows([len(rows) - 1])
        assert torch.equal(last.top_prob_at(temperature), read.top_prob_at(temperature)[-1:])


def test_end_may_be_the_likeliest_at_one_temperature_and_not_at_another() -> None:
    read = DensePrediction(torch.tensor([[2.0, 0, 0, 0, 1.5, 1.5]]), symbols)
    cold = torch.softmax(torch.tensor([2.0, 0, 0, 0, 1.5, 1.5]) / 0.25, -1)
    assert int(read.choice) == 6
    assert float(read.top_prob_at(0.25)) == pytest.approx(float(cold[0]))  # the token's, not END's


def test_lists_know_temperature_one_alone() -> None:
    tokens, log_probs = torch.tensor([[0, 1]]), torch.tensor([[0.6, 0.3]]).log()
    read = ListedPrediction(TopLogprobs(tokens, log_probs, 6), symbols)
    assert float(read.top_prob_at(1)) == pytest.approx(0.6)
    with pytest.raises(ValueError, match="whole softmax"):
        read.top_prob_at(1.1)


def test_a_served_model_is_refused_before_work_starts_unless_its_temperature_is_one() -> None:
    gen = generator(*PAIR)
    served = type("Served", (), {"top": 100, "name": "http://host/v1"})()
    pair = object.__new__(type(gen.pair))
    pair.base, pair.guide = served, gen.guide
    pair.check_temperatures(Blend(calibration=Calibration(1.0, 0.5, a=0, b=1, c=0)))
    for policy in (Blend(calibration=FITTED), InterventionCap(Blend(calibration=FITTED))):
        with pytest.raises(ValueError, match=r"base.*temperature 1\.5.*http://host/v1"):
            pair.check_temperatures(policy)


def test_the_trace_shows_what_gate_and_alpha_read() -> None:
    gen = generator(*PAIR)
    out = gen.generate(
        "How?", policy=Blend(calibration=FITTED), max_new_tokens=30, stop=(), trace_top=3
    )
    assert {step.intervened for step in out.steps} == {True, False}
    raw = 0
    for step in out.steps:
        assert step.intervened == (step.base_top_prob < 0.55)
        assert step.candidates is not None
        raw += step.candidates.base[0].prob > step.base_top_prob + 1e-3  # T_b > 1 flattens p_b
        if step.alpha is not None:
            p_g, p_b = step.guide_top_prob, step.base_top_prob
            x = 0.25 + 0.5 * (math.log(p_g / (1 - p_g)) - math.log(p_b / (1 - p_b)))
            assert step.alpha == pytest.approx(1 / (1 + math.exp(-x - step.agreement)), abs=1e-5)
        else:
            assert step.candidates.chosen.prob == step.candidates.base[0].prob
    assert raw
    assert out.settings["policy"]["calibration"]["base_temperature"] == 1.5


def test_a_fixed_alpha_stays_fixed_and_the_gate_is_calibrated() -> None:
    gen = generator(*PAIR)
    policy = Blend(calibration=FITTED, alpha=0.3)
    out = gen.generate("How?", policy=policy, max_new_tokens=30, stop=())
    alphas = [step.alpha for step in out.steps if step.intervened]
    assert alphas and alphas == pytest.approx([0.3] * len(alphas))


def test_policies_without_a_use_for_it_refuse_it(tmp_path: Path) -> None:
    FITTED.save(path := str(tmp_path / "c.json"))
    for name in ("nudge", "nudge-token", "defer", "base", "guide"):
        with pytest.raises(ValueError, match=f"{name}.*has no setting calibration"):
            named_policy(name, calibration=path)
    for make in (Nudge, Defer):
        with pytest.raises(TypeError):
            make(calibration=FITTED)
    assert named_policy("cap", calibration=path) == InterventionCap(Blend(calibration=FITTED))
    assert described(named_policy("blend", calibration=path))["calibration"]["c"] == 1.0


def test_runs_from_before_there_were_calibrations_are_of_the_same_policy() -> None:
    settings = {"threshold": 0.4, "agreement_bonus": 0.1, "top_k": 100, "alpha": None}
    assert described(Blend()) == {"name": "Blend", **settings}
    assert described(InterventionCap(Blend()))["policy"] == settings


def test_an_evaluation_says_which_arms_go_without_it(tmp_path: Path) -> None:
    FITTED.save(path := str(tmp_path / "c.json"))
    made = arms(calibration=path)
    assert without_calibration(made) == ["base", "guide", "nudge"]
    assert without_calibration(arms()) == []
    with pytest.raises(ValueError, match="no part in nudge, base"):
        arms(("nudge", "base"), calibration=path)


def test_a_request_from_outside_gives_the_object_and_names_no_file(tmp_path: Path) -> None:
    FITTED.save(path := str(tmp_path / "c.json"))
    content = FITTED.to_dict()
    for given_policy in ({"calibration": content}, {"policy": "blend", "calibration": content}):
        expected = Blend(
            calibration=FITTED, **({} if "policy" in given_policy else {"threshold": 0.4})
        )
        assert read_ours({"blendin": given_policy}, Blend()).policy == expected
        asked = RequestArguments.of({"blendin": {"guide_prompt": "x"} | given_policy}, Blend())
        assert asked is not None and asked.ours.policy == expected
    with pytest.raises(ValueError, match="the object itself"):
        read_ours({"blendin": {"calibration": path}}, Blend())
    with pytest.raises(ValueError, match="the object itself"):
        RequestArguments.of({"blendin": {"guide_prompt": "x", "calibration": path}}, Blend())
    engine = {"guide": "G", "policy": {"name": "blend", "calibration": path}}
    assert EngineArguments.of({"blendin": engine}).policy == Blend(calibration=FITTED)


def test_the_command_line_reads_the_file_before_any_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"a": 1}')
    for command in (("generate", "Hi"), ("compare", "Hi"), ("evaluate", "gsm8k"), ("diagnose",)):
        result = CliRunner().invoke(app, [*command, "--calibration", str(tmp_path / "c.json")])
        assert result.exit_code == 2
        assert "b and c is missing" in " ".join(result.output.split())


def test_a_replaced_temperature_changes_the_decision() -> None:
    """The comparisons with the reference can fail: another temperature gives other steps."""
    gen = generator(*PAIR)
    policies = [Blend(0.4, calibration=replace(FITTED, base_temperature=t)) for t in (1.0, 3.0)]
    rates = [
        gen.generate("How?", policy=each, max_new_tokens=20, stop=()).intervention_rate
        for each in policies
    ]
    assert rates[0] < rates[1]
