"""Tests of Triton kernels on machines without a GPU.

The interpreter has to be asked for before Triton is first imported, which importing blendin does.
So where it was not, a file's kernel tests run in a process of their own, as one test of this one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

SANITIZED = "ttsem" in sys.modules
"""Whether ttsem executes the kernels (`scripts/kernels sanitize`): its CUDA is the CPU."""

NATIVE = torch.cuda.is_available() and not SANITIZED
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if NATIVE and not INTERPRETED else "cpu"
HERE = NATIVE or SANITIZED or INTERPRETED
"""Whether kernels run in this process."""


def run_interpreted(file: str) -> None:
    """Runs a file's tests under the interpreter, in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", file],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
