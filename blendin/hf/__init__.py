"""BlendIn as a decoding method of transformers' own `model.generate(custom_generate=...)`.

`generate` is the callable. `REPO` is a folder as the Hugging Face Hub expects it, for those who
pass a name (`custom_generate="you/blendin"`); `write_repo` makes a copy to upload.
"""

from .call import custom_generate, generate
from .output import BlendInOutput
from .repository import REPO, write_repo

__all__ = ["REPO", "BlendInOutput", "custom_generate", "generate", "write_repo"]
