"""`blendin stress`: what moves a scorer of reasoning, or α, though the reasoning stays the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..files import is_special
from ..visible import to_json
from .errors import as_option, check_file, check_folder, interruptible
from .options import ModelOptions, PolicyOptions, takes_options
from .streams import console, messages
from .terminal import plain

if TYPE_CHECKING:
    from ..evaluation.stress.report import Table as Cells
    from ..evaluation.stress.results import Results
    from ..evaluation.stress.scorers import StepScorer
    from ..evaluation.stress.suite import Suite
    from ..generator import BlendInGenerator
    from ..policy import Policy

CALIBRATED = "calibrated"

Data = Annotated[
    str,
    typer.Option(
        help="Chains: gsm8k, or a file of rows (.jsonl, .json) like GSM8K's (question, answer), "
        "ProcessBench's (problem, steps, label) or PRMBench's (original_process, "
        "modified_process, error_steps)."
    ),
]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder of gsm8k's file; else $BLENDIN_DATA, else the hub.")
]
Limit = Annotated[int | None, typer.Option(help="How many items, a fixed subset; 0: all.")]
Seed = Annotated[int, typer.Option(help="Seed of the subset and of every change.")]
Transformations = Annotated[
    list[str] | None,
    typer.Option("--transformation", help="inflation, order or markers; may be repeated; all."),
]
Strengths = Annotated[
    list[float] | None,
    typer.Option("--strength", help="Share of the steps that are changed, 0..1; may be repeated."),
]
Orders = Annotated[
    int, typer.Option(help="Valid orders that a chain's score is averaged over; 1: none further.")
]
SEED, ORDERS = 2606, 3

stress_app = typer.Typer(
    name="stress", help="Change chains of reasoning, not their correctness, and see what moves."
)


@stress_app.callback(invoke_without_command=True)
@takes_options
def stress(
    context: typer.Context,
    models: ModelOptions,
    policy: PolicyOptions,
    data: Data = "gsm8k",
    data_dir: DataDir = None,
    limit: Limit = 100,
    seed: Seed = SEED,
    transformation: Transformations = None,
    strength: Strengths = None,
    orders: Orders = ORDERS,
    scorer: Annotated[
        list[str] | None,
        typer.Option(
            help="policy, base, guide, or a process reward model's hub id or folder; may be "
            "repeated. policy by default."
        ),
    ] = None,
    prm_style: Annotated[
        str,
        typer.Option(help="How a reward model is read: auto, token, extra_0 or plus_minus."),
    ] = "auto",
    prm_separator: Annotated[
        str, typer.Option(help="After each step, for style token; \\n is a newline.")
    ] = "\\n",
    out: Annotated[
        Path, typer.Option(help="Folder for the scores and the page; created if missing.")
    ] = Path("stress"),
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all numbers to this file.")
    ] = None,
) -> None:
    """Score chains before and after; scores.jsonl and report.html in --out.

    A run that was stopped continues where it was. With --calibration the policy is read twice, as
    it is and calibrated.
    """
    if context.invoked_subcommand is not None:
        _refuse_options_before(context)
        return
    from ..evaluation.stress.report import write
    from ..evaluation.stress.results import analyse
    from ..evaluation.stress.run import Scores, kept, run
    from ..evaluation.stress.store import ScoreStore

    chosen = policy.build()
    raw = _uncalibrated(policy, chosen)
    wanted = list(dict.fromkeys(scorer or ["policy"]))
    check_folder("out", out)
    check_file("json", json_file)
    suite = _suite(data, data_dir, limit, seed, transformation, strength, orders)
    store = ScoreStore(out)
    scorers = _scorers(
        models, raw, chosen, wanted, suite, prm_style, prm_separator.replace("\\n", "\n")
    )
    with interruptible():
        run(suite, scorers, store)
    suite = kept(suite, scorers, store)
    scored = [Scores(name, each, store) for each in scorers for name in each.names]
    settings = {
        "data": data,
        "limit": limit,
        "seed": seed,
        "orders": orders,
        **{each.name: each.identity for each in scored},
    }
    results = analyse(suite, scored, settings)
    _show(results)
    write(results, out / "report.html", json_file)
    messages.print(f"report: {out / 'report.html'}", soft_wrap=True)


@stress_app.command()
@takes_options
def chains(
    data: Data = "gsm8k",
    data_dir: DataDir = None,
    limit: Limit = 0,
    seed: Seed = SEED,
    transformation: Transformations = None,
    strength: Strengths = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The chains, one JSON object a line.")
    ] = Path("chains.jsonl"),
) -> None:
    """Write the chains alone: each with its order, its dependencies and its check's outcome."""
    from ..files import write_whole

    check_file("out", out)
    if not is_special(out) and out.resolve() == Path(data).resolve():
        raise ValueError(f"{as_option('out', out)} is the file of the chains: choose another")
    suite = _suite(data, data_dir, limit, seed, transformation, strength, orders=1)
    lines = [to_json(variant.to_dict()) + "\n" for variant in suite.all]
    _show_counts(suite)
    write_whole(out, "".join(lines))
    messages.print(f"{len(lines)} chains written to {out}", soft_wrap=True)


def _refuse_options_before(context: typer.Context) -> None:
    """Options between `stress` and its subcommand would have no effect."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = [name for name, source in sources.items() if source and source.name != "DEFAULT"]
    if given:
        raise ValueError(
            f"{as_option(given[0])} stands before {context.invoked_subcommand}, where it has no "
            "effect: give it behind"
        )


def _suite(
    data: str,
    data_dir: Path | None,
    limit: int | None,
    seed: int,
    names: list[str] | None,
    strengths: list[float] | None,
    orders: int,
) -> Suite:
    """The chains, made and checked.

    Raises:
        ValueError: for a setting out of range, and as `readers.read`.
    """
    from ..evaluation.stress.readers import read
    from ..evaluation.stress.suite import build
    from ..evaluation.stress.transformations import TRANSFORMATIONS
    from ..values import Integer, Real

    for name in names or ():
        if name not in TRANSFORMATIONS:
            known = ", ".join(TRANSFORMATIONS)
            raise ValueError(f"{as_option('transformation', name)}: use {known}")
    for each in (wanted := strengths or [1.0]):
        Real(0, 1)("strength", each)
    Integer(1)("orders", orders)
    with messages.status("making and checking the chains"):
        sources = read(data, data_dir, limit or None, seed)
        return build(
            sources,
            tuple(dict.fromkeys(names or TRANSFORMATIONS)),
            tuple(dict.fromkeys(wanted)),
            seed,
            orders,
        )


def _uncalibrated(options: PolicyOptions, chosen: Policy) -> Policy | None:
    """The same policy without its calibration; None where it has none."""
    from ..policy import calibration_of, named_policy

    if calibration_of(chosen) is None:
        return None
    return named_policy(vars(options)["policy"], **options.given() | {"calibration": None})


def _scorers(
    models: ModelOptions,
    raw: Policy | None,
    chosen: Policy,
    wanted: list[str],
    suite: Suite,
    style: str,
    separator: str,
) -> list[StepScorer]:
    """What scores; reward models first, for they are the quickest to be refused."""
    from ..evaluation.stress.scorers import OF_PAIR, POLICY, pair_scorers

    rewards = [name for name in wanted if name not in OF_PAIR]
    if len(rewards) > 1:
        raise ValueError(f"--scorer names {len(rewards)} reward models: stress one at a time")
    if raw is not None and POLICY not in wanted:
        raise ValueError("--calibration has no effect without --scorer policy: leave it out")
    found: list[StepScorer] = []
    if rewards:
        from ..evaluation.stress.reward_models import RewardModel

        with messages.status(f"loading {rewards[0]}"):
            found.append(RewardModel(rewards[0], style, separator, models.trust_remote_code))
    elif style != "auto":
        raise ValueError("--prm-style has no effect without a reward model as --scorer")
    of_pair = [name for name in wanted if name in OF_PAIR]
    if of_pair:
        gen: BlendInGenerator = models.load()
        policies: dict[str, Any] = {}
        if POLICY in of_pair:
            policies = {POLICY: chosen} if raw is None else {POLICY: raw, CALIBRATED: chosen}
            gen.pair.check_temperatures(chosen)
        with messages.status("telling the models apart"):
            found += pair_scorers(gen, policies, of_pair, suite.sources.system)
    return found


def _show(results: Results) -> None:
    """The answer, the table of whole chains, and what was left out."""
    from ..evaluation.stress.report import overview, sentences

    console.print(_table(overview(results)))
    for sentence in sentences(results):
        console.print(sentence)
    _show_counts(results.suite)


def _table(cells: Cells) -> Table:
    table = Table(caption=cells.note, caption_justify="left")
    for place, name in enumerate(cells.header):
        table.add_column(plain(name), justify="right" if place else "left")
    for row in cells.rows:
        table.add_row(*map(plain, row))
    return table


def _show_counts(suite: Suite) -> None:
    counts = suite.counts()
    made = ", ".join(f"{count} {title}" for title, count in counts["transformed"].items())
    console.print(
        f"{counts['right']} right and {counts['wrong']} wrong chains; made of them: {made}; "
        f"{counts['equations_recomputed']} equations recomputed, every chain passes its check"
    )
    for stage, reasons in counts["left_out"].items():
        for reason, count in reasons.items():
            console.print(f"left out, {stage}: {count}: {reason}", style="dim")
