"""What Triton's IR and the assembly of a kernel say of what no run on a CPU shows.

The interpreter and ttsem execute a program's lines one after the other, and on few elements: a
barrier that lacks between threads, and a product that wraps at 2^31 elements, do no harm there.
"""

from __future__ import annotations

import re

ASSIGNED = re.compile(r"%([\w#]+)(?::\d+)? = ([\w.]+) (.*)")
STORED = re.compile(r"tt\.store %([\w#]+)")
VALUE = re.compile(r"%([\w#]+)")
PASSED_ON = ("tt.addptr", "tt.splat", "tt.broadcast", "tt.expand_dims", "tt.bitcast", "tt.reshape")
BARRIERS = re.compile(r"^\s*(?:ttg|gpu)\.barrier\b", re.MULTILINE)


def barriers(ttir: str) -> int:
    """How many barriers the kernel itself asks for: the compiler's own come later."""
    return len(BARRIERS.findall(ttir))


def unordered(ttir: str) -> list[str]:
    """Arguments that are written and then read with no barrier between.

    Threads of a program may be at either by then. Calls are inlined in this IR; what a loop writes
    for its own next turn is not looked at.
    """
    argument_of: dict[str, str] = {}
    written: set[str] = set()
    found = []
    for line in ttir.splitlines():
        if BARRIERS.match(line):
            written.clear()
        elif stored := STORED.search(line):
            written.add(argument_of.get(stored[1], stored[1]))
        elif assigned := ASSIGNED.search(line):
            name, operation, operands = assigned.groups()
            source = VALUE.search(operands)
            root = argument_of.get(source[1], source[1]) if source else ""
            if operation in PASSED_ON:
                argument_of[name] = root
            elif operation == "tt.load" and root in written:
                found.append(root)
    return found


def shared_writes(ttir: str) -> list[str]:
    """Arguments that are written where all programs may write: the address has nothing of the
    program's number in it (what it has of data that were read does not keep programs apart)."""
    argument_of: dict[str, str] = {}
    own: set[str] = set()
    found = []
    for line in ttir.splitlines():
        if stored := STORED.search(line):
            if stored[1] not in own:
                found.append(argument_of.get(stored[1], stored[1]))
        elif assigned := ASSIGNED.search(line):
            name, operation, operands = assigned.groups()
            values = VALUE.findall(operands)
            if operation == "tt.get_program_id" or (operation != "tt.load" and own & set(values)):
                own.add(name)
            if operation in PASSED_ON:
                argument_of[name] = argument_of.get(values[0], values[0])
    return found


def narrow_products(ttir: str) -> list[str]:
    """Products in 32 bits of two numbers that are known at run time only: rows by their stride,
    say, wrap where a batch has 2^31 logits."""
    constants: set[str] = set()
    found = []
    for line in ttir.splitlines():
        if not (assigned := ASSIGNED.search(line)):
            continue
        name, operation, operands = assigned.groups()
        operands = operands.split(" loc(")[0]
        values = VALUE.findall(operands)
        if operation == "arith.constant" or (
            operation in ("tt.splat", "tt.broadcast") and values[0] in constants
        ):
            constants.add(name)
        elif (
            operation == "arith.muli"
            and not constants & set(values)
            and re.search(r"\bi32|xi32", operands.rpartition(" : ")[2])
        ):
            found.append(line.split(" loc(")[0].strip())
    return found


def barrier_lines(ptx: str) -> set[int]:
    """The lines of the source for which the assembly has a barrier."""
    found, line = set(), 0
    for each in ptx.splitlines():
        if location := re.match(r"\s*\.loc\s+\d+\s+(\d+)", each):
            line = int(location[1])
        elif re.match(r"\s*(bar|barrier)\.sync", each):
            found.add(line)
    return found
