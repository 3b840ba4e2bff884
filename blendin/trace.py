"""What was done: one record a step, and the result of a generation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from html import escape
from pathlib import Path
from typing import Any, Literal, Self

from .candidates import StepCandidates
from .files import write_whole
from .shades import INK, shade
from .visible import to_json, visible

Source = Literal["base", "guide", "both"]
StopReason = Literal["end", "length", "stop"]
DraftOutcome = Literal["accepted", "rejected"]

FORMAT, FORMAT_VERSION = "blendin.Generation", 1
"""How a file of `Generation.save` says what it is."""

RATE_LIMIT = 0.2
"""The paper's line: pairs that intervene more often than this tend to fail."""

SHOWN = 60
"""Characters of a text in a repr."""

MEANINGS: Mapping[str, str] = {"both": "blended from both", "guide": "the guide's alone"}
"""What the sources of interventions are in words."""


@dataclass(frozen=True, slots=True)
class Step:
    """One decided symbol.

    Attributes:
        text: what became certain with this step; the joined texts are the generation's text. Half
            a character, and what may become a stop text, appear with the step that decides.
        token_bytes: the bytes of the symbol; empty for END and for special tokens.
        source: which models gave the symbol weight: "base" alone (every confident step), the
            "guide" alone, or "both" (a blend).
        intervened: whether the guide was consulted.
        base_top_prob: p_b, the base's highest probability, as the gate reads it: at the temperature
            of a calibration, if there is one.
        guide_top_prob: p_g, the guide's highest probability among the candidates, as α reads it.
        alpha: α, the guide's weight; 1 where its word is accepted as it is.
        agreement: P_B(t_g), the base's probability of the guide's choice.
        agreement_rank: 1 and how many of the base's tokens are likelier than the guide's choice;
            None where the base's vocabulary lacks it.
        token_ids: what entered the base's context (the guide's under `GuideOnly`).
        is_end: whether the symbol is END.
        draft: whether the draft token for this place, if there was one, was this one. Drafts
            depend on measured times, so equal steps may differ in it.
        candidates: what else was likely, and how likely; None where `trace_top` did not ask for it.

    Numbers are None where they were not computed.
    """

    text: str
    token_bytes: bytes
    source: Source
    intervened: bool
    base_top_prob: float | None = None
    guide_top_prob: float | None = None
    alpha: float | None = None
    agreement: float | None = None
    agreement_rank: int | None = None
    token_ids: tuple[int, ...] = ()
    is_end: bool = False
    draft: DraftOutcome | None = field(default=None, compare=False)
    candidates: StepCandidates | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON; the bytes in hexadecimal."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return fields | {
            "token_bytes": self.token_bytes.hex(),
            "token_ids": list(self.token_ids),
            "candidates": self.candidates and self.candidates.to_dict(),
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Self:
        """The step that `to_dict` told of.

        Raises:
            KeyError, TypeError, ValueError: it is not of that form.
        """
        own = {name: told[name] for name in cls.__slots__ if name != "candidates"}
        data, ids = bytes.fromhex(own["token_bytes"]), tuple(own["token_ids"])
        candidates = told.get("candidates")  # of late: older files have none
        if candidates is not None:
            candidates = StepCandidates.from_dict(candidates)
        return cls(**own | {"token_bytes": data, "token_ids": ids, "candidates": candidates})


@dataclass(repr=False)
class Generation:
    """The result of decoding one prompt; grows while it is being decoded.

    Attributes:
        text: the steps' bytes decoded, cut before a `stop` string.
        steps: one record a step, the one that emitted END included.
        stop_reason: "end", "length" or "stop"; None while decoding, or where it was interrupted
            or failed.
        error: of a sequence that failed among others, what went wrong; else None.
        seconds: wall-clock time from the first forward to the last step, prompts included.
        base_forwards: that the base made for it, alone or with others.
        guide_forwards: likewise.
        settings: models, policy, sampling and prompts, as they were.
    """

    text: str = ""
    steps: list[Step] = field(default_factory=list)
    stop_reason: StopReason | None = None
    error: str | None = None
    seconds: float = 0.0
    base_forwards: int = 0
    guide_forwards: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """One line: how the text begins, and the figures."""
        return f"Generation({_shortened(self.text)!r}, {self.figures})"

    def _repr_html_(self) -> str:
        """For notebooks: the text coloured by who chose it, p_b, p_g and α on each token."""
        tokens = "".join(map(_token_html, self.steps))
        error = f"<div><b>error:</b> {escape(visible(self.error))}</div>" if self.error else ""
        legend = " ".join(
            f'<span style="{_style(source, 1.0)}">{meaning}</span>'
            for source, meaning in MEANINGS.items()
        )
        return (
            f'<div class="blendin"><div style="white-space:pre-wrap">{tokens}</div>{error}'
            f'<div style="opacity:.7;font-size:.85em;margin-top:.5em">{escape(self.figures)} · '
            f"base alone {legend}</div></div>"
        )

    @property
    def figures(self) -> str:
        """Tokens, how it ended and the intervention rate, in words."""
        if self.error is not None:
            end = f"failed: {_shortened(visible(' '.join(self.error.split())))}"
        else:
            end = f"stopped by {self.stop_reason}" if self.stop_reason else "not finished"
        count = len(self.steps)
        tokens = "1 token" if count == 1 else f"{count} tokens"
        return f"{tokens}, {end}, intervention rate {self.intervention_rate:.2f}"

    @property
    def token_ids(self) -> list[int]:
        """The ids generated, the end token's included, in the base's vocabulary.

        Under `GuideOnly`, in the guide's.
        """
        return [id for step in self.steps for id in step.token_ids]

    @property
    def interventions(self) -> int:
        return sum(step.intervened for step in self.steps)

    @property
    def intervention_rate(self) -> float:
        """Interventions over steps; 0 where there is no step yet."""
        return self.interventions / len(self.steps) if self.steps else 0.0

    @property
    def mean_alpha(self) -> float | None:
        """The mean of α over the interventions."""
        alphas = [step.alpha for step in self.steps if step.alpha is not None]
        return sum(alphas) / len(alphas) if alphas else None

    @property
    def tokens_per_second(self) -> float:
        """Steps over seconds."""
        return len(self.steps) / self.seconds if self.seconds else 0.0

    @property
    def stats(self) -> dict[str, Any]:
        """What it took: tokens, forwards of each model, and the acceptance of drafts.

        `acceptance_rate` is the share of accepted draft tokens among those that were decided; None
        where nothing was drafted.
        """
        drafted = [step.draft for step in self.steps if step.draft is not None]
        accepted = drafted.count("accepted")
        return {
            "tokens": len(self.steps),
            "tokens_per_second": self.tokens_per_second,
            "base_forwards": self.base_forwards,
            "guide_forwards": self.guide_forwards,
            "drafted": len(drafted),
            "accepted": accepted,
            "acceptance_rate": accepted / len(drafted) if drafted else None,
        }

    def summary(self) -> dict[str, Any]:
        return {
            "text": self.text,
            "stop_reason": self.stop_reason,
            "error": self.error,
            "intervention_rate": self.intervention_rate,
            "interventions": self.interventions,
            "mean_alpha": self.mean_alpha,
            "seconds": self.seconds,
            **self.stats,
            "token_ids": self.token_ids,
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON: the summary, the settings and the steps."""
        return {
            **self.summary(),
            "settings": dict(self.settings),
            "steps": [step.to_dict() for step in self.steps],
        }

    def save(self, path: str | Path) -> None:
        """Everything into one JSON file, which `load` reads back; a file of that name is replaced.

        Raises:
            OSError: it cannot be written.
        """
        whole = {"format": FORMAT, "version": FORMAT_VERSION, **self.to_dict()}
        write_whole(path, to_json(whole, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What `save` wrote, equal to it in everything.

        Raises:
            ValueError: the file is another or damaged.
            OSError: it cannot be read.
        """
        try:
            told = json.loads(Path(path).read_text("utf-8", errors="surrogatepass"))
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} is no file of Generation.save: it is no JSON ({error})"
            ) from error
        if not isinstance(told, dict) or told.get("format") != FORMAT:
            raise ValueError(f"{path} is no file of Generation.save: pass one that save() wrote")
        if told.get("version") != FORMAT_VERSION:
            raise ValueError(
                f"{path} has version {told.get('version')!r} of the format and this blendin reads "
                f"{FORMAT_VERSION}: read it with the blendin that wrote it"
            )
        try:
            own = {each.name: told[each.name] for each in fields(cls)}
            if not isinstance(own["text"], str):
                raise TypeError("text")
            own["steps"] = [Step.from_dict(step) for step in own["steps"]]
            own["settings"] = _with_tuples(own["settings"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{path} is damaged: {type(error).__name__} at {error}; save it anew"
            ) from error
        return cls(**own)

    def write_jsonl(self, path: str | Path) -> None:
        """One line a step, in order; a file of that name is replaced.

        Raises:
            OSError: it cannot be written.
        """
        write_whole(path, "".join(to_json(step.to_dict()) + "\n" for step in self.steps))


def _with_tuples(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they were before JSON made lists of tuples."""
    settings = dict(settings)
    return settings | ({"stop": tuple(settings["stop"])} if "stop" in settings else {})


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _token_html(step: Step) -> str:
    if not step.text:
        return ""
    numbers = {"p_b": step.base_top_prob, "p_g": step.guide_top_prob, "α": step.alpha}
    known = [f"{name} {value:.3f}" for name, value in numbers.items() if value is not None]
    source = MEANINGS.get(step.source, "base alone")
    style = _style(step.source, step.alpha) if step.intervened else ""
    title = escape(" · ".join([source, *known]))
    return f'<span title="{title}" style="{style}">{escape(visible(step.text))}</span>'


def _style(source: str, alpha: float | None) -> str:
    if source not in MEANINGS:
        return "opacity:.7"
    colours = (f"background:rgb{shade(source, alpha)}", f"color:rgb{INK}")
    return ";".join(colours).replace(" ", "")
