"""A run's manifest: what its results are of, and when and on what they were made."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

MANIFEST = "manifest.json"

MODELS, OF_MODELS = "models", ("base", "guide", "dtype")
"""Of a configuration: what tells the models apart, and what else is known once they are loaded."""

OF_ITEMS = ("limit", "items", "items_sha256", "facts_sha256")
"""What grows with a larger limit, and is compared item by item."""

HALF = "a rescoring that did not end"
"""In the place of a scorer's version."""

PACKAGES = ("blendin", "torch", "transformers", "tokenizers", "accelerate")


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """A run's manifest, as `RunFolder.manifest` has it.

    Raises:
        ValueError: it is damaged, or of something else.
        OSError: it cannot be read.
    """
    path = Path(folder) / MANIFEST
    kinds = {"config": dict, "arms": dict, "sessions": list}
    try:
        manifest = json.loads(path.read_bytes())
        whole = all(isinstance(manifest[name], kind) for name, kind in kinds.items())
    except (ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise ValueError(
            f"{path} is damaged, and no longer says what the results beside it are of: restore it, "
            "or choose another folder (--out)"
        )
    found: dict[str, Any] = manifest
    return found


def versions() -> dict[str, str]:
    """Of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """The machine that the results were made on."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"platform": platform.platform(), "cpus": os.cpu_count(), "gpus": gpus}
