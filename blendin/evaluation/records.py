"""What a run keeps of each item: one line of JSON, enough to score and to diagnose it again."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Self

from ..trace import Generation

DIGITS = 5
"""Decimal places of the probabilities in a record."""


@dataclass(frozen=True, slots=True)
class Steps:
    """The trace of one answer in columns, one entry a step; None where there is no number.

    Attributes:
        text: what became readable with the step.
        intervened: whether the guide was asked.
        source: "base", "guide" or "both".
        base_top_prob: p_b.
        guide_top_prob: p_g.
        alpha: α.
        agreement: P_B(t_g).
        agreement_rank: the rank of the guide's choice among the base's tokens, 1 the likeliest;
            None where the base's vocabulary lacks it, or only one of the two was asked.
    """

    text: list[str] = field(default_factory=list)
    intervened: list[bool] = field(default_factory=list)
    source: list[str] = field(default_factory=list)
    base_top_prob: list[float | None] = field(default_factory=list)
    guide_top_prob: list[float | None] = field(default_factory=list)
    alpha: list[float | None] = field(default_factory=list)
    agreement: list[float | None] = field(default_factory=list)
    agreement_rank: list[int | None] = field(default_factory=list)

    @classmethod
    def of(cls, output: Generation) -> Self:
        def column(name: str) -> list[Any]:
            values = [getattr(step, name) for step in output.steps]
            return [round(v, DIGITS) if isinstance(v, float) else v for v in values]

        return cls(**{each.name: column(each.name) for each in fields(cls)})

    def __len__(self) -> int:
        return len(self.intervened)


@dataclass(frozen=True, slots=True)
class Record:
    """One item under one arm.

    Attributes:
        id: the item's name in its data set.
        metrics: the scorer's numbers, by name.
        tokens: steps, or tokens of the texts that were scored.
        interventions: among them.
        seconds: wall-clock time of the item, including waits for others in its batch.
        elapsed: seconds since the record before it in the file; they add up to the arm's time.
        text: what was written; empty where given texts were scored.
        stop_reason: "end", "length" or "stop"; None where it failed or texts were scored.
        error: what went wrong, else None. A record with an error has no metrics.
        steps: the trace; empty where texts were scored.
        log_likelihoods: of each given text, in nats; empty where an answer was written, or as
            earlier versions kept it.
    """

    id: str
    metrics: dict[str, float]
    tokens: int
    interventions: int
    seconds: float
    elapsed: float
    text: str = ""
    stop_reason: str | None = None
    error: str | None = None
    steps: Steps = field(default_factory=Steps)
    log_likelihoods: list[float] = field(default_factory=list)

    @classmethod
    def of(
        cls, id: str, output: Generation, metrics: Mapping[str, float], *, elapsed: float
    ) -> Self:
        """From a result of `BlendInGenerator.generate`."""
        return cls(
            id,
            dict(metrics),
            tokens=len(output.steps),
            interventions=output.interventions,
            seconds=output.seconds,
            elapsed=elapsed,
            text=output.text,
            stop_reason=output.stop_reason,
            error=output.error,
            steps=Steps.of(output),
        )

    @property
    def intervention_rate(self) -> float:
        """Interventions over tokens; 0 where there is none."""
        return self.interventions / self.tokens if self.tokens else 0.0

    @property
    def mean_alpha(self) -> float | None:
        """The mean of α over the interventions."""
        alphas = [alpha for alpha in self.steps.alpha if alpha is not None]
        return sum(alphas) / len(alphas) if alphas else None

    def to_json(self) -> str:
        """One line, without its end."""
        summary = {"intervention_rate": self.intervention_rate, "mean_alpha": self.mean_alpha}
        line = json.dumps(asdict(self) | summary, ensure_ascii=False)
        try:
            line.encode()
        except (
            UnicodeEncodeError
        ):  # half a character: JSON can escape it, UTF-8 has no place for it
            return json.dumps(asdict(self) | summary)
        return line

    @classmethod
    def from_json(cls, line: str) -> Self:
        """From a line of `to_json`.

        Raises:
            ValueError: it is none.
        """
        try:
            values = {"log_likelihoods": []} | json.loads(line)
            known = {each.name: values[each.name] for each in fields(cls)}
            record = cls(**known | {"steps": Steps(**values["steps"])})
            whole = record._is_whole()
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"no record: {error}") from error
        if not whole:
            raise ValueError("no record: a value is of another kind")
        return record

    def _is_whole(self) -> bool:
        """Whether every value is of its kind; files of results may be damaged."""
        columns = [getattr(self.steps, each.name) for each in fields(Steps)]
        texts = (self.id, self.text, self.stop_reason or "", self.error or "")
        return (
            all(isinstance(text, str) for text in texts)
            and all(isinstance(n, int) and n >= 0 for n in (self.tokens, self.interventions))
            and all(isinstance(n, int | float) for n in (self.seconds, self.elapsed))
            and all(isinstance(n, int | float) for n in self.metrics.values())
            and all(isinstance(n, int | float) for n in self.log_likelihoods)
            and all(isinstance(c, list) and len(c) == len(columns[0]) for c in columns)
        )


def plain(value: Any) -> Any:
    """For JSON: records as dictionaries, NaN and infinity as None, other objects as text.

    Equal values are equal in every process: sets are sorted, and texts have no addresses.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))
