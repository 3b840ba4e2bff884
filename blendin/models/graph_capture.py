"""What captured forwards share: recording a graph, checking its replay, giving up with a reason."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..decision.gated import (
    Gate,
    GatedLogits,
    Scored,
    logits_of,
    says_the_same,
    tensors_of,
    with_tensors,
)
from ..decision.prediction import total_variation
from .compiled_layers import CompiledLayers, captured_with
from .devices import is_out_of_memory

logger = logging.getLogger("blendin")

Captured = TypeVar("Captured")


class CannotCapture(Exception):
    """Why a model's forwards are not captured; logged once, and the plain path is taken."""


def record(run: Callable[[], Scored], device: torch.device) -> tuple[Scored, Callable[[], None]]:
    """Captures work on a device, whichever is current, and tells what it writes and how to replay.

    On devices without graphs (and for tests) the work itself is run again.

    Args:
        run: the work, on that device alone; what changes from run to run lies in buffers.
        device: of the work.
    """
    if device.type != "cuda":
        output = run()
        kept = with_tensors(output, [each.clone() for each in tensors_of(output)])

        def again() -> None:
            for own, made in zip(tensors_of(kept), tensors_of(run()), strict=True):
                own.copy_(made)

        return kept, again
    with torch.cuda.device(device):
        # A stream of its own: torch's default for captures lies on the device of the first one.
        side, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(2):  # cuBLAS and Triton prepare themselves outside the capture
                run()
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile.
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            output = run()
        return output, graph.replay


def read_by(gate: Gate | None, logits: Tensor) -> Scored:
    """The logits, read by the gate where there is one."""
    return logits if gate is None else gate.read(logits)


def spoil(scored: Scored) -> None:
    """Overwrites what a graph has written, so that a replay that writes nothing is found out."""
    for each in tensors_of(scored):
        each.fill_(torch.nan if each.is_floating_point() else -1)


def check_alike(found: Scored, expected: Tensor) -> None:
    """Compares a replay with the plain forward, and its gate with one beside it, to the bit.

    Args:
        found: N rows of a replay.
        expected: `[N, V]`, the plain forward's logits.

    Raises:
        CannotCapture: the distributions differ by more than rounding, or the gates at all.
    """
    apart = float(total_variation(logits_of(found), expected).max())
    if not apart <= 0.05:
        raise CannotCapture(f"its captured distributions differ from the plain by {apart:.2g}")
    if isinstance(found, GatedLogits):
        beside = found.gate.read(found.logits)
        if not (isinstance(beside, GatedLogits) and says_the_same(found, beside)):
            raise CannotCapture("the gate kept other numbers in a graph than beside it")


class GraphContents:
    """What a model's captured forwards have besides the model, while it works in them.

    Attributes:
        gate: what reads the logits in the graphs that make them; None: they are read beside them.
        layers: the same model with compiled layers; None where none were asked for.
    """

    gate: Gate | None = None
    layers: CompiledLayers | None = None

    def __init__(self, name: str) -> None:
        """Nothing yet.

        Args:
            name: of the model, for messages.
        """
        self._name = name

    def captured(
        self, model: Any, capture: Callable[[Callable[..., Any], Gate | None], Captured]
    ) -> Captured:
        """What was captured with all that there is; what fails is left out from then on.

        Args:
            model: the model itself.
            capture: captures a forward of a model with a gate, or None, and checks it.
        """
        return captured_with(self.layers, model, partial(self._captured_with_gate, capture))

    def _captured_with_gate(
        self,
        capture: Callable[[Callable[..., Any], Gate | None], Captured],
        model: Callable[..., Any],
    ) -> Captured:
        if self.gate is None:
            return capture(model, None)
        try:
            return capture(model, self.gate)
        except Exception as error:  # a compiler's errors are of many kinds
            if is_out_of_memory(error):
                raise
            reason = error
        made = capture(model, None)  # where that fails, too, it is not the gate
        logger.warning("%s: logits are read beside its CUDA graphs: %s", self._name, reason)
        self.gate = None
        return made


class Refusals:
    """Why some of a model's forwards are not captured; each reason is said once.

    Attributes:
        is_final: nothing is captured any more.
    """

    is_final = False

    def __init__(self, consequence: str) -> None:
        """Nothing is refused yet.

        Args:
            consequence: what happens then, for messages ("MODEL decodes").
        """
        self._consequence = consequence
        self._said: set[str] = set()

    def say(self, reason: object) -> None:
        """Warns, unless it was said before."""
        said = str(reason)
        if said not in self._said:
            logger.warning("%s without CUDA graphs: %s", self._consequence, said)
        self._said.add(said)

    def failed(self, error: Exception) -> None:
        """A capture or a replay failed: for good, unless memory was short this time."""
        if is_out_of_memory(error):
            self.say("there is not enough memory for them now")
        else:
            self.say(error)
            self.is_final = True

    @staticmethod
    def free_memory() -> None:
        """Gives back what graphs held, once nothing refers to them."""
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
