"""`model.generate(custom_generate=...)` with this repository's name or path runs this."""

from typing import Any

from blendin.hf import custom_generate


def generate(
    inputs: Any = None, generation_config: Any = None, *, model: Any, **arguments: Any
) -> Any:
    """Decodes with the guide's help; `blendin.hf.generate` lists the arguments."""
    return custom_generate(model, inputs=inputs, generation_config=generation_config, **arguments)
