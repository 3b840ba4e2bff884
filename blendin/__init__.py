"""BlendIn: inference-time alignment of a base model by blending in a small aligned guide."""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import policy
from .policy import *  # noqa: F403  # what policy.py lists as public, so that it is listed once
from .visible import VisibleMessages

if TYPE_CHECKING:
    from .calibration import Calibration
    from .candidates import Candidate, StepCandidates
    from .engine.scoring import Score
    from .engine.stream import Batch, Interrupted, Stream
    from .generator import BlendInGenerator
    from .sampling import Sampling
    from .trace import Generation, Step

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "BlendInGenerator",
    "Calibration",
    "Candidate",
    "Generation",
    "Interrupted",
    "Sampling",
    "Score",
    "Step",
    "StepCandidates",
    "Stream",
]
__all__ += policy.__all__

logging.getLogger("blendin").addFilter(VisibleMessages())

_ROOMS = {
    "calibration": ("Calibration",),
    "candidates": ("Candidate", "StepCandidates"),
    "generator": ("BlendInGenerator",),
    "sampling": ("Sampling",),
    "engine.scoring": ("Score",),
    "engine.stream": ("Batch", "Interrupted", "Stream"),
    "trace": ("Generation", "Step"),
}


def __getattr__(name: str) -> Any:
    # Imported when first asked for: torch and transformers take seconds, `blendin --help` none.
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(import_module(f".{room}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
