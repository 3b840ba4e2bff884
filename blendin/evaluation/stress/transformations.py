"""What leaves a chain's correctness as it is: step inflation, another valid order, confidence.

Each takes a chain, a strength in 0..1 and a seed and gives the chain anew, or why it has none. None
changes a step: inflation adds steps, an order moves them, a marker stands before their text.
`checks` then looks whether that is so.

Source: EST-PRM (arXiv 2606.00437), which names the three.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from .arithmetic import Expression, value_of, writes, written
from .chains import Chain, LeftOut, Step

RESTATEMENTS = ("That is, {}.", "In other words, {}.", "Again, {}.")
REPETITION = "To repeat: {}"
PART = "First, {}."

MARKERS = (
    "Clearly, ",
    "Obviously, ",
    "Certainly, ",
    "Without a doubt, ",
    "It is easy to see that ",
    "We can be sure that ",
)
_MARKERS = re.compile("(?:" + "|".join(map(re.escape, MARKERS)) + ")+")
LOWERED = re.compile(
    r"(?:A|After|All|An|At|Each|Every|For|He|Her|His|If|In|It|Its|Next|Of|On|One|She|So|That|The|"
    r"Their|Then|There|Therefore|These|They|This|Those|Thus|To|Two|We|When|With)\b"
)
"""Words that begin a step and are no names: they lose their capital behind a marker."""

ORDERS_DRAWN = 24

ONE_ORDER = "there is no other valid order"
NOT_KNOWN = "its dependencies are not known"


def inflated(chain: Chain, strength: float, seed: int) -> Chain | LeftOut:
    """Steps are said twice, or computed in two: `strength` is the share of them, at least one.

    A restatement follows its step and gives its equation again. Where an equation has several
    operations, the first may be computed before it, in a step of its own.
    """
    draw = random.Random(f"{seed} {chain.id} inflation")
    steps, by_origin = [], {step.origin: step for step in chain.steps}
    touched = _some(chain.steps, strength, draw)
    for step in chain.steps:
        if step.origin in touched:
            part = _part(step, by_origin) if draw.random() < 0.5 else None
            steps += [step, _restatement(step, draw)] if part is None else [part, step]
        else:
            steps.append(step)
    return replace(
        chain, steps=tuple(steps), transformation="inflation", strength=strength, seed=seed
    )


def _some(steps: Sequence[Step], strength: float, draw: random.Random) -> set[int]:
    """The origins of a share of the steps, at least one."""
    count = max(1, round(strength * len(steps)))
    return {step.origin for step in sorted(steps, key=lambda _: draw.random())[:count]}


def _restatement(step: Step, draw: random.Random) -> Step:
    if step.equation is None:
        return replace(step, text=REPETITION.format(step.text), role="restatement")
    expression, result = step.equation
    said = f"{expression} = <<{expression}={result}>>{result}"
    phrase = RESTATEMENTS[int(draw.random() * len(RESTATEMENTS))]
    return replace(step, text=phrase.format(said), role="restatement")


def _part(step: Step, by_origin: dict[int, Step]) -> Step | None:
    """What a step's equation computes first; None without a second operation or a short result."""
    if step.equation is None:
        return None
    first = Expression(step.equation.expression).first_part()
    if first is None:
        return None
    part = Expression(first)
    result = written(part.value) if part.value > 0 else ""
    if not result or value_of(result) != part.value or not writes(result, part.value):
        return None
    operands = {value_of(each) for each in part.operands}
    used = [by_origin[origin] for origin in step.uses]
    wrong = any(
        not each.correct and each.equation and value_of(each.equation.result) in operands
        for each in used
    )
    text = PART.format(f"{first} = <<{first}={result}>>{result}")
    return replace(step, text=text, role="part", correct=not wrong)


def reordered(chain: Chain, strength: float, seed: int) -> Chain | LeftOut:
    """Another order in which each step stands after all it rests on.

    Of random topological orders, the one whose share of swapped pairs is closest to `strength`
    times the largest share among them.
    """
    orders = other_orders(chain, ORDERS_DRAWN, seed)
    if isinstance(orders, LeftOut):
        return orders
    farthest = max(_swapped(chain.order, order) for order in orders)
    chosen = min(orders, key=lambda o: abs(_swapped(chain.order, o) - strength * farthest))
    moved = chain.in_order(chosen)
    return replace(moved, transformation="order", strength=strength, seed=seed)


def other_orders(chain: Chain, count: int, seed: int) -> list[list[int]] | LeftOut:
    """Up to `count` valid orders of a chain's own steps, none of them the one it has."""
    if not chain.dependencies:
        return LeftOut(chain.id, NOT_KNOWN)
    draw = random.Random(f"{seed} {chain.id} order")
    found: list[list[int]] = []
    for _ in range(4 * count):
        order = random_order(chain, draw)
        if order not in (chain.order, *found):
            found.append(order)
        if len(found) == count:
            break
    return found or LeftOut(chain.id, ONE_ORDER)


def random_order(chain: Chain, draw: random.Random) -> list[int]:
    """A random topological order of the origins: each is drawn from those that may come next."""
    waiting = {step.origin: step.rests_on for step in chain.steps if step.role == "own"}
    order: list[int] = []
    while waiting:
        ready = sorted(origin for origin in waiting if not waiting[origin] & waiting.keys())
        order.append(ready[int(draw.random() * len(ready))])
        del waiting[order[-1]]
    return order


def _swapped(one: Sequence[int], other: Sequence[int]) -> float:
    """The share of pairs that stand the other way round (Kendall's distance, 0..1)."""
    places = {origin: place for place, origin in enumerate(other)}
    pairs = [(a, b) for i, a in enumerate(one) for b in one[i + 1 :]]
    return sum(places[a] > places[b] for a, b in pairs) / len(pairs)


def marked(chain: Chain, strength: float, seed: int) -> Chain | LeftOut:
    """Words of confidence before a share of the steps, `strength` of them, at least one."""
    draw = random.Random(f"{seed} {chain.id} markers")
    touched = _some(chain.steps, strength, draw)
    steps = tuple(
        _marked(step, MARKERS[int(draw.random() * len(MARKERS))])
        if step.origin in touched
        else step
        for step in chain.steps
    )
    return replace(chain, steps=steps, transformation="markers", strength=strength, seed=seed)


def _marked(step: Step, marker: str) -> Step:
    text = step.text
    if LOWERED.match(text):
        text = text[0].lower() + text[1:]
    return replace(step, text=marker + text, marker=marker)


def stripped(text: str) -> str:
    """A step's text without words of confidence at its beginning, known from the text alone."""
    found = _MARKERS.match(text)
    if found is None:
        return text
    rest = text[found.end() :]
    return rest[:1].upper() + rest[1:]


TRANSFORMATIONS: dict[str, Callable[[Chain, float, int], Chain | LeftOut]] = {
    "inflation": inflated,
    "order": reordered,
    "markers": marked,
}
