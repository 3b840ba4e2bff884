"""What the benchmarks share: the clock, the time of a forward, and the machine it ran on."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, TypeVar

import torch
import transformers

from blendin.models.context import Context
from blendin.models.kv_pool import Pool
from blendin.models.local import LanguageModel

T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What the work returns, and the seconds it took, the GPU's included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, time.perf_counter() - started


def step_seconds(
    model: LanguageModel,
    texts: Sequence[str],
    *,
    width: int = 1,
    repeats: int = 12,
    keep: bool = True,
    room: int = 0,
) -> float:
    """The median time of one forward that reads `width` tokens of each sequence.

    Args:
        model: whose forwards are timed.
        texts: the prompts of the sequences; one is decoded alone, several from a shared pool.
        width: new tokens of each sequence, all of them scored.
        repeats: forwards timed.
        keep: whether the tokens stay, as in decoding, or are taken out again after each forward,
            as rejected drafts are (outside the time measured).
        room: tokens that a cache is made for, where the sequences would go on beyond `repeats`.
    """
    contexts = [Context(model.encode_prompt(text)) for text in texts]
    pool = Pool() if len(contexts) > 1 else None
    for context in contexts:
        new = width * (repeats if keep else 1)
        context.expected = max(room, len(context.ids) + new + 1)
        if pool is not None:
            model.join(context, pool)
    model.forward_batch(contexts)
    times = []
    for _ in range(repeats):
        for context in contexts:
            context.ids += context.ids[-1:] * width
        if width == 1:
            _, seconds = timed(lambda: model.forward_batch(contexts))
        else:
            _, seconds = timed(lambda: model.score_batch(contexts, [width] * len(contexts)))
        times.append(seconds)
        if not keep:
            for context in contexts:
                model.rollback(context, width)
    return median(times)


def surroundings() -> dict[str, Any]:
    """The machine and the versions, for a result."""
    return {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads"
        + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
