"""Predictions by Triton kernels on a GPU, beside the floor and everything they replace.

For each batch N, vocabulary V, dtype and k, from logits that are on the GPU already, three pieces
of work by `FusedPrediction` and by `DensePrediction`:

    choose   one model's choice and its probability
    list     the same and the model's top k
    blend    N interventions: both models' choices and lists, α, the mixture and its argmax

The floor is each logit read once at the bandwidth of a large copy measured in the same run. Work
is timed as it is launched, over several sets of inputs so that none is still in the cache; that of
the kernels as CUDA graph replays too, which leaves the host's time out (`DensePrediction` asks the
host, and cannot be captured), and as what the work adds to a graph that runs anyway
(`kernel_in_graph_us`: a replay of one piece of work is mostly the graph's own launch). All figures
are medians. The targets, of blend at k = 100, in a graph that runs anyway:

    N = 1      at most 10 µs
    N = 64     at most 25 µs
    N >= 1024  at least 70 % of the copy's bandwidth
    all        5 times the speed of torch, 2 times that of torch.compile, as launched

    python benchmarks/kernel.py [--quick] [--csv FILE] [--json FILE]
"""

from __future__ import annotations

import gc
import importlib.util
import json
import platform
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from blendin import Blend
from blendin.decision.fused import FusedPrediction
from blendin.decision.prediction import DensePrediction
from blendin.decision.symbols import SymbolTables
from blendin.evaluation import tables

BATCHES = (1, 8, 64, 256, 1024)
SIZES = (128256, 151936, 262144)
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
TOP_KS = {"100": 100, "whole": None}
BANDWIDTH_TARGET, DENSE_TARGET, COMPILED_TARGET = 0.70, 5.0, 2.0
MICROSECONDS = {1: 10.0, 64: 25.0}
"""The most that a blend of so many rows may take."""

Work = Callable[[Tensor, Tensor], Any]
Makers = tuple[Callable[[Tensor], DensePrediction], Callable[[Tensor], DensePrediction]]
"""What makes a `Prediction` of the base's logits, and of the guide's at an intervention."""


def alignment(size: int) -> SymbolTables:
    """Two vocabularies of one size that share 70 % of their tokens, in another order."""
    rng = torch.Generator().manual_seed(0)
    ends = torch.tensor([size - 2, size - 3])
    candidates = torch.ones(size, dtype=torch.bool)
    candidates[size - 256 :] = False
    shared = int(0.7 * size)
    symbols = torch.arange(size) + size
    symbols[torch.randperm(size - 256, generator=rng)[:shared]] = torch.randperm(
        size - 256, generator=rng
    )[:shared]
    tables = SymbolTables(ends, ends, candidates, candidates.clone(), symbols)
    return tables.to("cuda")


def dense(tables: SymbolTables) -> Makers:
    return (
        lambda logits: DensePrediction(logits, tables.base),
        lambda logits: DensePrediction(logits, tables.guide, candidates_only=True),
    )


def fused(tables: SymbolTables) -> Makers:
    from blendin.kernels.tables import kernel_tables

    base, guide = kernel_tables(tables.base), kernel_tables(tables.guide)
    return (
        lambda logits: FusedPrediction(logits, tables.base, base),
        lambda logits: FusedPrediction(logits, tables.guide, guide, candidates_only=True),
    )


def works(makers: Makers, top_k: int | None) -> dict[str, Work]:
    """The three pieces of work, of base and guide logits."""
    of_base, of_guide = makers
    policy = Blend(top_k=top_k)

    def choose(base_logits: Tensor, guide_logits: Tensor) -> tuple[Tensor, ...]:
        base = of_base(base_logits)
        return base.choice, base.top_prob

    def list_top(base_logits: Tensor, guide_logits: Tensor) -> tuple[Tensor, ...]:
        base = of_base(base_logits)
        symbols, probs, _, _ = base.top(top_k)
        return base.choice, base.top_prob, symbols, probs

    def blend(base_logits: Tensor, guide_logits: Tensor) -> tuple[Tensor, ...]:
        base, guide = of_base(base_logits), of_guide(guide_logits)
        mixture = policy.mix(base, guide)
        return mixture.choice, mixture.alpha, base.top_prob, guide.top_prob

    return {"choose": choose, "list": list_top, "blend": blend}


def launched_seconds(work: Work, inputs: list[tuple[Tensor, Tensor]], repeats: int) -> float:
    """The median time of the work as the host launches it, over the input sets in turn."""
    times = []
    with torch.inference_mode():
        for turn in range(-3, repeats):
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            work(*inputs[turn % len(inputs)])
            stop.record()
            stop.synchronize()
            times.append(start.elapsed_time(stop) / 1e3)
    return statistics.median(times[3:])  # the first three compile


def graph_seconds(work: Work, inputs: list[tuple[Tensor, Tensor]], repeats: int) -> list[float]:
    """Seconds of each of `repeats` replays, over the input sets in turn."""
    warm = torch.cuda.Stream()
    with torch.cuda.stream(warm), torch.inference_mode():
        for _ in range(2):
            for pair in inputs[:2]:
                work(*pair)
    warm.synchronize()
    graphs = []
    for pair in inputs:
        graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(graph):
            kept = work(*pair)
        graphs.append((graph, kept))
    for graph, _ in graphs:
        graph.replay()
    times = []
    for turn in range(repeats):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graphs[turn % len(graphs)][0].replay()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) / 1e3)
    return times


def batched_seconds(
    work: Work, inputs: list[tuple[Tensor, Tensor]], repeats: int, burst: int
) -> float:
    """The median time of one piece of work where a graph holds `burst` of them.

    An event pair around a single short replay measures the launch of the graph as well; this is
    the time on the GPU that the work adds to a graph that is running anyway.
    """
    many = [inputs[turn % len(inputs)] for turn in range(burst)]

    def all_of_them(*_: Tensor) -> list[Any]:
        return [work(*pair) for pair in many]

    return statistics.median(graph_seconds(all_of_them, inputs[:1], repeats)) / burst


def copy_bandwidth(repeats: int) -> float:
    """Bytes read and written a second by a copy of 2 GiB within the GPU."""
    source = torch.randn(1 << 29, device="cuda")
    target = torch.empty_like(source)
    seconds = graph_seconds(lambda *_: target.copy_(source), [(source, target)], repeats)
    return 2 * source.numel() * source.element_size() / statistics.median(seconds)


def flashinfer_sampler(top_k: int | None) -> Work | None:
    """FlashInfer's top-k sampling of the base's logits alone, softmax included."""
    if importlib.util.find_spec("flashinfer") is None:
        return None
    from flashinfer.sampling import top_k_top_p_sampling_from_logits

    def sample(base_logits: Tensor, guide_logits: Tensor) -> Tensor:
        k = base_logits.shape[1] if top_k is None else top_k
        return top_k_top_p_sampling_from_logits(base_logits.float(), k, 1.0)

    return sample


def measure(
    rows: int, size: int, dtype: str, top_k: str, bandwidth: float, repeats: int, compiled: bool
) -> dict[str, Any]:
    """One line of the table; an arm that fails says why and is left out."""
    k = TOP_KS[top_k]
    tables = alignment(size)
    bytes_read = 2 * rows * size * DTYPES[dtype].itemsize
    # More than the cache holds between two uses of one set (the H100's holds 50 MB).
    sets = max(2, min(64, (256 << 20) // bytes_read + 1))

    def logits() -> Tensor:
        return torch.randn(rows, size, device="cuda").mul_(3).to(DTYPES[dtype])

    inputs = [(logits(), logits()) for _ in range(sets)]
    line: dict[str, Any] = {
        "rows": rows,
        "vocabulary": size,
        "dtype": dtype,
        "top_k": top_k,
        "floor_us": bytes_read / bandwidth * 1e6,
    }

    @contextmanager
    def failing_alone(name: str) -> Iterator[None]:
        """One arm's failure must not cost the others' figures."""
        try:
            yield
        except Exception as error:
            line[f"{name}_error"] = f"{type(error).__name__}: {str(error)[:200]}"
        torch.compiler.reset()
        gc.collect()
        torch.cuda.empty_cache()

    arms = {"kernel": works(fused(tables), k), "dense": works(dense(tables), k)}
    with failing_alone("agree"):
        chosen = [arm["blend"](*inputs[0])[0] for arm in arms.values()]
        line["agree"] = float((chosen[0] == chosen[1]).float().mean())
    if compiled:
        arms["compiled"] = {"blend": torch.compile(arms["dense"]["blend"], dynamic=False)}
    if k is not None:
        arms["torch_topk"] = {"list": lambda base, _: base.topk(k, dim=-1)}
    if (sampler := flashinfer_sampler(k)) is not None:
        arms["flashinfer"] = {"blend": sampler}
    for arm, pieces in arms.items():
        for name, work in pieces.items():
            with failing_alone(f"{arm}_{name}"):
                line[f"{arm}_{name}_us"] = launched_seconds(work, inputs, repeats) * 1e6
    with failing_alone("kernel_graph"):
        times = graph_seconds(arms["kernel"]["blend"], inputs, repeats)
        line["kernel_us"] = statistics.median(times) * 1e6
        line["kernel_spread_us"] = (max(times) - min(times)) * 1e6
        burst = batched_seconds(arms["kernel"]["blend"], inputs, max(5, repeats // 5), 20)
        line["kernel_in_graph_us"] = burst * 1e6
    for arm, pieces in arms.items():
        for name in pieces:
            ours, theirs = line.get(f"kernel_{name}_us"), line.get(f"{arm}_{name}_us")
            if arm != "kernel" and ours and theirs:
                line[f"{arm}_over_kernel_{name}"] = theirs / ours
    if "kernel_in_graph_us" in line:
        line["of_bandwidth"] = line["floor_us"] / line["kernel_in_graph_us"]
        line["meets_targets"] = meets_targets(line)
    return line


def meets_targets(line: dict[str, Any]) -> bool | None:
    """Whether every target that applies is met; None where an arm is missing."""
    checks: list[bool | None] = []
    if line["rows"] >= 1024:
        checks.append(line["of_bandwidth"] >= BANDWIDTH_TARGET)
    if line["rows"] in MICROSECONDS and line["top_k"] == "100":
        checks.append(line["kernel_in_graph_us"] <= MICROSECONDS[line["rows"]])
    for other, target in (("dense", DENSE_TARGET), ("compiled", COMPILED_TARGET)):
        ratio = line.get(f"{other}_over_kernel_blend")
        checks.append(None if ratio is None else ratio >= target)
    if False in checks:
        return False
    return None if None in checks else True


def main(
    batches: Annotated[str, typer.Option(help="N, separated by commas.")] = ",".join(
        map(str, BATCHES)
    ),
    vocabularies: Annotated[str, typer.Option(help="V, separated by commas.")] = ",".join(
        map(str, SIZES)
    ),
    dtypes: Annotated[str, typer.Option(help="bf16, fp32 or both.")] = "bf16,fp32",
    top_ks: Annotated[str, typer.Option(help="100, whole or both.")] = "100,whole",
    repeats: Annotated[int, typer.Option(min=5, help="Replays of each arm.")] = 100,
    quick: Annotated[bool, typer.Option(help="One vocabulary, N = 1 and 64, bf16.")] = False,
    no_compile: Annotated[
        bool, typer.Option("--no-compile", help="Without torch.compile.")
    ] = False,
    csv_file: Annotated[Path | None, typer.Option("--csv")] = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure every combination and print times, ratios and targets."""
    if not torch.cuda.is_available():
        typer.echo("benchmarks/kernel.py measures on an NVIDIA GPU, and torch sees none.", err=True)
        raise typer.Exit(1)
    if quick:
        batches, vocabularies, dtypes = "1,64", str(SIZES[0]), "bf16"
    bandwidth = copy_bandwidth(20)
    combinations = list(
        product(
            map(int, vocabularies.split(",")),
            dtypes.split(","),
            top_ks.split(","),
            map(int, batches.split(",")),
        )
    )
    lines = []
    for size, dtype, top_k, rows in track(combinations, description="measuring"):
        line = measure(rows, size, dtype, top_k, bandwidth, repeats, not no_compile)
        lines.append(line)
        # As they come: a lease that ends early keeps what was measured.
        if json_file is not None:
            json_file.write_text(json.dumps(result(bandwidth, lines), indent=2) + "\n")
    report(result(bandwidth, lines))
    if csv_file is not None:
        device = torch.cuda.get_device_name()
        tables.write(csv_file, [{"device": device, **line} for line in lines])


def result(bandwidth: float, lines: list[dict[str, Any]]) -> dict[str, Any]:
    import triton

    return {
        "device": torch.cuda.get_device_name(),
        "machine": platform.machine(),
        "versions": {"torch": torch.__version__, "triton": triton.__version__},
        "copy_bandwidth_bytes_per_second": bandwidth,
        "targets": {
            "of_bandwidth_from_1024_rows": BANDWIDTH_TARGET,
            "microseconds_by_rows": MICROSECONDS,
            "dense_over_kernel": DENSE_TARGET,
            "compiled_over_kernel": COMPILED_TARGET,
        },
        "lines": lines,
    }


def report(result: dict[str, Any]) -> None:
    console = Console()
    gigabytes = result["copy_bandwidth_bytes_per_second"] / 1e9
    table = Table(
        "N", "V", "dtype", "k", "choose µs", "list µs", "blend µs", "compile ×", "FlashInfer ×",
        "graph µs", "in a graph µs", "floor µs", "of copy", "same symbol", "targets",
        title=f"{result['device']}, copy {gigabytes:.0f} GB/s; × torch's time in brackets",
    )  # fmt: skip
    for line in result["lines"]:
        met = line.get("meets_targets")
        table.add_row(
            *(str(line[name]) for name in ("rows", "vocabulary", "dtype", "top_k")),
            *(
                f"{number(line, f'kernel_{name}_us', 1)} "
                f"({number(line, f'dense_over_kernel_{name}', 1)})"
                for name in ("choose", "list", "blend")
            ),
            *(number(line, f"{arm}_over_kernel_blend", 1) for arm in ("compiled", "flashinfer")),
            *(number(line, name, 1) for name in ("kernel_us", "kernel_in_graph_us", "floor_us")),
            number(line, "of_bandwidth", 2),
            number(line, "agree", 3),
            {True: "met", False: "missed", None: "?"}[met],
        )
    console.print(table)
    for line in result["lines"]:
        for name in (name for name in line if name.endswith("_error")):
            console.print(f"N={line['rows']} V={line['vocabulary']} {name}: {line[name]}")
    console.print(
        f"{result['versions']}; targets: {BANDWIDTH_TARGET:.0%} of the copy from N = 1024, "
        f"µs by N {MICROSECONDS}, {DENSE_TARGET:.0f} × torch, "
        f"{COMPILED_TARGET:.0f} × torch.compile"
    )


def number(line: dict[str, Any], name: str, digits: int) -> str:
    return "" if name not in line else f"{line[name]:.{digits}f}"


if __name__ == "__main__":
    typer.run(main)
