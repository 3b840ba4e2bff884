"""`blendin evidence`: several pairs, the same arms on the same items, one page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import check_folder, interruptible, sentence
from .evaluate import keep
from .options import ModelOptions, takes_options
from .reports import PaperOption, read_paper, show_opening, write_pages
from .streams import messages

if TYPE_CHECKING:
    from ..evaluation.evidence.pairs import Evidence, PairOfModels
    from ..evaluation.tasks.task import Task
    from ..generator import BlendInGenerator
    from ..policy import Policy

OF_THE_BASE = (
    *("base", "dtype", "device_map", "trust_remote_code", "base_tokenizer", "top_logprobs"),
    *("base_header", "base_verify", "compile_layers"),
)
"""The options by which a base is loaded: where they are the same it is loaded once."""

FAILURES = (ValueError, FloatingPointError, OSError, ModuleNotFoundError, RuntimeError)
"""What ends one pair's runs and not the others'."""


@takes_options
def evidence(
    pairs: Annotated[
        Path, typer.Argument(help="The list of pairs, TOML or JSON; docs/evidence.md describes it.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of the data files; else $BLENDIN_DATA, else the hub."),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(help="Folder of the runs, RESULTS.md, its pictures and report.html."),
    ] = Path("evidence"),
    paper: PaperOption = None,
) -> None:
    """Run every pair of a list on the same items under the same arms, and write one page.

    A run that was stopped continues where it was, and so does a list with further pairs.
    """
    from ..evaluation.evidence.pairs import read_pairs
    from ..evaluation.evidence.report import Report
    from ..evaluation.runs.reading import read_results

    asked = read_pairs(pairs)
    beside = read_paper(paper)
    check_folder("out", out)
    planned = [_Planned(asked, pair, data, out) for pair in asked.pairs]
    left_out: dict[str, str] = {}
    loaded: tuple[ModelOptions, BlendInGenerator] | None = None
    for each in planned:
        messages.print(f"pair {each.name}", style="bold")
        try:
            loaded = each.options, each.load(loaded)
            each.run(loaded[1], asked.batch_size)
        except typer.Exit:  # of Ctrl-C; it is a RuntimeError
            raise
        except FAILURES as error:
            left_out[each.name] = sentence(error)
            messages.print(f"{each.name} is left out: {sentence(error)}", soft_wrap=True)
    folders = [folder for each in planned for folder in each.begun()]
    if folders:
        results = [read_results(folder) for folder in folders]
        report = Report(results, beside, left_out)
        show_opening(report)
        write_pages(report, out / "RESULTS.md", out / "report.html")
    if left_out:
        raise typer.Exit(1)


class _Planned:
    """One pair's runs, checked before any model is loaded."""

    def __init__(self, asked: Evidence, pair: PairOfModels, data: Path | None, out: Path) -> None:
        from ..evaluation.runs.arms import arms, sweep
        from ..evaluation.runs.benchmark import check
        from ..evaluation.tasks.registry import load

        self.name = pair.name
        self.options = ModelOptions(**pair.models)
        for role in ("base", "guide"):
            self.options.of(role, [getattr(self.options, role)])  # headers that are not there
        folder = out / "runs" / pair.name
        policies = arms(asked.arms, **asked.settings)
        self._runs: list[tuple[Task, dict[str, Policy], Path, dict[str, Any]]] = [
            self._planned(
                asked, pair, load(name, data, asked.limit[name], asked.seed), policies,
                folder / name, asked.limit[name],
            )
            for name in asked.tasks
        ]  # fmt: skip
        grid = asked.sweep
        if grid is not None and pair.name in grid.pairs:
            swept = sweep(grid.thresholds, grid.alphas, **asked.settings)
            self._runs += [
                self._planned(
                    asked, pair, load(name, data, grid.limit, asked.seed), swept,
                    folder / f"{name}-sweep", grid.limit,
                )
                for name in grid.tasks
            ]  # fmt: skip
        for task, arms_of_run, where, plan_of_run in self._runs:
            check_folder("out", where)
            check(task, arms_of_run, where, plan_of_run)

    @staticmethod
    def _planned(
        asked: Evidence,
        pair: PairOfModels,
        task: Task,
        policies: dict[str, Policy],
        folder: Path,
        limit: int | None,
    ) -> tuple[Task, dict[str, Policy], Path, dict[str, Any]]:
        from ..evaluation.runs.benchmark import plan
        from ..evaluation.tasks.task import origin

        planned = plan(
            task,
            max_new_tokens=asked.max_new_tokens.get(task.name),
            chat_template_kwargs=pair.chat_template_kwargs,
            **origin(task, limit, asked.seed),
        )
        return task, policies, folder, planned

    def load(self, before: tuple[ModelOptions, BlendInGenerator] | None) -> BlendInGenerator:
        """The pair's generator, with the base of the pair before it where that is the same."""
        from ..evaluation.runs.folder import Shard

        base = None
        if before is not None:
            options, gen = before
            if all(getattr(options, key) == getattr(self.options, key) for key in OF_THE_BASE):
                base = gen.base
        options, device = self.options, Shard.from_environment().device
        if options.device_map is None and device is not None:
            options = replace(options, device_map=device)
        return options.load(base)

    def run(self, gen: BlendInGenerator, batch_size: int) -> None:
        """Runs what is not done yet, task after task."""
        from ..evaluation.runs.benchmark import of_models, run
        from ..evaluation.runs.folder import RunFolder, Shard

        with messages.status("telling the models apart"):
            found = of_models(gen)
        for task, policies, folder, planned in self._runs:
            results = RunFolder(folder, planned | found, Shard.from_environment())
            messages.print(f"{task.title}: {len(task.items)} items → {folder}", soft_wrap=True)
            with interruptible():
                run(gen, task, policies, results, max_batch_size=batch_size)
            keep(task, results, tuple(policies))

    def begun(self) -> list[Path]:
        """The folders that hold something."""
        from ..evaluation.runs.manifest import MANIFEST

        return [folder for _, _, folder, _ in self._runs if (folder / MANIFEST).is_file()]
