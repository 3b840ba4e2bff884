"""The study as one HTML file that needs no other, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from markupsafe import Markup

from ...files import write_whole
from ...policy import Blend, Defer
from ...visible import to_json
from ..diagnosis.figures import Figure, Table
from ..diagnosis.report import templates
from ..statistics import Interval
from . import plots
from .comparison import Compared
from .study import Study

WORDS = {"better": "▲ better", "worse": "▼ worse", "untold": "– untold", "same": "= the same"}
HEADLINES = {
    "better": ("below", "Calibrating pays here"),
    "worse": ("above", "Calibrating does harm here"),
    "untold": ("undecided", "No better, as far as these prompts can tell"),
    "same": ("undecided", "Calibrated and raw are the same"),
}
"""The box's colour, after the diagnosis', and its headline, by the verdict on α and τ together."""


def write(found: Study, page: Path, figures: Path) -> None:
    """Writes the page and all figures.

    Raises:
        OSError: a file cannot be written.
    """
    write_whole(page, html(found))
    write_whole(figures, to_json(found.to_dict(), indent=2) + "\n")


def html(found: Study) -> str:
    """One page that loads nothing else: the verdict, the arms, then what they rest on."""
    kind, headline = HEADLINES[found.whole.verdict]
    return (
        templates(__package__)
        .get_template("calibration.html")
        .render(
            found=found,
            kind=kind,
            headline=headline,
            shades={},
            cards=list(_cards(found)),
            arms=_arms_figure(found.compared, "arms"),
            matched=_arms_figure(found.matched, "matched"),
            reliabilities=list(_reliabilities(found)),
            scores=_scores(found),
            choices=_choices(found),
        )
    )


def arms_table(rows: Sequence[Compared]) -> tuple[list[str], list[list[str]]]:
    """The header, and a row an arm."""
    header = [
        "arm",
        "settings",
        "against raw",
        "nats a token above raw",
        "p (Holm)",
        "asked",
        "chooses the given",
        "p of McNemar (Holm)",
    ]
    return header, [
        [
            each.name,
            _settings(each),
            WORDS[each.verdict],
            format(each.difference, "+z.4f"),
            _p(each.holm_p),
            f"{100 * each.rate:.1f} %",
            f"{100 * each.accuracy:.1f} %",
            _p(each.mcnemar_holm_p),
        ]
        for each in rows
    ]


def _settings(arm: Compared) -> str:
    policy = arm.policy
    if isinstance(policy, Defer):
        return f"θ = {policy.threshold:g}"
    parts = [f"τ = {policy.threshold:.2f}"] if hasattr(policy, "threshold") else []
    if isinstance(policy, Blend) and policy.alpha is not None:
        parts.append(f"α = {policy.alpha:g}")
    return ", ".join(parts)


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 0.001 else "< 0.001"


def _arms_figure(rows: Sequence[Compared], name: str) -> Figure:
    header, cells = arms_table(rows)
    return Figure(
        Markup(plots.differences(rows, name)),
        "Whiskers: 95 % bootstrap intervals over prompts. ▲ and ▼ where the sign-flip test's p, "
        "corrected for all arms by Holm, is below 0.05 and the interval leaves out 0.",
        (Table(header, cells),),
    )


def _cards(found: Study) -> Iterator[tuple[str, str, str]]:
    fitted = found.fitted
    for role in ("base", "guide"):
        yield f"T of the {role}", _interval(fitted.temperatures[role]), "by the given tokens"
    yield "T of the guide", _interval(fitted.temperatures["guide, unlabelled"]), "unlabelled (DACA)"
    calibration = fitted.calibration
    if calibration.a is not None:
        yield (
            "α: a, b, c",
            f"{calibration.a:.2f}, {calibration.b:.2f}, {calibration.c:.2f}",
            "logit α = a + b·(logit p_g − logit p_b) + c·P_B(t_g)",
        )
    else:
        yield "α", "the paper's", "too few interventions to fit one"
    for name, threshold in fitted.thresholds.items():
        yield f"τ by {name}", f"{threshold:.3f}", "of p_b at the base's T"
    if (bound := found.bound) is not None and bound.observed is not None:
        yield (
            "prompts touched at all",
            f"{100 * bound.observed.estimate:.1f} %",
            f"of the test's; at most {100 * bound.level:g} % was asked for, by {bound.prompts}",
        )


def _interval(value: Interval) -> str:
    return format(value, ".2f")


def _reliabilities(found: Study) -> Iterator[Figure]:
    for model in ("base", "guide"):
        for where in ("overall", "uncertain"):
            lines = {
                which: each
                for which in ("raw", "calibrated")
                if (each := found.reliability.get((model, which, where))) is not None
            }
            if lines:
                tau = f"where p_b < {found.wanted.threshold:g}"
                place = "overall" if where == "overall" else tau
                yield Figure(
                    Markup(plots.reliability(lines, f"{model}-{where}")),
                    plots.SMOOTH,
                    title=f"The {model}, {place}",
                )


def _scores(found: Study) -> Table:
    header = [
        "model", "where", "probabilities", "tokens", "NLL", "Brier", "smooth ECE",
        "ECE (equal mass)", "confidence", "right",
    ]  # fmt: skip
    return Table(
        header,
        [
            [
                model, where, which, each.tokens, format(each.nll, ".3f"),
                format(each.brier, ".3f"), format(each.smooth_ece, ".3f"), f"{each.ece:.3f}",
                f"{each.confidence:.3f}", f"{each.accuracy:.3f}",
            ]
            for (model, which, where), each in sorted(
                found.reliability.items(), key=lambda pair: (pair[0][0], pair[0][2])
            )
        ],
    )  # fmt: skip


def _choices(found: Study) -> Table:
    return Table(
        ["where", "tokens", "both choose alike", "base's is the given token", "guide's is",
         "both are", "neither is"],
        [
            [where, each.tokens, *(f"{100 * share:.1f} %" for share in each[1:])]
            for where, each in found.choices.items()
        ],
    )  # fmt: skip
