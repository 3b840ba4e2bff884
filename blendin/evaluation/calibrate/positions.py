"""The tokens of given answers with what both models said before each: a table of numbers.

It has what gate, α and every policy's distribution at a given token follow from, at any
temperature, and none of the logits: about 3 KB a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .curves import Floats, log_total

Numbers = NDArray[np.float64]
Places = NDArray[np.int64]

JOINT = 32
"""How many of each model's likeliest symbols are listed with both models' probabilities."""

OWN = 256
"""How many of the base's likeliest candidates are listed by probability alone, for `Defer`."""


@dataclass(frozen=True, eq=False)
class Side:
    """What one model says, N rows; distances are from the row's highest logit, in nats.

    Attributes:
        curves: `[N, nodes, 2]`, log Σ exp(−distance / T) (`curves.curve`).
        top: `[N]`, the distance of its likeliest token that is no end token; of the guide, among
            the candidates.
        ends: `[N, E]`, those of the end tokens.
        given: `[N]`, that of the given token; infinite where the vocabulary lacks it.
        mass: `[N]`, the probability of all candidates and END at temperature 1.
        choice: `[N]`, its choice at temperature 1, a symbol.
    """

    curves: Floats
    top: Floats
    ends: Floats
    given: Floats
    mass: Floats
    choice: Places

    def top_prob(self, temperature: float = 1.0) -> Numbers:
        """`[N]`, p_b or p_g."""
        score = np.maximum(-self.top.astype(np.float64) / temperature, self._end(temperature))
        return np.exp(score - log_total(self.curves, temperature))

    def given_log_prob(self, temperature: float = 1.0) -> Numbers:
        """`[N]`, the log-probability of the given token; −inf where the vocabulary lacks it."""
        return -self.given.astype(np.float64) / temperature - log_total(self.curves, temperature)

    def prob_at(self, distance: Floats, is_end: NDArray[np.bool_], temperature: float) -> Numbers:
        """`[N]`, the probability of a symbol a row: its distance, or that it is END."""
        score = np.where(is_end, self._end(temperature), -distance.astype(np.float64) / temperature)
        return np.exp(score - log_total(self.curves, temperature))

    def _end(self, temperature: float) -> Numbers:
        return np.logaddexp.reduce(-self.ends.astype(np.float64) / temperature, axis=1)


@dataclass(frozen=True, eq=False)
class Positions:
    """N tokens of answers.

    Attributes:
        item: `[N]`, which answer each is of.
        given: `[N]`, the given token, a symbol.
        base, guide: what the models say.
        guide_choice_in_base: `[N]`, the base's distance of t_g; infinite where it lacks it.
        is_end: `[N]`, whether t_g is END.
        symbols: `[N, 2 · JOINT + 2]`, the likeliest of either model, no candidate twice.
        base_probs, guide_probs: of each of these at temperature 1; 0 for a repeated one.
        own: `[N, OWN]`, the base's likeliest candidates' probabilities, descending.
    """

    item: Places
    given: Places
    base: Side
    guide: Side
    guide_choice_in_base: Floats
    is_end: NDArray[np.bool_]
    symbols: Places
    base_probs: Floats
    guide_probs: Floats
    own: Floats

    def __len__(self) -> int:
        return len(self.item)

    def agreement(self, temperature: float = 1.0) -> Numbers:
        """`[N]`, P_B(t_g)."""
        return self.base.prob_at(self.guide_choice_in_base, self.is_end, temperature)

    @property
    def base_right(self) -> NDArray[np.bool_]:
        """`[N]`, whether the base's choice is the given token."""
        return self.base.choice == self.given

    @property
    def guide_right(self) -> NDArray[np.bool_]:
        """`[N]`, whether the guide's is."""
        return self.guide.choice == self.given

    @property
    def guide_has(self) -> NDArray[np.bool_]:
        """`[N]`, whether the guide's vocabulary has the given token."""
        return np.isfinite(self.guide.given)

    def where(self, chosen: NDArray[Any]) -> Positions:
        """Some of the rows: a mask or places."""
        return Positions.of({name: values[chosen] for name, values in self.arrays().items()})

    @staticmethod
    def joined(parts: Sequence[Positions]) -> Positions:
        """All rows of several, one after the other."""
        tables = [part.arrays() for part in parts]
        return Positions.of({name: np.concatenate([t[name] for t in tables]) for name in tables[0]})

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Every array by its name, the models' as "base.curves" and the like."""
        found: dict[str, NDArray[Any]] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Side):
                found |= {f"{each.name}.{f.name}": getattr(value, f.name) for f in fields(Side)}
            else:
                found[each.name] = value
        return found

    @staticmethod
    def of(arrays: Mapping[str, NDArray[Any]]) -> Positions:
        """From what `arrays` gives."""
        given: dict[str, Any] = {
            role: Side(**{f.name: arrays[f"{role}.{f.name}"] for f in fields(Side)})
            for role in ("base", "guide")
        }
        given |= {each.name: arrays[each.name] for each in fields(Positions) if each.name in arrays}
        return Positions(**given)
