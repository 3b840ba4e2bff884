"""What decoding launches of the Triton kernels: recorded, with what Triton specialises a kernel for
(types, multiples of 16, arguments that are 1)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

KERNELS = {"gate": ("_stream", "_gate"), "topk": ("_topk",), "blend": ("_likelier", "_blend")}
"""What is launched, by its module in `blendin.kernels`."""

TYPES = {
    "torch.float16": "*fp16", "torch.bfloat16": "*bf16", "torch.float32": "*fp32",
    "torch.int32": "*i32", "torch.int64": "*i64", "torch.uint8": "*u8",
}  # fmt: skip
OPTIONS = ("num_warps", "maxnreg", "enable_fp_fusion")


class Launch(NamedTuple):
    """What a kernel is compiled for.

    Attributes:
        module: of `blendin.kernels`.
        kernel: its name.
        signature: the type of each argument.
        constants: the value of each that is compiled in.
        aligned: the arguments that are multiples of 16.
        options: of the compiler.
    """

    module: str
    kernel: str
    signature: dict[str, str]
    constants: dict[str, Any]
    aligned: list[int]
    options: dict[str, Any]


@contextmanager
def recorded(*, run: bool = False) -> Iterator[list[Launch]]:
    """Within it launches of the project's kernels are recorded, and do nothing else unless told."""
    found: list[Launch] = []
    kept = [
        (module := importlib.import_module(f"blendin.kernels.{name}"), each, getattr(module, each))
        for name, kernels in KERNELS.items()
        for each in kernels
    ]
    for module, name, kernel in kept:
        setattr(module, name, _Recorder(module.__name__.rpartition(".")[2], kernel, found, run))
    try:
        yield found
    finally:
        for module, name, kernel in kept:
            setattr(module, name, kernel)


class _Recorder:
    """Stands for a kernel."""

    def __init__(self, module: str, kernel: Any, found: list[Launch], run: bool) -> None:
        self.module, self.kernel, self.found, self.run = module, kernel, found, run

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **named: Any) -> None:
            launched = _launch(self.module, self.kernel, arguments, named)
            if launched not in self.found:
                self.found.append(launched)
            if self.run:
                self.kernel[grid](*arguments, **named)

        return launch


def _launch(module: str, kernel: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Launch:
    told = (
        kernel.kwargs if hasattr(kernel, "kwargs") else vars(kernel)
    )  # the interpreter's, a GPU's
    unspecialised = set(told["do_not_specialize"] or ())
    signature: dict[str, str] = {}
    constants = {name: value for name, value in named.items() if name not in OPTIONS}
    aligned = []
    for place, (name, value) in enumerate(zip(kernel.arg_names, arguments, strict=False)):
        special = name not in unspecialised and place not in unspecialised
        if hasattr(value, "data_ptr"):
            signature[name] = TYPES[str(value.dtype)]
            if value.data_ptr() % 16 == 0:
                aligned.append(place)
        elif isinstance(value, float):
            signature[name] = "fp32"
        elif special and value == 1:
            signature[name], constants[name] = "constexpr", 1
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if special and value % 16 == 0:
                aligned.append(place)
    for name in kernel.arg_names[len(arguments) :]:
        signature[name] = "constexpr"
    options = {name: named[name] for name in OPTIONS if name in named}
    return Launch(module, kernel.__name__, signature, constants, aligned, options)


VOCABULARIES = (50257, 128256, 151936, 262208)
"""GPT-2's, Llama 3's, Qwen's and the larger Gemma 3's."""


def decoded(size: int, dtype: Any, rows: int, top_k: int, ends: int = 2) -> list[Launch]:
    """What an intervention of two models of one vocabulary launches, as decoding makes it."""
    import torch

    from blendin.decision.symbols import SymbolTables

    ids = torch.arange(size - 8 - ends, size - 8)
    candidates = torch.ones(size, dtype=torch.bool).index_fill(0, ids, False)
    own = torch.arange(size).index_copy(0, ids, size + ids)
    tables = SymbolTables(ids, ids, candidates, candidates, own)
    return intervention(tables, (dtype, dtype), rows, top_k)


def intervention(tables: Any, dtypes: tuple[Any, Any], rows: int, top_k: int) -> list[Launch]:
    """What an intervention launches: base and guide choose, and are blended with and without α."""
    import torch

    from blendin.decision.blend import blend
    from blendin.decision.fused import FusedPrediction
    from blendin.kernels.tables import kernel_tables

    with recorded() as found:
        base, guide = (
            FusedPrediction(
                torch.empty(rows, len(model.symbols), dtype=dtype),
                model,
                kernel_tables(model),
                candidates_only=model is tables.guide,
            )
            for model, dtype in zip((tables.base, tables.guide), dtypes, strict=True)
        )
        _ = base.top_prob
        for alpha in (None, 0.5):
            blend(base, guide, top_k=top_k, alpha=alpha, agreement_bonus=0.1)
    return found


def every_launch() -> list[Launch]:
    """What decoding launches for each of the vocabularies, each dtype, from the shortest lists to
    the longest, one to four end tokens, and so many rows that a program reads several chunks."""
    import torch

    bf16 = torch.bfloat16
    cases: list[tuple[Any, ...]] = [(size, bf16, 1, 100) for size in VOCABULARIES]
    cases += [(151936, dtype, 1, 100) for dtype in (torch.float16, torch.float32)]
    cases += [(262208, dtype, 64, 512) for dtype in (bf16, torch.float32)]
    cases += [(128256, bf16, 1, top_k) for top_k in (1, 3, 7, 15, 31, 63, 255)]
    cases += [(128256, bf16, 1, 100, ends) for ends in (1, 4)]
    cases += [(128256, dtype, 1024, 100) for dtype in (bf16, torch.float32)]
    found: list[Launch] = []
    for case in cases:
        found += [each for each in decoded(*case) if each not in found]
    return found
