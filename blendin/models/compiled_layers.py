"""Decoder layers compiled by torch.compile, for forwards that are captured as CUDA graphs.

transformers' norms, rotary embeddings and activations are some thirty small kernels a layer, of
which a GPU spends more time on starting and ending than on the work. Inductor makes six of them.
Attention and what is written into a cache are left out of its graphs: they tell layers apart, and
all layers of a model share one compiled code. What torch.compile costs at each call (guards, calls
from Python) is paid at the capture alone, so that forwards that are not captured stay as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel

from .checkpoint import first_line
from .devices import is_offloaded, is_out_of_memory
from .precision import quantization_of
from .shallow import is_hooked, layers_of, twin

logger = logging.getLogger("blendin")

Captured = TypeVar("Captured")

RECOMPILE_LIMIT = 64
"""Of torch.compile for one function. It is made anew for one token and for several, for each model,
and some of transformers' functions are shared by all models of a process."""


class CannotCompile(Exception):
    """Why a model's layers are not compiled."""


class LayerIndex:
    """A layer's number of which torch.compile makes no constant, or each layer had its own code."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __index__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self._number == other

    def __hash__(self) -> int:
        return hash(self._number)


class CountedGraphs:
    """A backend of torch.compile that counts; what it compiles refers to no weights.

    Attributes:
        compiled: how many graphs.
        calls: how often any of them ran.
    """

    def __init__(self, backend: str | Callable[..., Any]) -> None:
        self._compile = torch._dynamo.lookup_backend(backend)
        self.compiled = self.calls = 0

    def __call__(self, graph: Any, inputs: Any) -> Callable[..., Any]:
        """Compiles a graph."""
        run = self._compile(graph, inputs)
        self.compiled += 1

        def counted(*arguments: Any) -> Any:
            self.calls += 1
            return run(*arguments)

        return counted


class CompiledLayers:
    """A model in whose forward the decoder layers are compiled, until that fails.

    The weights are the model's own, and the model itself stays as it is for whoever else uses it.
    """

    def __init__(
        self, model: PreTrainedModel, name: str, backend: str | Callable[..., Any] = "inductor"
    ) -> None:
        """Compiles nothing yet: the first forward of each kind does.

        Args:
            model: on one device.
            name: for messages.
            backend: of torch.compile, as it takes them.

        Raises:
            CannotCompile: where its layers are not found, or are not transformers' own as they are.
        """
        self.name, self.is_refused = name, False
        layers = checked_layers(model)
        self._expected = len(layers)
        try:
            self._twin = twin(model)
        except Exception as error:  # a model may hold anything
            raise CannotCompile(f"it cannot be copied ({first_line(error)})") from error
        for module in self._twin.modules():
            if type(number := getattr(module, "layer_idx", None)) is int:
                vars(module)["layer_idx"] = LayerIndex(number)
        self._graphs = CountedGraphs(backend)
        for path in layers:
            # One token and several: two compiled codes, whatever shapes are captured.
            self._twin.get_submodule(path).compile(backend=self._graphs, dynamic=True)

    def __call__(self, **arguments: Any) -> Any:
        """The forward, as the model's own.

        Raises:
            CannotCompile: where torch.compile left some of the layers as they are.
        """
        before = self._graphs.calls
        if not self._graphs.compiled:
            logger.warning("%s: compiling its layers; it takes up to a minute, once", self.name)
        # Nothing falls back unnoticed. Numbers such as a norm's epsilon are constants, and results
        # are rounded where the model's own are.
        with (
            torch._dynamo.config.patch(
                recompile_limit=RECOMPILE_LIMIT,
                fail_on_recompile_limit_hit=True,
                suppress_errors=False,
                specialize_float=True,
            ),
            torch._inductor.config.patch(emulate_precision_casts=True),
        ):
            output = self._twin(**arguments)
        if self._graphs.calls - before < self._expected:
            raise CannotCompile("torch.compile left them as they are (is it disabled?)")
        return output

    def refuse(self, reason: Exception) -> None:
        """Captures without it from now on; said once."""
        self.is_refused = True
        cause = getattr(reason, "inner_exception", reason)  # of a backend, without its address
        logger.warning("%s keeps its layers uncompiled: %s", self.name, first_line(cause))


def checked_layers(model: Any) -> list[str]:
    """The paths of a model's decoder layers.

    Raises:
        CannotCompile: as `CompiledLayers`.
    """
    if not isinstance(model, PreTrainedModel):
        raise CannotCompile(f"it is wrapped ({type(model).__name__})")
    if any(each._compiled_call_impl is not None for each in model.modules()):
        raise CannotCompile("it is compiled already")
    if getattr(model, "_hf_peft_config_loaded", False):
        raise CannotCompile("adapters are loaded into it, which may be switched (PEFT)")
    if quantization_of(model) is not None:
        raise CannotCompile("its weights are packed")
    if is_offloaded(model):
        raise CannotCompile("its weights are brought in for each forward (accelerate)")
    path = layers_of(model)
    if path is None:
        raise CannotCompile(f"the decoder layers of a {type(model).__name__} are not found")
    layers = model.get_submodule(path)
    if any(is_hooked(module) for module in layers.modules()):
        raise CannotCompile("something hangs on its layers (hooks, or another forward)")
    return [f"{path}.{name}" for name, _ in layers.named_children()]


def captured_with(
    layers: CompiledLayers | None, model: Any, capture: Callable[[Callable[..., Any]], Captured]
) -> Captured:
    """Captures a forward with compiled layers, or where these fail with the model's own.

    Args:
        layers: None where none were asked for.
        model: the model itself.
        capture: captures what it is given, and compares it with the plain forward.
    """
    if layers is not None and not layers.is_refused:
        try:
            return capture(layers)
        except Exception as error:  # a compiler may raise anything
            if is_out_of_memory(error):
                raise
            layers.refuse(error)
    return capture(model)
