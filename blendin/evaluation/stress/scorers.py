"""What scores the steps of a chain: a policy's likelihood, the base's, the guide's, or a PRM's.

The interface is `StepScorer`. A step's score is in 0..1: a reward model's probability that it is
right, or of a language model the geometric mean of its tokens' probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ...policy import BaseOnly, GuideOnly, Policy, described

if TYPE_CHECKING:
    from ...engine.scoring import Score
    from ...generator import BlendInGenerator

POLICY, BASE, GUIDE = OF_PAIR = ("policy", "base", "guide")
DIGITS = 6


class TokenTrace(NamedTuple):
    """One token of a chain, as the policy met it.

    Attributes:
        step: the place of the step that its first byte belongs to; a line's end belongs to the
            step before it.
        offset: that byte's place in the step's text, which may be −1 for a blank before it.
        length: of the token, in bytes.
        base_top_prob: p_b.
        guide_top_prob: p_g, at interventions.
        alpha: α, at interventions.
    """

    step: int
    offset: int
    length: int
    base_top_prob: float
    guide_top_prob: float | None
    alpha: float | None


@dataclass(frozen=True)
class Scored:
    """The scores of a chain's steps.

    Attributes:
        scores: of each step, 0..1, by the scorer's name.
        trace: of each token, where a policy read the chain; empty otherwise.
        error: why there are no scores; None where there are.
    """

    scores: Mapping[str, Sequence[float]]
    trace: Sequence[TokenTrace] = field(default=())
    error: str | None = None


class StepScorer(Protocol):
    """Scores chains of one problem.

    Attributes:
        names: of the scores that it gives.
        identity: what they depend on beside the texts, for JSON.
    """

    names: tuple[str, ...]
    identity: Mapping[str, Any]

    def __call__(self, question: str, chains: Sequence[Sequence[str]]) -> list[Scored]:
        """Scores the chains of one question, each a list of its steps' texts."""
        ...


class PairScorer:
    """The likelihood of the steps under a policy of a pair, and perhaps the base's beside it."""

    def __init__(
        self,
        gen: BlendInGenerator,
        policy: Policy,
        names: Sequence[str],
        system: str | None,
        identity: Mapping[str, Any],
    ) -> None:
        """Args:
        gen: the pair.
        policy: what reads the chains.
        names: the policy's, and "base" for the base's own likelihood, which it gives for free.
        system: text of both models' prompts.
        identity: of the pair and the policy.
        """
        self.gen, self.policy, self.system = gen, policy, system
        self.names, self.identity = tuple(names), identity

    def __call__(self, question: str, chains: Sequence[Sequence[str]]) -> list[Scored]:
        """As `StepScorer`.

        Raises:
            ValueError: a chain does not fit into a context.
        """
        alone = isinstance(self.policy, GuideOnly)
        space = "" if alone else " "  # the base's prompt ends in a colon, a turn in a newline
        texts = [space + "\n".join(steps) for steps in chains]
        found = self.gen.score(question, texts, policy=self.policy, system=self.system)
        model = self.gen.guide if alone else self.gen.base
        token_bytes = model.vocabulary.tokens
        scored = []
        for score, steps in zip(found, chains, strict=True):
            tokens = [token_bytes[id] or b"" for id in score.token_ids]
            scored.append(self._scored(score, tokens, steps, len(space)))
        return scored

    def _scored(
        self, score: Score, tokens: Sequence[bytes], steps: Sequence[str], shift: int
    ) -> Scored:
        places = places_of(tokens, steps, shift)
        scores: dict[str, list[float]] = {}
        for name in self.names:
            values = (
                [token.base_log_likelihood or 0.0 for token in score.tokens]
                if name == BASE
                else list(score.token_log_likelihoods)
            )
            by_step: list[list[float]] = [[] for _ in steps]
            for value, (step, _) in zip(values, places, strict=True):
                by_step[step].append(value)
            scores[name] = [_geometric_mean(own) for own in by_step]
        if isinstance(self.policy, BaseOnly | GuideOnly):
            return Scored(scores)
        trace = [
            TokenTrace(step, offset, len(token), _rounded(known.base_top_prob) or 0.0,
                       _rounded(known.guide_top_prob), _rounded(known.alpha))
            for token, (step, offset), known in zip(tokens, places, score.tokens, strict=True)
        ]  # fmt: skip
        return Scored(scores, trace)


def places_of(tokens: Sequence[bytes], steps: Sequence[str], shift: int) -> list[tuple[int, int]]:
    """Of each token the step that its first byte is in, and that byte's place in the step.

    Args:
        tokens: of the steps joined by newlines.
        steps: their texts.
        shift: bytes before the first step, which belong to it.

    Raises:
        ValueError: the tokens are of another text.
    """
    whole = b"".join(tokens)
    if whole[shift:] != "\n".join(steps).encode():
        raise ValueError("the tokens' bytes are not the chain's text: this tokenizer changes texts")
    starts, at = [], shift
    for step in steps:
        starts.append(at)
        at += len(step.encode()) + 1
    found, byte, step_now = [], 0, 0
    for token in tokens:
        while step_now + 1 < len(starts) and byte >= starts[step_now + 1]:
            step_now += 1
        found.append((step_now, byte - starts[step_now]))
        byte += len(token)
    return found


def _geometric_mean(log_values: Sequence[float]) -> float:
    if not log_values:  # its whole text is in a token of the step before
        return 1.0
    return round(math.exp(math.fsum(log_values) / len(log_values)), DIGITS)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def pair_scorers(
    gen: BlendInGenerator,
    policies: Mapping[str, Policy],
    wanted: Sequence[str],
    system: str | None,
) -> list[PairScorer]:
    """What gives the wanted scores of a pair in as few passes as it takes.

    Args:
        gen: the pair.
        policies: by the names that their scores have.
        wanted: further ones: "base", "guide".
        system: text of both models' prompts.
    """
    asked: list[tuple[Policy, tuple[str, ...]]] = [(each, (n,)) for n, each in policies.items()]
    if BASE in wanted:
        if asked and asked[0][0].reads_base:
            asked[0] = (asked[0][0], (*asked[0][1], BASE))
        else:
            asked.append((BaseOnly(), (BASE,)))
    if GUIDE in wanted:
        asked.append((GuideOnly(), (GUIDE,)))
    pair = {
        "models": _without_answers(gen.pair.identity),
        "dtype": [gen.base.precision, gen.guide.precision],
        "system": system,
    }
    return [
        PairScorer(gen, each, names, system, pair | {"policy": described(each)})
        for each, names in asked
    ]


def _without_answers(identity: Any) -> Any:
    """What is known of models but a server's own words, which differ in their last digits."""
    if isinstance(identity, Mapping):
        return {k: _without_answers(v) for k, v in identity.items() if k != "answer"}
    return identity
