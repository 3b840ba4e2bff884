"""BlendIn inside vLLM: a logits processor that runs the guide in vLLM's worker.

Name it with `--logits-processors blendin.vllm:LogitsProcessor`, the guide with
`--additional-config '{"blendin": {"guide": ...}}'`. It needs vLLM, which it does not bring.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .middleware import Middleware
    from .processor import LogitsProcessor
    from .worker import WorkerExtension

__all__ = ["LogitsProcessor", "Middleware", "WorkerExtension"]

_MODULES = {
    "LogitsProcessor": "processor",
    "Middleware": "middleware",
    "WorkerExtension": "worker",
}


def __getattr__(name: str) -> Any:
    # Named on vLLM's command line; importing all would import vLLM for whoever needs one.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
