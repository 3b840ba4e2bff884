"""The record of a generation: text, stops, JSON lines, and what a terminal shows."""

from __future__ import annotations

import codecs
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

PIECES = tuple(piece.encode() for piece in ("a", "b", "ab", "ba", "\n", "a\n", "é", "👩"))


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
        assert out.stop_reason is None
        sequence.record(b"", source="base", intervened=False, is_end=True)
        assert out.text == whole
        return
    assert out.stop_reason == "stop"
    # The stop that is complete first ends it, cut where the earliest of those then complete begins.
    emitted = b"".join(step.token_bytes for step in out.steps).decode()
    last = len(out.steps[-1].token_bytes)
    assert not any(stop in emitted[: -last or None] for stop in stops)
    assert out.text == emitted[: min(emitted.find(stop) for stop in stops if stop in emitted)]


@settings(max_examples=300)
@given(
    st.lists(st.binary(max_size=2) | st.sampled_from(PIECES), max_size=12),
    st.lists(st.text("ab\né👩", min_size=1, max_size=4), max_size=3),
    st.sampled_from(("end", "length", None)),
)
def test_streamed_pieces_join_to_the_text_and_nothing_is_taken_back(
    pieces: list[bytes], stops: list[str], end: str | None
) -> None:
    """What was given out is a beginning of the text, and no more is held than may be a stop."""
    sequence = of(Limits(len(pieces) if end == "length" and pieces else 1000, tuple(stops)))
    out, given = sequence.output, ""
    for piece in pieces:
        if sequence.done:
            break
        given += sequence.record(piece, source="base", intervened=False).text
        whole = b"".join(step.token_bytes for step in out.steps)
        assert given == out.text
        if not sequence.done:
            held = whole[len(given.encode("utf-8", "replace")) :] if is_text(whole) else b""
            assert any(stop.encode().startswith(held) for stop in stops) or is_half(held)
    if end == "end" and not sequence.done:
        given += sequence.record(b"", source="base", intervened=False, is_end=True).text
    assert given == out.text == "".join(step.text for step in out.steps)
    whole = b"".join(step.token_bytes for step in out.steps).decode("utf-8", "replace")
    if out.stop_reason in ("end", "length"):
        assert out.text == whole
    if out.stop_reason == "stop":
        assert any(whole[len(out.text) :].startswith(stop) for stop in stops)
    assert whole.startswith(out.text)


def is_text(data: bytes) -> bool:
    """Whether it is UTF-8, but for half a character at its end."""
    return "\N{REPLACEMENT CHARACTER}" not in codecs.getincrementaldecoder("utf-8")(
        "replace"
    ).decode(data)


def is_half(data: bytes) -> bool:
    """Whether it is nothing, or text that ends with half a character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return decoder.decode(data) == ""


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
    described = {name: value for name, value in vars(Blend()).items() if name != "calibration"}
    assert told["settings"]["policy"] == {"name": "Blend", **described}
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
