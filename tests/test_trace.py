"""The record of a generation: text, stops, JSON lines, and what a terminal shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import generator
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from blendin import Blend, BlendInGenerator, Generation, Nudge, Step
from blendin.cli import terminal as view
from blendin.engine.sequence import Limits, SequenceState
from blendin.sampling import Sampling


def of(limits: Limits) -> SequenceState:
    """A sequence without models, to be written to."""
    alignment: Any = None
    return SequenceState(
        alignment,
        None,
        None,
        policy=Blend(),
        limits=limits,
        sampling=Sampling(),
        index=0,
        settings={},
    )


EMOJI = "👩‍👩‍👧 日本語 é"


def replay(data: list[bytes], stop: tuple[str, ...] = (), length: int = 10_000) -> SequenceState:
    """A sequence to which these symbols were emitted, until it ended."""
    sequence = of(Limits(length, stop))
    for piece in data:
        if not sequence.done:
            sequence.record(piece, source="base", intervened=False)
    return sequence


@given(st.lists(st.binary(max_size=3), max_size=20))
def test_steps_texts_join_to_the_bytes_decoded(pieces: list[bytes]) -> None:
    sequence = replay(pieces)
    sequence.record(b"", source="base", intervened=False, is_end=True)
    out = sequence.output
    assert "".join(step.text for step in out.steps) == out.text
    assert out.text == b"".join(pieces).decode("utf-8", "replace")
    assert out.stop_reason == "end"


def test_a_character_split_over_steps_appears_whole_with_its_last_byte() -> None:
    out = replay([bytes([byte]) for byte in EMOJI.encode()]).output
    assert out.text == EMOJI
    assert "�" not in "".join(step.text for step in out.steps)


@settings(max_examples=300)
@given(
    st.lists(st.text("ab\n", min_size=0, max_size=3), max_size=12),
    st.lists(st.text("ab\n", min_size=1, max_size=3), min_size=1, max_size=3),
)
def test_the_text_ends_before_the_first_stop(pieces: list[str], stops: list[str]) -> None:
    sequence = replay([piece.encode() for piece in pieces], tuple(stops))
    out = sequence.output
    whole = "".join(pieces)
    found = [whole.find(stop) for stop in stops if stop in whole]
    if not found:
        assert out.text == whole
        assert out.stop_reason is None
        return
    assert out.stop_reason == "stop"
    # The stop that is complete first ends it, cut where the earliest of those then complete begins.
    emitted = "".join(step.text for step in out.steps)
    assert not any(stop in emitted[: -len(out.steps[-1].text) or None] for stop in stops)
    assert out.text == emitted[: min(emitted.find(stop) for stop in stops if stop in emitted)]


@settings(max_examples=300)
@given(
    st.lists(st.text("ab\n", min_size=0, max_size=3), max_size=12),
    st.lists(st.text("ab\n", min_size=1, max_size=3), max_size=3),
)
def test_what_is_shown_live_is_the_text_and_never_a_stop(
    pieces: list[str], stops: list[str]
) -> None:
    sequence = of(Limits(1000, tuple(stops)))

    def steps():
        for piece in pieces:
            if not sequence.done:
                yield sequence.record(piece.encode(), source="base", intervened=False)

    shown = [text for text, _ in view.shown(steps(), sequence.output, stops)]
    assert "".join(shown) == sequence.output.text


def test_length_is_counted_in_steps() -> None:
    gen = generator(("llama", "byte-level", 0), ("llama", "sentencepiece", 1))
    out = gen.generate("a", policy=Nudge(threshold=2), max_new_tokens=7)
    assert len(out.steps) == 7
    assert out.stop_reason == "length"


@pytest.fixture
def out() -> Generation:
    gen = generator(("llama", "byte-level", 0), ("llama", "sentencepiece", 1))
    return gen.generate("How many?", system="Be brief.", max_new_tokens=20)


def test_json_lines_hold_every_step(out: Generation, tmp_path: Path) -> None:
    out.write_jsonl(tmp_path / "trace.jsonl")
    steps = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    assert [bytes.fromhex(step["token_bytes"]) for step in steps] == [
        step.token_bytes for step in out.steps
    ]
    for name in ("text", "source", "intervened", "base_top_prob", "alpha", "agreement"):
        assert [step[name] for step in steps] == [getattr(step, name) for step in out.steps]


def test_json_holds_what_reproduces_the_run(out: Generation) -> None:
    told = json.loads(json.dumps(out.to_dict()))
    assert told["text"] == out.text
    assert told["intervention_rate"] == out.intervention_rate
    assert told["settings"]["policy"] == {"name": "Blend", **vars(Blend())}
    assert told["settings"]["base_prompt"] == "Be brief.\nQuestion: How many?\nAnswer:"
    assert len(told["steps"]) == 20


def test_a_stream_gives_the_steps_and_keeps_what_was_done() -> None:
    gen = generator(("llama", "byte-level", 0), ("llama", "sentencepiece", 1))
    whole = gen.generate("How many?", max_new_tokens=10)
    stream = gen.stream("How many?", max_new_tokens=10)
    first = [next(stream) for _ in range(4)]
    assert first == whole.steps[:4]
    assert stream.output.steps == first
    assert stream.output.stop_reason is None
    assert [*first, *stream] == whole.steps
    assert stream.output.text == whole.text


def test_colours_tell_source_and_alpha() -> None:
    def styled(source: str, intervened: bool, alpha: float | None = None) -> str:
        return str(view.token_style(Step("x", b"x", source, intervened, alpha=alpha)))  # type: ignore[arg-type]

    assert styled("base", False) == "not dim"
    shades = {styled(source, True, alpha) for source in ("both", "guide") for alpha in (0.1, 0.9)}
    assert len(shades) == 4


def test_the_figures_are_the_generations(out: Generation) -> None:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))
    console.print(view.side_by_side({"BlendIn": out}, 200))
    text = console.export_text()
    assert f"interventions {out.interventions}/20" in text
    assert "stopped by length" in text


def test_two_tokenizers_carry_split_characters_both_ways() -> None:
    """Emoji and CJK cut into bytes by either side arrive whole in the text."""
    for base, guide in (("byte-level", "sentencepiece"), ("sentencepiece", "byte-level")):
        gen: BlendInGenerator = generator(("llama", base, 0), ("llama", guide, 1))
        alignment = gen.pair.alignment
        for piece in (EMOJI.encode()[i : i + 1] for i in range(len(EMOJI.encode()))):
            guide_id = gen.guide.vocabulary.canonical[piece]
            symbol = int(alignment.tables.guide_symbols[guide_id])
            assert alignment.data(symbol) == piece
            assert alignment.guide_ids(symbol) == [guide_id]
            ids = alignment.base_ids(symbol)
            assert b"".join(gen.base.vocabulary.tokens[id] or b"" for id in ids) == piece
