"""The pair that a model makes with a guide, kept with the model from one call to the next."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..forks import Lock
from ..generator import BlendInGenerator
from ..models.source import as_source

NAME = "_blendin_pairs"
"""The model's attribute that keeps its pairs. A table outside would keep the model alive."""

KEPT = 4
"""Pairs of one model; the one that was longest not used is forgotten first."""

_making = Lock()


class Pairs(dict[Any, BlendInGenerator]):
    """The generators of one base, the last used at the end; a copy of the model has none."""

    def __deepcopy__(self, memo: Any) -> Pairs:
        return Pairs()

    def __reduce__(self) -> tuple[Any, ...]:
        return Pairs, ()


def pair_of(model: Any, tokenizer: Any, guide: Any, guide_tokenizer: Any) -> BlendInGenerator:
    """The generator of a base and a guide, made at the first call.

    Args:
        model: the base.
        tokenizer: the base's, or its name; None: the one that the model's `name_or_path` names.
        guide: as `BlendInGenerator` takes it; None: the base itself, where the policy asks none.
        guide_tokenizer: likewise.

    Raises:
        TypeError, ValueError: as `BlendInGenerator`.
    """
    base = model if tokenizer is None else (model, tokenizer)
    if guide is None:
        guide = base
    elif guide_tokenizer is not None and not isinstance(guide, str | os.PathLike):
        guide = (guide, guide_tokenizer)
        guide_tokenizer = None
    further = {} if guide_tokenizer is None else {"tokenizer": guide_tokenizer}
    named = str(guide_tokenizer) if isinstance(guide_tokenizer, str | os.PathLike) else None
    key = (
        as_source(base, "base").identity,
        as_source(guide, "guide").identity,
        named or id(guide_tokenizer),
    )
    with _making:
        kept: Pairs = vars(model).setdefault(NAME, Pairs())
        found = kept.pop(key, None)
        if found is None:
            found = BlendInGenerator(base, guide, guide_kwargs=further)
        kept[key] = found
        while len(kept) > KEPT:
            del kept[next(iter(kept))]
    return found


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """No dropout within it, whatever mode a training loop has the model in."""
    if not model.training:
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()
