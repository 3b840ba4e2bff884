"""A text-classification model as the judge of refusals."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from classifiers import saved_classifier
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from blendin.evaluation.records import Record
from blendin.evaluation.tasks.refusal import RefusalVerdict
from blendin.evaluation.tasks.refusal_model import BATCH, RefusalModel, verdict_of
from blendin.evaluation.tasks.registry import load, refusals_by
from blendin.evaluation.tasks.xstest import Completion

LABELS = {0: "NORMAL", 1: "REJECTION"}
TEXTS = ["how many are there?", "the 12 are there", "no", "i can't, and the others won't", "a"]


def completion(text: str) -> Completion:
    return Completion("Why?", text, None, None, {})


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_scores_are_those_of_the_model_text_by_text(family: str, tmp_path: Path) -> None:
    folder = saved_classifier(tmp_path, LABELS, family=family)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    texts = [text * n for n in range(1, 6) for text in TEXTS[: BATCH + 1]][: BATCH + 3]
    with torch.inference_mode():
        alone = [
            model(
                **tokenizer(text, return_tensors="pt", truncation=True, max_length=62)
            ).logits.softmax(-1)[0, 1]
            for text in texts
        ]
    judge = RefusalModel(str(folder))
    assert judge.probabilities(texts) == pytest.approx([float(each) for each in alone], abs=1e-5)
    labels = judge([completion(text) for text in texts])
    assert [label.name for label in labels] == [
        "refusal" if each >= 0.5 else "compliance" for each in alone
    ]


def test_an_empty_completion_is_a_refusal_and_is_not_read(tmp_path: Path) -> None:
    judge = RefusalModel(str(saved_classifier(tmp_path, LABELS, always=0)))
    labels = judge([completion(text) for text in ("", "a", " \n")])
    assert [label.name for label in labels] == ["refusal", "compliance", "refusal"]
    assert judge.refuses(" ") and not judge.refuses("a")


@pytest.mark.parametrize("always", [0, 1, 2])
def test_all_labels_that_are_refusals_count_together(always: int, tmp_path: Path) -> None:
    names = {0: "1_full_compliance", 1: "2_full_refusal", 2: "3_partial_refusal"}
    judge = RefusalModel(str(saved_classifier(tmp_path, names, always=always)))
    assert judge.refuses("a") == (always == 1)


@pytest.mark.parametrize(
    ("label", "verdict"),
    [
        *(
            (name, "refusal")
            for name in ("REJECTION", "REFUSAL", "refused", "Rejected", "DECLINED")
        ),
        *(
            (name, "refusal")
            for name in ("is_refusal", "2_full_refusal", "non-compliance", "refuse")
        ),
        *((name, "compliance") for name in ("NORMAL", "COMPLIANCE", "no_refusal", "NoRefusal")),
        *((name, "compliance") for name in ("not-rejected", "ANSWER", "accepted", "non-refusal")),
        *((name, "compliance") for name in ("3_partial_refusal", "1_full_compliance", "complied")),
        *((name, None) for name in ("LABEL_0", "LABEL_1", "POSITIVE", "toxic", "", "1")),
    ],
)
def test_labels_are_read_by_their_names(label: str, verdict: RefusalVerdict | None) -> None:
    assert verdict_of(label) == verdict


@pytest.mark.parametrize(
    "names",
    [
        {0: "LABEL_0", 1: "LABEL_1"},
        {0: "NEGATIVE", 1: "POSITIVE"},
        {0: "REJECTION", 1: "REFUSAL"},
        {0: "NORMAL", 1: "COMPLIANCE"},
        {0: "NORMAL", 1: "REJECTION", 2: "toxic"},
    ],
)
def test_labels_that_do_not_tell_are_refused_with_their_names(
    names: dict[int, str], tmp_path: Path
) -> None:
    folder = saved_classifier(tmp_path, names)
    with pytest.raises(ValueError, match=r"--refusal-model=.* has the labels") as refused:
        RefusalModel(str(folder))
    assert all(repr(name) in str(refused.value) for name in names.values())


def test_what_cannot_be_loaded_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    pickled = saved_classifier(tmp_path / "pickled", LABELS)
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    headless = saved_classifier(tmp_path / "headless", LABELS)
    kept = load_file(headless / "model.safetensors")
    save_file(
        {name: value for name, value in kept.items() if not name.startswith("classifier")},
        headless / "model.safetensors",
        {"format": "pt"},
    )
    foreign = saved_classifier(tmp_path / "foreign", LABELS)
    config = json.loads((foreign / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (foreign / "config.json").write_text(json.dumps(config))
    for name in ("empty", "pickled", "foreign", "absent"):
        with pytest.raises(ValueError, match=f"--refusal-model='.*{name}' cannot be loaded"):
            RefusalModel(str(tmp_path / name))
    with pytest.raises(ValueError, match=r"no weights for classifier.*would be random"):
        RefusalModel(str(headless))
    with pytest.raises(ValueError, match="--refusal-model is empty"):
        RefusalModel(" ")


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    folder = saved_classifier(tmp_path, LABELS)
    kept = load_file(folder / "model.safetensors")
    kept["classifier.bias"] = kept["classifier.bias"] * float("nan")
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="no finite scores"):
        RefusalModel(str(folder)).refuses("a")


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_long_completions_are_cut_with_one_warning(
    family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    judge = RefusalModel(str(saved_classifier(tmp_path, LABELS, family=family)))
    with caplog.at_level(logging.WARNING):
        found = judge.probabilities(["the " * 500, "the " * 900, "a"])
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    (said,) = [r.getMessage() for r in caplog.records if "beginning" in r.getMessage()]
    assert "2 of 3 completions" in said


def test_xstest_is_scored_by_the_model(tmp_path: Path) -> None:
    rows = ["id,prompt,type,label", "1,Why?,homonyms,safe", "2,How?,contrast_homonyms,unsafe"]
    (tmp_path / "xstest_prompts.csv").write_text("\n".join(rows))
    model = RefusalModel(str(saved_classifier(tmp_path / "model", LABELS, always=1)))
    task = refusals_by(load("xstest", tmp_path), model)
    assert model.name in task.title and "classifier" not in task.title
    assert [task.score(item, "Use a wrench.")["as it should"] for item in task.items] == [0, 1]
    records = [Record(i.id, task.score(i, "Yes."), 1, 0, 1.0, 1.0) for i in task.items]
    figures = task.figures(list(zip(task.items, records, strict=True)))
    assert figures["balanced score"].estimate == 0.5
