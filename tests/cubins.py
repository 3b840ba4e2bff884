"""Triton kernels compiled ahead of time, as a GPU would compile what decoding launches.

A launch is recorded, not run: with what Triton specialises a kernel for (types, multiples of 16,
arguments that are 1). `python tests/cubins.py` records and compiles every variant for every
architecture; `--record FILE` and `--compile FILE` do half of it each, so that another version of
Triton, in an environment without torch, can compile what this one has recorded.
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

KERNELS = {"gate": ("_stream", "_gate"), "topk": ("_topk",), "blend": ("_likelier", "_blend")}
"""What is launched, by its module in `blendin.kernels`."""

TYPES = {
    "torch.float16": "*fp16", "torch.bfloat16": "*bf16", "torch.float32": "*fp32",
    "torch.int32": "*i32", "torch.int64": "*i64", "torch.uint8": "*u8",
}  # fmt: skip
OPTIONS = ("num_warps", "enable_fp_fusion")


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


class Built(NamedTuple):
    """A cubin.

    Attributes:
        registers: a thread's.
        stack: bytes that a thread spills, or keeps in local memory for another reason.
        shared: bytes of shared memory.
        size: of the cubin.
        ptx: its assembly.
    """

    registers: int
    stack: int
    shared: int
    size: int
    ptx: str

    @property
    def wide_loads(self) -> int:
        """Loads of 16 bytes a thread."""
        return len(re.findall(r"ld\.global\S*\.v4\.b32", self.ptx))

    @property
    def barriers(self) -> int:
        return len(re.findall(r"bar\.sync|barrier\.sync", self.ptx))


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Within it launches of the project's kernels are recorded and do nothing."""
    found: list[Launch] = []
    kept = [
        (module := importlib.import_module(f"blendin.kernels.{name}"), each, getattr(module, each))
        for name, kernels in KERNELS.items()
        for each in kernels
    ]
    for module, name, kernel in kept:
        setattr(module, name, _Recorder(module.__name__.rpartition(".")[2], kernel, found))
    try:
        yield found
    finally:
        for module, name, kernel in kept:
            setattr(module, name, kernel)


class _Recorder:
    """Stands for a kernel."""

    def __init__(self, module: str, kernel: Any, found: list[Launch]) -> None:
        self.module, self.kernel, self.found = module, kernel, found

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **named: Any) -> None:
            launched = _launch(self.module, self.kernel, arguments, named)
            if launched not in self.found:
                self.found.append(launched)

        return launch


def _launch(module: str, kernel: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Launch:
    unspecialised = set(kernel.do_not_specialize or ())
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


def build(launch: Launch, capability: int) -> Built:
    """Compiles for an NVIDIA architecture, 90 for sm_90."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(importlib.import_module(f"blendin.kernels.{launch.module}"), launch.kernel)
    attrs = {(place,): [["tt.divisibility", 16]] for place in launch.aligned}
    source = ASTSource(kernel, launch.signature, launch.constants, attrs)
    made = triton.compile(source, GPUTarget("cuda", capability, 32), launch.options)
    registers, stack = _resources(made.asm["cubin"])
    return Built(registers, stack, made.metadata.shared, len(made.asm["cubin"]), made.asm["ptx"])


def _resources(cubin: bytes) -> tuple[int, int]:
    """(registers, bytes of stack) that a cubin asks for, by Triton's own cuobjdump."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        told = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", told)
    assert found is not None, told
    return int(found[1]), int(found[2])


ARCHITECTURES = (80, 90, 100)
VOCABULARIES = (50257, 128256, 151936, 262208)
"""GPT-2's, Llama 3's, Qwen's and the larger Gemma 3's."""

MAX_REGISTERS = {"_stream": 64, "_gate": 64, "_topk": 128, "_likelier": 64, "_blend": 128}
"""Of 65,536 for 128 threads (256 of `_topk`): what leaves the multiprocessor full, or for the two
that are a program a row, all of it to a few of them."""


def decoded(size: int, dtype: Any, rows: int, top_k: int) -> list[Launch]:
    """What an intervention of both models launches, as decoding makes it."""
    import torch

    from blendin.decision.blend import blend
    from blendin.decision.fused import FusedPrediction
    from blendin.decision.symbols import SymbolTables
    from blendin.kernels.tables import kernel_tables

    ends = torch.tensor([size - 8, size - 9])
    candidates = torch.ones(size, dtype=torch.bool).index_fill(0, ends, False)
    own = torch.arange(size).index_copy(0, ends, size + ends)
    tables = SymbolTables(ends, ends, candidates, candidates, own)
    with recorded() as found:
        logits = torch.empty(rows, size, dtype=dtype)
        base, guide = (
            FusedPrediction(logits, model, kernel_tables(model), only)
            for model, only in ((tables.base, False), (tables.guide, True))
        )
        _ = base.top_prob
        for alpha in (None, 0.5):
            blend(base, guide, top_k=top_k, alpha=alpha, agreement_bonus=0.1)
    return found


def every_launch() -> list[Launch]:
    """What decoding launches for each of the vocabularies, each dtype, and the longest lists."""
    import torch

    found: list[Launch] = []
    sizes = [(size, torch.bfloat16, 1, 100) for size in VOCABULARIES]
    dtypes = [(151936, dtype, 1, 100) for dtype in (torch.float16, torch.float32)]
    longest = [(262208, dtype, 64, 512) for dtype in (torch.bfloat16, torch.float32)]
    for case in sizes + dtypes + longest:
        found += [each for each in decoded(*case) if each not in found]
    return found


def faults(launch: Launch, built: Built) -> list[str]:
    """What is wrong with a cubin."""
    found = []
    if built.stack:
        found.append(f"{built.stack} bytes of stack")
    if built.registers > MAX_REGISTERS[launch.kernel]:
        found.append(f"{built.registers} registers")
    if launch.kernel in ("_stream", "_likelier") and built.wide_loads < 2:
        found.append("its loads are not of 16 bytes")
    if launch.kernel == "_topk" and not built.barriers:
        found.append("no barrier between what it writes and reads")
    return found


def main() -> int:
    """Compiles every variant, or what a file has recorded, and prints a table."""
    import triton

    option, file = sys.argv[1:] or ("", "")
    if option == "--record":
        Path(file).write_text(json.dumps([each._asdict() for each in every_launch()]))
        return 0
    launches = (
        every_launch()
        if not option
        else [Launch(**each) for each in json.loads(Path(file).read_text())]
    )
    print(f"Triton {triton.__version__}, {len(launches)} variants")
    print("| kernel | compiled for | sm | registers | shared | 16-byte loads | KiB |")
    print("|---|---|---|---|---|---|---|")
    wrong = 0
    for launch in launches:
        constants = " ".join(f"{name}={value}" for name, value in launch.constants.items())
        logits = next(kind for kind in launch.signature.values() if kind.startswith("*"))
        for capability in ARCHITECTURES:
            built = build(launch, capability)
            cells = (built.registers, built.shared, built.wide_loads, built.size >> 10)
            print(
                f"| {launch.kernel} | {logits[1:]} {constants} | {capability} | "
                + " | ".join(map(str, cells))
                + " |",
                flush=True,
            )
            for fault in faults(launch, built):
                print(f"  WRONG: {fault}", flush=True)
                wrong += 1
    print("all are as they should be" if not wrong else f"{wrong} faults")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
