"""The intervention-rate diagnostic: its figures, its verdicts, its ranking and its report."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from html.parser import HTMLParser
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import browser
import numpy as np
import pytest
from conftest import generator, model
from hostile import HOSTILE as CONTROLS
from hostile import MARKUP, SCRIPT, dangerous
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Reference

from blendin import Blend, BlendInGenerator, InterventionCap
from blendin.evaluation import pictures
from blendin.evaluation.diagnosis import overlap
from blendin.evaluation.diagnosis.diagnosis import Diagnosis, diagnose
from blendin.evaluation.diagnosis.interventions import LONG_STREAK
from blendin.evaluation.diagnosis.overlap import top_overlap
from blendin.evaluation.diagnosis.ranking import rank
from blendin.evaluation.diagnosis.report import html, write
from blendin.evaluation.diagnosis.verdict import CAUTION, LEAST_ITEMS
from blendin.evaluation.records import Record, Steps
from blendin.evaluation.statistics import pooled_rate, wilson
from blendin.visible import visible

SOME = (("llama", "byte-level", 2), ("qwen2", "sentencepiece", 3))


def record(
    id: str, flags: Sequence[bool], *, ranks: Sequence[int | None] = (), **fields: Any
) -> Record:
    """An answer of as many steps, with p_b 0.3 at interventions and 0.7 elsewhere."""
    n = len(flags)
    given = iter(ranks or [1] * sum(flags))
    return Record(
        id,
        {},
        tokens=n,
        interventions=sum(flags),
        seconds=1.0,
        elapsed=0.5,
        **{"text": "ab" * n, "stop_reason": "end"} | fields,
        steps=Steps(
            text=["ab"] * n,
            intervened=list(flags),
            source=["both" if flag else "base" for flag in flags],
            base_top_prob=[0.3 if flag else 0.7 for flag in flags],
            guide_top_prob=[0.5 if flag else None for flag in flags],
            alpha=[0.6 if flag else None for flag in flags],
            agreement=[0.2 if flag else None for flag in flags],
            agreement_rank=[next(given) if flag else None for flag in flags],
        ),
    )


def drawn(rate: float, items: int = 40, length: int = 60, seed: int = 0) -> list[Record]:
    """Answers of various lengths whose steps intervene independently."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(length // 2, length + 1, size=items)
    return [record(str(i), (rng.random(n) < rate).tolist()) for i, n in enumerate(lengths)]


def diagnosed(records: Sequence[Record], guide: str = "guide", **fields: Any) -> Diagnosis:
    names = {"base": "base", "task": "task", "top_k": 100, "settings": {}} | fields
    return diagnose(records, guide=guide, **names)


answers = st.lists(st.lists(st.booleans(), min_size=1, max_size=30), min_size=1, max_size=6)


def test_the_rate_is_that_of_all_steps_with_failed_items_left_out() -> None:
    records = drawn(0.3)
    failed = Record("failed", {}, tokens=3, interventions=3, seconds=1, elapsed=0.5, error="long")
    found = diagnosed([*records, failed])
    assert found.rate == pooled_rate(
        [each.interventions for each in records], [each.tokens for each in records]
    )
    assert (found.items, found.failed) == (40, 1)
    assert found.above.estimate == np.mean([each.intervention_rate > 0.2 for each in records])
    assert any("1 of 41 items" in note for note in found.verdict.notes)
    # The failed item's time was spent too.
    assert found.tokens_per_second == pytest.approx((found.steps + 3) / (41 * 0.5))


@settings(deadline=None, max_examples=30)
@given(answers)
def test_positions_share_out_all_steps_and_interventions(flags: list[list[bool]]) -> None:
    found = diagnosed([record(str(i), each) for i, each in enumerate(flags)])
    spans = found.positions
    assert spans[0].first == 1 and spans[-1].last == max(map(len, flags))
    assert all(b.first == a.last + 1 for a, b in pairwise(spans))
    assert sum(span.steps for span in spans) == found.steps
    made = sum(span.steps * span.rate.estimate for span in spans)
    assert made == pytest.approx(found.interventions)
    for span in spans:
        assert span.items == sum(len(each) >= span.first for each in flags)
        assert span.rate.low <= span.rate.estimate <= span.rate.high


def test_a_later_span_of_positions_is_reached_by_enough_answers() -> None:
    lengths = [50] * 12 + [250] * 3
    found = diagnosed([record(str(i), [True, False] * (n // 2)) for i, n in enumerate(lengths)])
    assert found.positions[0].rate == wilson(15, 15)
    assert found.positions[-1][:2] == (49, 250)
    assert all(each.items >= LEAST_ITEMS for each in found.positions if each.first < each.last)


def test_agreement_shares_out_the_interventions_that_asked_both() -> None:
    ranks = [1, 1, 2, 100, 101, None]
    records = [record(str(i), [True] * 6 + [False], ranks=ranks) for i in range(12)]
    # Within a nudged word the base was not asked.
    records[0].steps.agreement[5] = records[0].steps.base_top_prob[5] = None
    found = diagnosed(records).agreement
    assert found is not None and found.steps == 12 * 6 - 1
    for share, count in (
        (found.own, 24),
        (found.in_top_k, 48),
        (found.outside, 12),
        (found.unknown, 11),
    ):
        assert share.estimate == pytest.approx(count / found.steps)
        assert share.low <= share.estimate <= share.high
    whole = diagnosed(records, top_k=None).agreement
    assert whole is not None and whole.outside.estimate == 0
    assert whole.in_top_k.estimate == pytest.approx(60 / 71)


@settings(deadline=None, max_examples=30)
@given(answers.filter(lambda flags: any(map(any, flags))))
def test_runs_share_out_the_interventions(flags: list[list[bool]]) -> None:
    found = diagnosed([record(str(i), each) for i, each in enumerate(flags)]).runs
    assert found is not None
    told = ["".join("x" if flag else "." for flag in each) for each in flags]
    expected = Counter(len(run) for each in told for run in re.findall("x+", each))
    assert found.lengths == expected
    assert found.longest == max(expected)
    made = sum(map(sum, flags))
    assert found.mean == pytest.approx(made / expected.total())
    long = sum(n * count for n, count in expected.items() if n >= LONG_STREAK)
    assert found.in_long.estimate == pytest.approx(long / made)


def test_the_shuffled_mean_is_that_of_all_orders() -> None:
    flags = [[True, True, True, False, False], [True, False, True]]
    found = diagnosed([record(str(i), each) for i, each in enumerate(flags)]).runs
    orders = [
        np.mean([len(re.findall("x+", "".join(order))) for order in permutations(each)])
        for each in ("xxx..", "x.x")
    ]
    assert found is not None and found.shuffled_mean == pytest.approx(5 / sum(orders))


def test_independent_interventions_give_the_runs_that_are_told_for_them() -> None:
    found = diagnosed(drawn(0.4, items=30, length=3000)).runs
    assert found is not None and found.independent_mean is not None
    assert found.mean == pytest.approx(found.independent_mean, rel=0.02)
    assert found.shuffled_mean == pytest.approx(found.independent_mean, rel=0.02)
    assert found.in_long.estimate == pytest.approx(found.independent_in_long, abs=0.02)
    clustered = diagnosed([record(str(i), [True] * 10 + [False] * 15) for i in range(12)]).runs
    assert clustered is not None and clustered.mean == 10 > 2 * clustered.shuffled_mean


@pytest.mark.parametrize(("rate", "word"), [(0.1, "below"), (0.2, "undecided"), (0.35, "above")])
def test_the_verdict_needs_the_whole_interval_on_one_side(rate: float, word: str) -> None:
    found = diagnosed(drawn(rate))
    assert found.verdict.word == word
    inside = found.rate.low <= 0.2 <= found.rate.high
    assert inside == (word == "undecided")
    assert f"{found.rate:.3f}" in found.verdict.sentence


def test_so_many_items_as_are_said_to_be_needed_decide() -> None:
    records = drawn(0.22, items=30)
    found = diagnosed(records)
    needed = found.verdict.items_needed
    assert found.verdict.word == "undecided" and needed is not None and needed > 30
    assert f"{needed:,} items" in found.verdict.sentence
    for share, word in ((1.2, "above"), (0.8, "undecided")):
        flags = [each.steps.intervened for each in records]
        more = [record(str(i), flags[i % 30]) for i in range(30 * round(share * needed / 30))]
        assert diagnosed(more).verdict.word == word


def test_few_items_decide_nothing_however_clear_they_look() -> None:
    for rate in (0.0, 1.0):
        found = diagnosed(drawn(rate, items=LEAST_ITEMS - 1))
        assert found.verdict.word == "undecided"
    # No intervention in ten answers leaves a rate above 20 % possible in others.
    none = diagnosed(drawn(0.0, items=10))
    assert none.rate.high > wilson(0, 10).high > 0.2 and none.verdict.word == "undecided"
    assert diagnosed(drawn(0.0, items=50)).verdict.word == "below"
    assert none.runs is none.agreement is none.alpha is none.first_intervention is None


def test_notes_tell_what_a_cut_answer_does_to_the_rate() -> None:
    flags = [True, False] * 8 + [False] * 40
    cut = [record(str(i), flags, stop_reason="length") for i in range(12)]
    said = " ".join(diagnosed(cut).verdict.notes)
    assert "12 of 12 answers were cut off" in said and "overstate" in said
    turned = [record(str(i), flags[::-1], stop_reason="length") for i in range(40)]
    assert "understate" in " ".join(diagnosed(turned).verdict.notes)
    ended = [record(str(i), flags) for i in range(12)]
    assert "cut off" not in " ".join(diagnosed(ended).verdict.notes)


def test_a_capped_run_says_that_the_guide_was_withheld() -> None:
    gen = generator(*SOME)
    prompts = [f"How many {fruit}?" for fruit in ("apples", "pears", "plums")]
    for policy, withheld in (
        (Blend(threshold=0.5), False),
        (InterventionCap(Blend(threshold=0.5), max_rate=0.05, grace_steps=2), True),
    ):
        outs = gen.generate(prompts, policy=policy, max_new_tokens=30)
        records = [Record.of(str(i), out, {}, elapsed=1.0) for i, out in enumerate(outs)]
        found = diagnosed(records)
        assert bool(found.withheld) == withheld
        assert any("went on alone" in note for note in found.verdict.notes) == withheld
        assert found.steps == sum(len(out.steps) for out in outs)
        assert found.interventions == sum(out.interventions for out in outs)
        for example, each in ((e, outs[int(e.id)]) for e in found.examples):
            assert "".join(text for text, _, _ in example.pieces) == each.text


def test_examples_leave_out_what_a_stop_text_cut_off() -> None:
    found = diagnosed([record("a", [True, False, False], text="aba")])
    assert [text for text, _, _ in found.examples[0].pieces] == ["ab", "a", ""]
    assert [source for _, source, _ in found.examples[0].pieces] == ["both", None, None]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "none of 0 records has an answer"),
        ([Record("a", {}, 0, 0, 1, 1, error="no")], "none of 1 records"),
        ([record("a", [True]), record("a", [False])], "two records of 'a'"),
        ([Record("a", {}, 5, 2, 1, 1)], "no trace"),
    ],
)
def test_bad_records(records: list[Record], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        diagnosed(records)


def test_a_run_that_never_asked_the_base_is_refused() -> None:
    alone = record("a", [True, True])
    alone.steps.base_top_prob[:] = [None, None]
    with pytest.raises(ValueError, match="never asked"):
        diagnosed([alone])


def test_guides_are_ranked_by_rate_and_settled_only_where_items_tell() -> None:
    few, many, like = drawn(0.1, seed=1), drawn(0.3, seed=2), drawn(0.3, seed=3)
    ranking = rank([diagnosed(many, "many"), diagnosed(few, "few"), diagnosed(like, "like")])
    assert ranking.guides[0] == "few" and ranking.order[0] == 1
    first, second = ranking.gaps
    assert first.settled and first.difference.low > 0
    assert not second.settled and "not settled" in second.sentence
    # Of several gaps each has a wider interval than it would have alone.
    alone = rank([diagnosed(few, "few"), diagnosed(many if first.worse == "many" else like, "b")])
    width = alone.gaps[0].difference.high - alone.gaps[0].difference.low
    assert first.difference.high - first.difference.low > width


def test_a_rank_rests_on_the_items_that_both_answered() -> None:
    few, many = drawn(0.1), drawn(0.3)
    gap = rank([diagnosed(few[:30], "few"), diagnosed(many[10:], "many")]).gaps[0]
    assert gap.items == 20
    differences = [
        b.intervention_rate - a.intervention_rate
        for a, b in zip(few[10:30], many[10:30], strict=True)
    ]
    assert gap.difference.estimate == pytest.approx(np.mean(differences))


@pytest.mark.parametrize(
    ("diagnoses", "message"),
    [
        ([diagnosed(drawn(0.1))], "two or more"),
        ([diagnosed(drawn(0.1)), diagnosed(drawn(0.1), task="other")], "one task"),
        ([diagnosed(drawn(0.1)[:5]), diagnosed(drawn(0.1)[5:])], "0 items in common"),
    ],
)
def test_bad_rankings(diagnoses: list[Diagnosis], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rank(diagnoses)


# -- overlap ---------------------------------------------------------------------------------------


def written(base: Any, guide: Any, count: int = 3) -> tuple[Any, list[str], list[Record]]:
    gen = generator(base, guide)
    prompts = [f"How many {fruit}?" for fruit in ("apples", "pears", "plums")][:count]
    outs = gen.generate(prompts, max_new_tokens=30, system="Be brief.")
    return gen, prompts, [Record.of(str(i), out, {}, elapsed=1.0) for i, out in enumerate(outs)]


def test_a_model_overlaps_wholly_with_itself() -> None:
    lm, tokenizer = model(*SOME[0])
    same_prompt = deepcopy(tokenizer)
    same_prompt.chat_template = "Question: {{ messages[0].content }}\nAnswer:"
    gen = BlendInGenerator((lm, tokenizer), (lm, same_prompt))
    _, prompts, records = written(*SOME)
    found = top_overlap(gen, records, prompts, k=20)
    assert found.partnered == found.candidates
    for part in (found.everywhere, found.first, found.confident, found.uncertain):
        assert part is not None and part.jaccard.estimate == part.same_choice.estimate == 1
        assert part.in_both.estimate == 20


@pytest.mark.parametrize(
    ("base", "guide"),
    [SOME, (("gemma3", "sentencepiece", 1), ("llama", "byte-level", 4)), (SOME[0], SOME[0])],
)
def test_overlap_is_that_of_the_slow_reference(base: Any, guide: Any) -> None:
    gen, prompts, records = written(base, guide)
    found = top_overlap(gen, records, prompts, system="Be brief.", k=20, threshold=0.4)
    ref = Reference(*model(*base), *model(*guide))
    shares: list[float] = []
    same: list[bool] = []
    sure: list[bool] = []
    for prompt, each in zip(prompts, records, strict=True):
        whole = gen.generate(prompt, system="Be brief.", max_new_tokens=1).settings
        text, at = each.text.encode(), {}
        for role, vocabulary, lm in (
            ("base", ref.base, ref.base_model),
            ("guide", ref.guide, ref.guide_model),
        ):
            start = vocabulary.encode_prompt(whole[f"{role}_prompt"])
            ids = vocabulary.encode(text)
            for place in range(max(1, len(ids))):
                offset = len(b"".join(vocabulary.bytes_at(id) for id in ids[:place]))
                at.setdefault(offset, {})[role] = ref._predict(lm, vocabulary, start + ids[:place])
        for view in (view for view in at.values() if len(view) == 2):
            tops = [list(_top(view[role], ref.allowed, 20)) for role in ("base", "guide")]
            both = len(set(tops[0]) & set(tops[1]))
            shares.append(both / (40 - both))
            same.append(tops[0][0] == tops[1][0])
            sure.append(view["base"].top_prob >= 0.4)
    assert found.everywhere.positions == len(shares) and found.everywhere.items == len(records)
    assert found.everywhere.jaccard.estimate == pytest.approx(np.mean(shares))
    assert found.everywhere.same_choice.estimate == pytest.approx(np.mean(same))
    for part, wanted in ((found.confident, True), (found.uncertain, False)):
        some = [share for share, is_sure in zip(shares, sure, strict=True) if is_sure is wanted]
        assert (part.jaccard.estimate if part else None) == pytest.approx(
            np.mean(some) if some else None
        )


def _top(view: Any, allowed: set[Any], k: int) -> list[Any]:
    """The k likeliest symbols, END among the others by its own probability."""
    return sorted((s for s in view.by_symbol if s in allowed), key=lambda s: -view.by_symbol[s])[:k]


def test_how_much_is_read_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    gen, prompts, records = written(*SOME)
    whole = top_overlap(gen, records, prompts, k=20)
    monkeypatch.setattr(overlap, "POSITIONS_AT_ONCE", 3)
    assert top_overlap(gen, records, prompts, k=20) == whole
    first = top_overlap(gen, records, prompts, k=20, positions=1)
    assert first.everywhere == first.first == whole.first


def test_failed_and_empty_answers_are_no_trouble() -> None:
    gen, prompts, _records = written(*SOME)
    failed = Record("failed", {}, 0, 0, 1.0, 1.0, error="too long")
    empty = Record("empty", {}, 1, 1, 1.0, 1.0, stop_reason="end")
    found = top_overlap(gen, [failed, empty], prompts[:2], k=20)
    assert (found.everywhere.items, found.everywhere.positions) == (1, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k": 0}, "k is 0; use 1 to"),
        ({"k": 10_000}, "smaller vocabulary"),
        ({"items": 0}, "1 or more"),
        ({"prompts": ["one"]}, "1 prompts for 3 records"),
    ],
)
def test_bad_overlaps(fields: dict[str, Any], message: str) -> None:
    gen, prompts, records = written(*SOME)
    with pytest.raises(ValueError, match=message):
        top_overlap(gen, records, **{"prompts": prompts} | fields)


# -- the report ------------------------------------------------------------------------------------

HOSTILE = '<script>alert("1")</script> & _$x$_'


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def several() -> list[Diagnosis]:
    gen, prompts, records = written(*SOME)
    overlap = top_overlap(gen, records, prompts, k=20)
    settings = {
        "policy": {"name": "Blend", "threshold": 0.4},
        "note": HOSTILE,
        "path": Path("x"),
        "speed": math.nan,
    }
    hostile = [
        record("0" + HOSTILE, [True, False] * 20, text=HOSTILE * 2),
        *drawn(0.3, items=14)[1:],
    ]
    hostile[0].steps.text[:2] = [HOSTILE, HOSTILE]
    return [
        diagnosed(hostile, HOSTILE, settings=settings, vocabulary_overlap=overlap),
        diagnosed(drawn(0.1, items=14), "_other", settings=settings),
    ]


@pytest.fixture(scope="module")
def text(several: list[Diagnosis]) -> str:
    return html(several, rank(several))


def test_the_page_asks_for_nothing_and_runs_nothing(text: str) -> None:
    page = Page(text)
    assert page.tags["style"] == 1  # a picture's own would be the page's
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(page.tags)
    for _, name, value in page.attributes:
        assert not name.startswith("on") and name not in ("src", "srcset", "action")
        if name in ("href", "xlink:href"):
            assert value.startswith("#")
    assert not re.search(r"@import|@font-face|url\((?!#)", text)
    assert page.text.count(HOSTILE) > 3  # told, not obeyed


def test_pictures_do_not_share_names_and_find_their_own(text: str) -> None:
    ids = [value for _, name, value in Page(text).attributes if name == "id"]
    assert len(ids) == len(set(ids))
    used = re.findall(r'(?:href="|url\()#([^")]+)', text)
    assert used and set(used) <= set(ids)


def test_each_picture_is_named_and_drawn_in_the_pages_colours(text: str) -> None:
    found = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(found) == 2 + 7 + 6  # an overview, one guide with an overlap and one without
    for each in found:
        root = ElementTree.fromstring(each)
        assert root.get("role") == "img" and root.get("aria-label")
    assert not any(colour in text for colour in pictures.VARIABLES)
    style = text[: text.index("</style>")]
    for variable in pictures.VARIABLES.values():
        assert style.count(f"{variable}:") == 2  # light and dark


def test_the_page_says_what_the_diagnosis_says(several: list[Diagnosis], text: str) -> None:
    said = " ".join(Page(text).text.split())
    for each in several:
        assert each.verdict.sentence in said
        assert CAUTION in said
        assert f"{100 * each.rate.estimate:.1f} %" in said
    assert all(" ".join(gap.sentence.split()) in said for gap in rank(several).gaps)
    assert "policy.threshold" in said


def test_the_same_diagnosis_gives_the_same_page(several: list[Diagnosis]) -> None:
    assert html(several[1:]) == html(several[1:])


def test_a_page_of_a_run_without_interventions(tmp_path: Path) -> None:
    write([diagnosed(drawn(0.0))], html_path=tmp_path / "page.html", json_path=tmp_path / "n.json")
    assert "Below the 20 % line" in (tmp_path / "page.html").read_text("utf-8")


def test_files_are_written_where_asked(several: list[Diagnosis], tmp_path: Path) -> None:
    write(several, rank(several), json_path=tmp_path / "n.json")
    assert [path.name for path in tmp_path.iterdir()] == ["n.json"]
    told = json.loads((tmp_path / "n.json").read_text("utf-8"))
    first = told["diagnoses"][0]
    assert first["rate"]["estimate"] == several[0].rate.estimate
    assert first["guide"] == HOSTILE and first["settings"]["path"] == "x"
    assert first["settings"]["speed"] is None
    assert first["vocabulary_overlap"]["everywhere"]["jaccard"]["low"] >= 0
    assert told["ranking"]["guides"] == ["_other", HOSTILE]
    assert told["rate_limit"] == 0.2


# -- hostile text ----------------------------------------------------------------------------------

ATTACK = SCRIPT + CONTROLS + "$\\x$ \udcff"


@pytest.fixture(scope="module")
def attacked() -> list[Diagnosis]:
    """Every text that a page has is an attack."""
    settings = {ATTACK: {ATTACK: ATTACK}}
    records = [record(ATTACK, [True, False] * 20), *drawn(0.3, items=14)[1:]]
    records[0].steps.text[:2] = [ATTACK, ATTACK]
    names = {"base": ATTACK, "task": ATTACK, "settings": settings}
    return [
        diagnosed(records, ATTACK, **names),
        diagnosed(drawn(0.1, items=14), "".join(MARKUP), **names),
    ]


def attacked_page(attacked: list[Diagnosis]) -> str:
    return html(attacked, rank(attacked), {ATTACK: ATTACK})


def test_hostile_names_and_answers_stay_text(attacked: list[Diagnosis], tmp_path: Path) -> None:
    write(attacked, rank(attacked), html_path=tmp_path / "p.html", json_path=tmp_path / "n.json")
    text = (tmp_path / "p.html").read_text("utf-8")
    assert not any(map(dangerous, text))
    page = Page(text)
    harmless = Page(html([diagnosed(drawn(0.3, items=14), f"g{n}") for n in range(2)]))
    assert set(page.tags) <= set(harmless.tags) | {"ul", "li", "span", "image", "use"}
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    for each in attacked:
        assert page.text.count(visible(each.guide)) > 1
    values = (tmp_path / "n.json").read_text("utf-8")
    assert not any(map(dangerous, values))
    assert json.loads(values)["diagnoses"][0]["guide"] == ATTACK


@pytest.mark.slow
@browser.needs_browser
def test_no_script_of_an_answer_runs_in_a_browser(
    attacked: list[Diagnosis], tmp_path: Path
) -> None:
    policy = re.compile(r"<meta http-equiv=\"Content-Security-Policy[^>]*>")
    page = attacked_page(attacked)
    assert policy.search(page)
    for text in (page, policy.sub("", page)):
        assert "<title>blendin diagnose: " in browser.run(text, tmp_path)
    assert "<title>owned</title>" in browser.run(f"<title>x</title>{SCRIPT}", tmp_path)


def test_bad_reports(several: list[Diagnosis]) -> None:
    with pytest.raises(ValueError, match="nothing to report"):
        html([])
    for others in (several[::-1], several[:1]):
        with pytest.raises(ValueError, match="of other guides"):
            html(others, rank(several))
