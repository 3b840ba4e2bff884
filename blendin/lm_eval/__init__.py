"""BlendIn as a model of EleutherAI's lm-evaluation-harness; importing this registers it."""

from .model import BlendInLM, main, normalize_gen_kwargs

__all__ = ["BlendInLM", "main", "normalize_gen_kwargs"]
