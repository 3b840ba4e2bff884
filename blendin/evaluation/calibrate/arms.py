"""What policies make of given answers, from the table: log-likelihood, interventions, choices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...policy import BaseOnly, Blend, Defer, Nudge, Policy
from .fits import blended_probs
from .positions import Numbers, Positions

FLOOR = -20.0
"""No token counts as less likely than e⁻²⁰, under any policy: where one makes a token impossible,
as NUDGING does, its mean would be −∞ whatever else it does."""


class Outcome(NamedTuple):
    """What a policy does at N tokens.

    Attributes:
        log_prob: `[N]`, of the given token, from `FLOOR` up.
        intervenes: `[N]`, where the guide is asked.
        right: `[N]`, whether its greedy choice is the given token.
        impossible: how many tokens it made less likely than `FLOOR`.
    """

    log_prob: Numbers
    intervenes: NDArray[np.bool_]
    right: NDArray[np.bool_]
    impossible: int


@dataclass(frozen=True)
class Arm:
    """A policy under a name, and the sentence that says what it is."""

    name: str
    policy: Policy
    title: str


def outcome(policy: Policy, positions: Positions) -> Outcome:
    """What `blendin.score` gives for the answers under the policy, from the table.

    Of `Defer`, whose masks range over the whole vocabulary, the base's `OWN` likeliest are masked
    one by one; what is less likely is all masked.
    """
    own = positions.base.given_log_prob()
    if isinstance(policy, BaseOnly):
        nowhere = np.zeros(len(positions), dtype=bool)
        return _floored(own, nowhere, positions.base_right)
    if isinstance(policy, Defer):
        return _defer(policy, positions)
    if isinstance(policy, Nudge):
        intervenes = positions.base.top_prob() < policy.threshold
        alpha = np.ones(len(positions))
    else:
        assert isinstance(policy, Blend)
        intervenes = positions.base.top_prob(policy.temperatures.base) < policy.threshold
        alpha = blend_alpha(policy, positions)
    log_prob = np.where(intervenes, mixed_log_prob(positions, alpha), own)
    right = np.where(intervenes, _choice(positions, alpha) == positions.given, positions.base_right)
    return _floored(log_prob, intervenes, right)


def blend_alpha(policy: Blend, positions: Positions) -> Numbers:
    """α at each token, `[N]`, as `Blend.mix` has it."""
    if policy.alpha is not None:
        return np.full(len(positions), policy.alpha)
    at_base, at_guide = policy.temperatures
    p_b, p_g = positions.base.top_prob(at_base), positions.guide.top_prob(at_guide)
    agreement = positions.agreement(at_base)
    if policy.calibration is not None and policy.calibration.fits_alpha:
        import torch

        numbers = (torch.from_numpy(values) for values in (p_b, p_g, agreement))
        return policy.calibration.alpha(*numbers).numpy()
    return np.clip(p_g / (p_b + p_g) + policy.agreement_bonus * agreement, 0, 1)


def mixed_log_prob(positions: Positions, alpha: Numbers) -> Numbers:
    """The given token's log-probability under the blend of all candidates, `[N]`."""
    of_base, of_guide = blended_probs(positions)
    given, mass = (
        (1 - alpha) * base + alpha * guide for base, guide in zip(of_base, of_guide, strict=True)
    )
    with np.errstate(divide="ignore"):
        return np.log(given / mass)


def _choice(positions: Positions, alpha: Numbers) -> NDArray[np.int64]:
    """The blend's argmax, `[N]`: it is among the listed symbols of one or the other."""
    weight = (1 - alpha)[:, None] * positions.base_probs + alpha[:, None] * positions.guide_probs
    return positions.symbols[np.arange(len(positions)), weight.argmax(axis=1)]


def _defer(policy: Defer, positions: Positions) -> Outcome:
    threshold, own = policy.threshold, positions.own.astype(np.float64)
    (p_b, base_mass), (p_g, guide_mass) = blended_probs(positions)
    if policy.rule == "budget":
        less_likely = base_mass[:, None] - np.cumsum(own, axis=1) + own  # itself and what follows
        masked = less_likely <= threshold
        bound = np.where(masked, own, 0).max(axis=1)  # what is as likely as this is masked
        given_masked = p_b <= bound
        listed_masked = positions.base_probs <= bound[:, None]
    else:
        bound = np.full(len(positions), threshold)
        if policy.rule == "bet":
            bound = positions.guide.top_prob() - threshold
        masked = own < bound[:, None]
        given_masked, listed_masked = p_b < bound, positions.base_probs < bound[:, None]
        none = bound <= 0
        masked[none], given_masked[none], listed_masked[none] = False, False, False
    kept_mass = np.where(masked, 0, own).sum(axis=1)
    all_kept = ~masked.any(axis=1) & (own[:, -1] > 0) if policy.rule != "budget" else None
    if all_kept is not None:
        kept_mass = np.where(all_kept & (bound <= 0), base_mass, kept_mass)
    moved = np.clip(base_mass - kept_mass, 0, 1)
    moved[moved < 1e-7] = 0  # rounding of the two sums
    given = np.where(given_masked, 0, p_b) + moved * p_g
    weight = np.where(listed_masked, 0, positions.base_probs)
    weight = weight + moved[:, None] * positions.guide_probs
    choice = positions.symbols[np.arange(len(positions)), weight.argmax(axis=1)]
    with np.errstate(divide="ignore"):
        log_prob = np.log(given / (kept_mass + moved * guide_mass))
    asked = moved > 0
    log_prob = np.where(asked, log_prob, positions.base.given_log_prob())
    changes = asked & _can_change(positions, listed_masked, moved)
    return _floored(log_prob, changes, np.where(changes, choice == positions.given,
                                                positions.base_right))  # fmt: skip


def _can_change(
    positions: Positions, masked: NDArray[np.bool_], moved: Numbers
) -> NDArray[np.bool_]:
    """Where greedy decoding asks the guide: some word of its could change the choice, `[N]`."""
    kept = np.where(masked, 0, positions.base_probs)
    own = kept.max(axis=1)
    rivals = np.sort(kept, axis=1)[:, -2]
    return (own <= 0) | (rivals + moved >= own)


def _floored(log_prob: Numbers, intervenes: NDArray[np.bool_], right: NDArray[np.bool_]) -> Outcome:
    impossible = int((log_prob < FLOOR).sum())
    return Outcome(np.maximum(log_prob, FLOOR), intervenes, right, impossible)


def rate(policy: Policy, positions: Positions) -> float:
    """The intervention rate over the tokens."""
    return float(outcome(policy, positions).intervenes.mean())


def mean_log_prob(policy: Policy, positions: Positions) -> float:
    """The mean over tokens, in nats."""
    return float(outcome(policy, positions).log_prob.mean())


def best(policies: Sequence[Policy], positions: Positions) -> Policy:
    """The one with the highest mean log-likelihood; the first of equals."""
    return max(policies, key=lambda each: mean_log_prob(each, positions))


def nearest_rate(policies: Sequence[Policy], positions: Positions, wanted: float) -> Policy:
    """The one whose intervention rate is nearest to the wanted one; the first of equals."""
    return min(policies, key=lambda each: abs(rate(each, positions) - wanted))


def nats(value: float) -> str:
    """A difference of log-likelihoods in words' terms: how much likelier a token is."""
    return f"{100 * math.expm1(value):+.1f} %"
