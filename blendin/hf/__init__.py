"""BlendIn as a decoding method of transformers' own `model.generate(custom_generate=...)`.

`generate` is the callable. `REPO` is a folder as the Hugging Face Hub expects it, for those who
pass a name (`custom_generate="you/blendin"`); `write_repo` makes a copy to upload.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .repository import REPO, write_repo

if TYPE_CHECKING:
    from .call import custom_generate, generate
    from .output import BlendInOutput

__all__ = ["REPO", "BlendInOutput", "custom_generate", "generate", "write_repo"]


def __getattr__(name: str) -> Any:
    # Imported when first asked for: the folder is written without torch and transformers.
    if name in ("custom_generate", "generate"):
        return getattr(import_module(".call", __name__), name)
    if name == "BlendInOutput":
        return import_module(".output", __name__).BlendInOutput
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
