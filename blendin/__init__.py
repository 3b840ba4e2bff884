"""BlendIn: inference-time alignment of a base model by blending in a small aligned guide."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine.scoring import Score
    from .engine.stream import Batch, Interrupted, Stream
    from .generator import BlendInGenerator
    from .policy import BaseOnly, Blend, Defer, GuideOnly, InterventionCap, Nudge, Policy
    from .sampling import Sampling
    from .trace import Generation, Step

__version__ = "0.1.0"

__all__ = [
    "BaseOnly",
    "Batch",
    "Blend",
    "BlendInGenerator",
    "Defer",
    "Generation",
    "GuideOnly",
    "Interrupted",
    "InterventionCap",
    "Nudge",
    "Policy",
    "Sampling",
    "Score",
    "Step",
    "Stream",
]

_ROOMS = {
    "generator": ("BlendInGenerator",),
    "policy": ("BaseOnly", "Blend", "Defer", "GuideOnly", "InterventionCap", "Nudge", "Policy"),
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
