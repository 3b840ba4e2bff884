"""Given answers read by both models: every token of theirs becomes a row of `Positions`.

Both contexts grow as they do when a text is scored with an intervention at every token
(docs/contract.md, "Scoring a given text"), so that one forward of each model reads an answer.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...files import write_whole
from ...visible import to_json
from ..runs.benchmark import of_models
from ..tasks.task import digest_of
from .answers import Answer
from .curves import curve
from .positions import JOINT, OWN, Positions, Side

if TYPE_CHECKING:
    from torch import Tensor

    from ...decision.prediction import DensePrediction
    from ...engine.pair import Pair
    from ...engine.sequence import SequenceState
    from ...generator import BlendInGenerator
    from ...models.context import Context
    from ...models.protocol import Model

TABLE_VERSION = 1
AT_ONCE = {"cpu": 32}
"""Tokens whose logits are held at once, by kind of device; elsewhere 256."""


class Collected(NamedTuple):
    """What was read.

    Attributes:
        positions: of all answers; `item` is their place in the list.
        left_out: tokens that the base cannot emit at an intervention, or before which the guide
            could not read on; by reason.
        cut: answers of which the end did not fit into a model's context.
    """

    positions: Positions
    left_out: Mapping[str, int]
    cut: int


def collect(gen: BlendInGenerator, answers: Sequence[Answer], folder: Path) -> Iterator[int]:
    """Reads the answers that the folder does not have yet, and keeps each; yields their places.

    Raises:
        ValueError: a model does not tell its whole softmax, or the folder is of other models,
            answers or another version.
    """
    pair = gen.pair
    for role in ("base", "guide"):
        model = pair.model(role)
        if model.top is not None or (role == "base" and pair.driver is not None):
            raise ValueError(
                f"calibrating takes the {role}'s whole softmax, which {model.name} does not tell "
                "here: load the model by name or folder"
            )
    _claim(folder, of_models(gen), answers)
    for place, answer in enumerate(answers):
        if not (file := _file(folder, place)).exists():
            write_whole(file, _packed(*_read(pair, answer)))
        yield place


def collected(folder: Path, answers: Sequence[Answer]) -> Collected:
    """What `collect` has read, all of it.

    Raises:
        ValueError: not one token was left to learn from.
    """
    parts, left_out, cut = [], {"no candidate of the base": 0, "the guide cannot read on": 0}, 0
    for place in range(len(answers)):
        with np.load(_file(folder, place)) as stored:
            arrays = {name: stored[name] for name in stored.files}
        counts = arrays.pop("left_out").tolist()
        left_out = {name: n + m for (name, n), m in zip(left_out.items(), counts[:2], strict=True)}
        cut += counts[2]
        if len(arrays["given"]):
            arrays["item"] = np.full(len(arrays["given"]), place)
            parts.append(Positions.of(arrays))
    if not parts:
        raise ValueError("no token of the answers can be read by both models: give other answers")
    return Collected(Positions.joined(parts), left_out, cut)


def _file(folder: Path, place: int) -> Path:
    return folder / f"{place:05d}.npz"


def _claim(folder: Path, models: Mapping[str, Any], answers: Sequence[Answer]) -> None:
    """Makes the folder this work's own, or finds that it is."""
    ours = {
        "version": TABLE_VERSION,
        "models": models,
        "answers": digest_of([[each.prompt, each.text, each.system] for each in answers]),
    }
    ours = json.loads(to_json(ours))
    manifest = folder / "manifest.json"
    if manifest.exists():
        theirs = json.loads(manifest.read_text())
        for name, value in ours.items():
            if theirs.get(name) != value:
                raise ValueError(
                    f"{folder} has what was read of other {name.replace('version', 'tables')}: "
                    "choose another --out, or delete the folder"
                )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(manifest, to_json(ours, indent=2) + "\n")


def _packed(positions: Positions, left_out: list[int]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, left_out=np.array(left_out), **positions.arrays())  # type: ignore[arg-type]
    return buffer.getvalue()


def _read(pair: Pair, answer: Answer) -> tuple[Positions, list[int]]:
    """One answer's table; how many tokens were left out, by reason, and whether it was cut."""
    import torch

    from ...engine.request import Request
    from ...models.context import Context
    from ...policy import Blend

    asked = Request.of(
        answer.prompt, None, None, default_policy=Blend(2.0), system=answer.system
    ).read(pair)
    assert asked.base is not None and asked.guide is not None
    contexts = Context(list(asked.base.ids)), Context(list(asked.guide.ids))
    tokens = pair.base.vocabulary.encode_bytes(answer.text.encode()) or []
    bounds = [
        model.max_length - len(context.ids)
        for model, context in zip((pair.base, pair.guide), contexts, strict=True)
        if model.max_length is not None
    ]
    lengths = _grow(asked, tokens, min(bounds, default=None))
    symbols = torch.tensor(tokens[: len(lengths)], dtype=torch.long, device=pair.device)
    emitted = pair.tables.base.candidates[symbols].tolist()
    kept = [
        at for at, (length, is_candidate) in enumerate(zip(lengths, emitted, strict=True))
        if is_candidate and length is not None
    ]  # fmt: skip
    parts, size = [], AT_ONCE.get(pair.device.type, 256)
    with torch.inference_mode():
        for begin in range(0, max(1, len(kept)), size):
            some = kept[begin : begin + size]
            in_base = [len(asked.base.ids) - len(tokens[: len(lengths)]) + at for at in some]
            in_guide = [length for at in some if (length := lengths[at]) is not None]
            base = _rows(pair.base, contexts[0], asked.base.ids, in_base)
            guide = _rows(pair.guide, contexts[1], asked.guide.ids, in_guide)
            parts.append(_table(pair, base, guide, symbols[some]))
    silent = sum(length is None for length in lengths)
    counts = [emitted.count(False), silent, int(len(lengths) < len(tokens))]
    return Positions.joined(parts), counts


def _grow(sequence: SequenceState, tokens: list[int], most: int | None) -> list[int | None]:
    """The guide's length before each token that fits, or None where it cannot read so far."""
    assert sequence.base is not None and sequence.guide is not None
    lengths: list[int | None] = []
    start = len(sequence.guide.ids)
    for at, token in enumerate(tokens):
        catches_up = sequence.guide_catches_up()
        if most is not None and max(at, len(sequence.guide.ids) - start) >= most:
            break
        lengths.append(len(sequence.guide.ids) if catches_up else None)
        (sequence.append_both if catches_up else sequence.append_base)(token)
    return lengths


def _rows(model: Model, context: Context, ids: list[int], lengths: list[int]) -> Tensor:
    """`[len(lengths), V]` logits after so many of the ids."""
    import torch

    first, last = (lengths[0], lengths[-1]) if lengths else (len(context.ids), len(context.ids))
    context.ids += ids[len(context.ids) : last]
    rows = model.forward(context, last - first + 1)
    assert isinstance(rows, torch.Tensor)  # no server's lists: `collect` refuses them
    return rows[[length - first for length in lengths]]


def _table(pair: Pair, base_logits: Tensor, guide_logits: Tensor, symbols: Tensor) -> Positions:
    """What both models say of `[N]` given symbols, from `[N, V]` logits each."""
    import torch

    from ...decision.prediction import DensePrediction

    base = DensePrediction(base_logits.to(pair.device), pair.tables.base)
    guide = DensePrediction(guide_logits.to(pair.device), pair.tables.guide, candidates_only=True)
    listed = [each.top(JOINT).symbols for each in (base, guide)]
    repeated = (listed[1][:, :, None] == listed[0][:, None, :]).any(dim=-1)
    first = torch.cat([torch.ones_like(listed[0], dtype=torch.bool), ~repeated], dim=-1)
    joint = torch.cat(listed, dim=-1)
    own = base.top(min(OWN, base_logits.shape[1] - 1)).probs.sort(dim=-1, descending=True).values
    own = torch.nn.functional.pad(own, (0, OWN + 1 - own.shape[1]))
    return Positions(
        item=np.zeros(len(symbols), dtype=np.int64),
        given=symbols.cpu().numpy(),
        base=_side(base, symbols),
        guide=_side(guide, symbols),
        guide_choice_in_base=_distance(base, guide.choice),
        is_end=(guide.choice == pair.tables.end).cpu().numpy(),
        symbols=joint.cpu().numpy(),
        base_probs=_numpy(base.candidate_probs(joint) * first),
        guide_probs=_numpy(guide.candidate_probs(joint) * first),
        own=_numpy(own),
    )


def _side(read: DensePrediction, symbols: Tensor) -> Side:
    import torch

    logits, model = read.logits.float(), read.model
    highest = logits.amax(dim=-1)
    tokens = logits.index_fill(-1, model.ends, -torch.inf)
    if read.candidates_only:
        tokens.masked_fill_(~model.candidates, -torch.inf)
    return Side(
        curves=_numpy(curve(logits)),
        top=_numpy(highest - tokens.amax(dim=-1)),
        ends=_numpy(highest[:, None] - logits[:, model.ends]),
        given=_distance(read, symbols),
        mass=_numpy(read.top(None).probs.sum(dim=-1)),
        choice=read.choice.cpu().numpy(),
    )


def _distance(read: DensePrediction, symbols: Tensor) -> NDArray[np.float32]:
    """How far below the row's highest logit a symbol's is; infinite for END, and if it lacks it."""
    import torch

    tokens = read.model.tokens[symbols]
    own = read.logits.float().gather(-1, tokens.clamp(min=0)[:, None])[:, 0]
    own = own.masked_fill(tokens < 0, -torch.inf)
    return _numpy(read.logits.float().amax(dim=-1) - own)


def _numpy(values: Tensor) -> NDArray[np.float32]:
    return values.float().cpu().numpy()
