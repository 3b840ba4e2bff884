"""All chains of a stress test: the originals, what was made of them, and what did not pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .chains import Chain, LeftOut, counted
from .checks import Check, check
from .readers import Source, Sources
from .transformations import TRANSFORMATIONS, other_orders, stripped

ORDERS = 3
"""Over how many valid orders a chain's score is averaged, the one it has among them."""

FAILED = "it does not pass its check: {}"


@dataclass(frozen=True)
class Variant:
    """One chain of the test.

    Attributes:
        chain: as it is scored.
        source: what it was made of; itself for an original.
        check: the outcome, which it has passed.
        orders: the same steps in up to `ORDERS` − 1 further valid orders.
    """

    chain: Chain
    source: Chain
    check: Check
    orders: tuple[Chain, ...] = ()

    @property
    def texts(self) -> Iterator[list[str]]:
        """All that has to be scored for it: as it is, without markers, in its other orders."""
        yield self.chain.texts
        yield self.stripped
        for chain in self.orders:
            yield chain.texts

    @property
    def stripped(self) -> list[str]:
        """The steps' texts without words of confidence."""
        return [stripped(text) for text in self.chain.texts]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the chain and the outcome of its check."""
        outcome = {"passes": self.check.passes, "equations_recomputed": self.check.recomputed}
        return self.chain.to_dict() | {"check": outcome}


@dataclass(frozen=True)
class Suite:
    """A stress test before anything is scored.

    Attributes:
        sources: what was read.
        originals: the chains as they are, right and wrong.
        variants: what was made of them, by transformation and strength, such as ("order", 1.0).
        left_out: the chains that are not there, by what was to be done with them.
        seed: of every draw.
    """

    sources: Sources
    originals: Sequence[Variant]
    variants: Mapping[tuple[str, float], Sequence[Variant]]
    left_out: Mapping[str, Sequence[LeftOut]]
    seed: int

    @property
    def all(self) -> Iterator[Variant]:
        """The originals and all that was made of them."""
        yield from self.originals
        for variants in self.variants.values():
            yield from variants

    def needed(self) -> dict[str, list[list[str]]]:
        """What has to be scored: of each question the different texts, as lists of steps."""
        found: dict[str, dict[tuple[str, ...], None]] = {}
        for variant in self.all:
            for texts in variant.texts:
                found.setdefault(variant.chain.question, {})[tuple(texts)] = None
        return {question: [list(texts) for texts in own] for question, own in found.items()}

    def counts(self) -> dict[str, Any]:
        """How many chains there are, how many were left out and why, for JSON."""
        right = sum(variant.chain.is_right for variant in self.originals)
        return {
            "items": self.sources.items,
            "right": right,
            "wrong": len(self.originals) - right,
            "transformed": {
                titled(name, strength): len(own) for (name, strength), own in self.variants.items()
            },
            "equations_recomputed": sum(variant.check.recomputed for variant in self.all),
            "left_out": {stage: counted(own) for stage, own in self.left_out.items() if own},
        }


def titled(name: str, strength: float) -> str:
    """A transformation with its strength, unless that is full."""
    return name if strength == 1 else f"{name} {strength:g}"


def build(
    sources: Sources,
    names: Sequence[str] = tuple(TRANSFORMATIONS),
    strengths: Sequence[float] = (1.0,),
    seed: int = 0,
    orders: int = ORDERS,
) -> Suite:
    """Makes and checks every chain; one whose check fails is left out, and counted.

    Args:
        sources: the chains as they are.
        names: of `TRANSFORMATIONS`.
        strengths: each in 0..1.
        seed: of every draw.
        orders: of each chain, the one it has among them.

    Raises:
        ValueError: nothing is left.
    """
    left_out: dict[str, list[LeftOut]] = {k: list(v) for k, v in sources.left_out.items()}
    left_out["check"] = []

    def checked(chain: Chain, source: Source) -> Variant | None:
        outcome = check(chain, source.chain, source.right)
        further = other_orders(chain, orders - 1, seed) if orders > 1 else ()
        found = () if isinstance(further, LeftOut) else further
        moved = tuple(chain.in_order(order) for order in found)
        moved = tuple(each for each in moved if check(each, source.chain, source.right).passes)
        if outcome.passes:
            return Variant(chain, source.chain, outcome, moved)
        left_out["check"].append(LeftOut(chain.id, FAILED.format(outcome.failures[0])))
        return None

    kept = [(source, checked(source.chain, source)) for source in sources.chains]
    originals = [(source, variant) for source, variant in kept if variant is not None]
    if not originals:
        raise ValueError(f"no chain of {sources.data} passes its check")
    variants: dict[tuple[str, float], list[Variant]] = {}
    for name in names:
        for strength in strengths:
            own = variants[name, strength] = []
            for source, _ in originals:
                made = TRANSFORMATIONS[name](source.chain, strength, seed)
                if isinstance(made, LeftOut):
                    left_out.setdefault(name, []).append(made)
                elif (variant := checked(made, source)) is not None:
                    own.append(variant)
    return Suite(sources, [variant for _, variant in originals], variants, left_out, seed)
