"""How many kernels a decoding step launches, by kind, with and without compiled layers; no GPU.

Models of real structure, on the meta device, read one token as they do in a captured forward; every
operation that would launch a kernel is counted (`aten`'s views launch none, attention counts as
one). Of compiled layers, Inductor's Triton code for two layers of the real widths is generated, as
for a CPU, and what it calls is counted: on a GPU it may fuse otherwise.

    python benchmarks/launches.py [--json FILE]
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import torch
import typer
from measure import surroundings
from rich.console import Console
from rich.progress import track
from rich.table import Table
from shapes import CONFIGS
from torch import Tensor, nn
from torch._inductor.compile_fx import compile_fx
from torch._inductor.graph import GraphLowering
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, PreTrainedModel
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from blendin.models.attention_route import no_mask, routed
from blendin.models.captured_varlen import StaticBatch
from blendin.models.compiled_layers import CompiledLayers
from blendin.models.kv_pool import Pool

MODELS = ("llama-3-8b", "qwen2.5-7b", "gemma-3-4b")
FREE = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "lift_fresh"}
FREE |= {"_unsafe_view", "_reshape_alias", "detach", "alias", "is_same_size"}
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "linear"}
TARGET = SimpleNamespace(get_current_target=lambda: GPUTarget("cuda", 90, 32))
"""A driver for Triton that knows what it compiles for, and nothing more."""
KINDS = ("norms", "rotary", "activation", "residuals", "products", "cache", "attention", "rest")


class Launches(TorchDispatchMode):
    """Counts what would launch a kernel, by the module that it is for."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self._inside: list[str] = []
        for module in model.modules():
            module.register_forward_pre_hook(lambda own, _: self._inside.append(_kind(own)))
            module.register_forward_hook(self._leave)

    def _leave(self, *_: Any) -> None:
        self._inside.pop()

    @contextmanager
    def within(self, kind: str) -> Iterator[None]:
        """What is called in it is of that kind."""
        self._inside.append(kind)
        yield
        self._inside.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        returns = [each.alias_info for each in func._schema.returns]
        is_view = any(alias is not None and not alias.is_write for alias in returns)
        if not is_view and name not in FREE:
            kind = next((own for own in reversed(self._inside) if own), "rest")
            self.found["products" if name in PRODUCTS else kind] += 1
        return func(*args, **(kwargs or {}))


def _kind(module: nn.Module) -> str:
    """What a module's own operations are for; "" where that is what they are within."""
    name = type(module).__name__
    for part, kind in (
        ("Norm", "norms"), ("Rotary", "rotary"), ("MLP", "activation"), ("Attention", "rotary"),
        ("DecoderLayer", "residuals"),
    ):  # fmt: skip
        if part in name:
            return kind
    return ""


def step(
    model: PreTrainedModel,
    forward: Callable[..., Any],
    within: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> None:
    """One token of one sequence, as it is read in a captured forward."""

    def attend(query: Tensor, *_: Any, **__: Any) -> Tensor:
        with within("attention"):
            return query.clone()

    pool = Pool()
    assert pool.reserve(range(100), 200) is not None
    write = pool.write

    def written(*arguments: Any) -> Any:
        with within("cache"):
            return write(*arguments)

    pool.write = written  # type: ignore[method-assign]
    batch = StaticBatch(pool, (1, 1), model.device, attend)
    mask = no_mask(model.dtype, model.device)
    with torch.no_grad(), routed(batch):
        forward(
            input_ids=batch.ids, position_ids=batch.positions, attention_mask=mask, use_cache=False
        )


def built(name: str, device: str, layers: int | None = None) -> PreTrainedModel:
    """A model of that structure, its weights whatever lies in memory."""
    config = CONFIGS[name]()
    if layers is not None:
        config.num_hidden_layers, config.vocab_size = layers, 1000
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[-layers:]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return model.eval() if device == "meta" else model.to_empty(device=device).eval()


def eager(name: str, layers: int | None = None) -> Counter[str]:
    """The kernels of a step of transformers' own layers, by kind."""
    model = built(name, "meta", layers)
    with Launches(model) as counted:
        step(model, model, counted.within)
    return counted.found


def compiled(name: str, before: Counter[str]) -> Counter[str]:
    """The same with compiled layers: what Inductor calls, and what it leaves as it is."""
    layers = CONFIGS[name]().num_hidden_layers
    called: Counter[str] = Counter()

    def backend(graph: Any, inputs: Any) -> Callable[..., Any]:
        calls = inductor_calls(graph, inputs)

        def run(*arguments: Any) -> Any:
            called.update(calls)
            return graph.forward(*arguments)

        return run

    torch._dynamo.reset()
    model = built(name, "cpu", layers=2)
    step(model, CompiledLayers(model, name, backend))
    one, two = (eager(name, layers=count) for count in (1, 2))
    outside = {kind: 2 * one[kind] - two[kind] for kind in KINDS}
    left_out = {kind: before[kind] for kind in ("attention", "cache")}
    inside = {kind: count * layers // 2 for kind, count in called.items()}
    return sum(map(Counter, (outside, left_out, inside)), Counter())


class Generated(Exception):
    """The code that Inductor made, which is not compiled any further."""


def inductor_calls(graph: Any, inputs: Any) -> Counter[str]:
    """What Inductor's code for a graph calls: kernels of its own, and products."""
    driver.set_active(TARGET)

    def stop(source: str) -> None:
        raise Generated(source)

    settings = {"cpu_backend": "triton", "force_pointwise_cat": True, "fx_graph_cache": False}
    saved, GraphLowering.save_output_code = GraphLowering.save_output_code, stop
    try:
        # As for a GPU, where a concatenation is part of the kernel that reads it.
        with torch._inductor.config.patch(settings):
            compile_fx(graph, inputs)(*inputs)
    except Exception as error:
        found: BaseException | None = error
        while not isinstance(found, Generated):
            if found is None:
                raise
            found = found.__cause__ or found.__context__
        code = str(found)
        return Counter(
            fused=len(re.findall(r"^\s+triton_\w+\.run\(", code, re.M)),
            products=len(re.findall(r"^\s+extern_kernels\.", code, re.M)),
        )
    finally:
        GraphLowering.save_output_code = saved
    return Counter()  # it does not compute


def main(json_file: Annotated[Path | None, typer.Option("--json")] = None) -> None:
    """Count both for each model."""
    found: dict[str, Any] = {}
    for name in track(MODELS, description="counting"):
        before = eager(name)
        found[name] = {"eager": before, "compiled": compiled(name, before)}
    console = Console()
    table = Table("kernels a step")
    for heading in (f"{name} {how}" for name, own in found.items() for how in own):
        table.add_column(heading, justify="right", overflow="fold")
    columns = [each for own in found.values() for each in own.values()]
    for kind in (*KINDS[:-1], "fused", "rest"):
        table.add_row(kind, *(str(each[kind]) for each in columns))
    table.add_row("together", *(str(each.total()) for each in columns))
    console.print(table)
    if json_file is not None:
        json_file.write_text(json.dumps({**surroundings(), "launches": found}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
