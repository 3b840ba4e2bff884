"""For ttsem (`scripts/kernels sanitize`), whose CUDA is the CPU: no driver pins memory there."""

from typing import Any

import torch

_tensor = torch.tensor


def _unpinned(*arguments: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
    return _tensor(*arguments, **options)


torch.tensor = _unpinned  # type: ignore[assignment]
