"""Triton kernels compiled ahead of time, as a GPU would compile what decoding launches.

`python tests/cubins.py` records and compiles every variant for every architecture; `--record FILE`
and `--compile FILE` do half of it each, so that another version of Triton, in an environment
without torch, can compile what this one has recorded.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import kernel_ir
from launches import Launch, every_launch


class Built(NamedTuple):
    """A cubin.

    Attributes:
        registers: a thread's.
        stack: bytes that a thread spills, or keeps in local memory for another reason.
        shared: bytes of shared memory.
        size: of the cubin.
        ttir: Triton's IR of the kernel, as it was before the compiler's own changes.
        ptx: its assembly.
    """

    registers: int
    stack: int
    shared: int
    size: int
    ttir: str
    ptx: str

    @property
    def wide_loads(self) -> int:
        """Loads of 16 bytes a thread."""
        return len(re.findall(r"ld\.global\S*\.v4\.b32", self.ptx))


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
    shared, size = made.metadata.shared, len(made.asm["cubin"])
    return Built(registers, stack, shared, size, made.asm["ttir"], made.asm["ptx"])


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

MAX_REGISTERS = {"_stream": 64, "_gate": 72, "_topk": 128, "_likelier": 64, "_blend": 128}
"""Of 65,536 for 128 threads (256 of `_topk`): what leaves the multiprocessor full, or where a
program is a row, all of it to a few of them."""

BARRIERS = {"_topk": 2}
"""Between the chosen groups and their readers, and between a list and what END puts out of it."""


def faults(launch: Launch, built: Built) -> list[str]:
    """What is wrong with a cubin."""
    found = []
    if built.stack:
        found.append(f"{built.stack} bytes of stack")
    if built.registers > MAX_REGISTERS[launch.kernel]:
        found.append(f"{built.registers} registers")
    if built.wide_loads < (needed := _wide_loads(launch)):
        found.append(f"{built.wide_loads} loads of 16 bytes, not {needed}")
    asked = BARRIERS.get(launch.kernel, 0)
    if not kernel_ir.barriers(built.ttir) == asked == len(_barriers(launch, built)):
        found.append(f"not {asked} barriers")
    found += [f"{name} is read before a barrier" for name in kernel_ir.unordered(built.ttir)]
    found += [f"all programs write one {name}" for name in kernel_ir.shared_writes(built.ttir)]
    found += [f"may wrap: {product}" for product in kernel_ir.narrow_products(built.ttir)]
    return found


def _wide_loads(launch: Launch) -> int:
    """How many a thread needs at least for a chunk of logits that is read whole."""
    if launch.kernel not in ("_stream", "_likelier"):
        return 0
    bits = int(launch.signature["logits"][-2:])
    return launch.constants["CHUNK"] * bits // (8 * 16 * 32 * launch.options["num_warps"])


def _barriers(launch: Launch, built: Built) -> set[int]:
    """The lines at which the kernel asks for a barrier and the assembly has one."""
    kernel = getattr(importlib.import_module(f"blendin.kernels.{launch.module}"), launch.kernel)
    lines, first = inspect.getsourcelines(kernel.fn)
    asked = {first + place for place, line in enumerate(lines) if "debug_barrier()" in line}
    return asked & kernel_ir.barrier_lines(built.ptx)


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
