"""The command line: `blendin generate`, `chat`, `compare`, `models` and the evaluation's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import __version__
from ..calibration import as_calibration
from ..files import write_whole
from ..models import default_pair
from ..page import ALTERNATIVES
from ..policy import DEFAULT_THRESHOLD, BaseOnly, Blend, Nudge
from ..values import encodable
from ..visible import to_json
from . import standard_input
from .calibrate import calibrate
from .diagnose import diagnose
from .errors import check_file, errors_in_one_line
from .evaluate import evaluate
from .evidence import evidence
from .options import DecodingOptions, ModelOptions, PolicyOptions, takes_options
from .reports import report
from .score import paradox, score_app
from .serve import serve
from .streams import Commands, console, messages
from .stress import stress_app
from .view import view

if TYPE_CHECKING:
    from ..engine.stream import Stream
    from ..trace import Generation


def show_version(is_asked: bool) -> None:
    """Prints what is installed, and ends the command."""
    if is_asked:
        print(f"blendin {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="blendin",
    cls=Commands,
    help="Inference-time alignment: a small aligned guide steps in where a base model is unsure.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=show_version),
    ] = False,
) -> None:
    """The options of no command."""


app.add_typer(score_app)
app.add_typer(stress_app)
app.command()(calibrate)
app.command()(diagnose)
app.command()(evaluate)
app.command()(evidence)
app.command()(report)
app.command()(paradox)
app.command()(serve)
app.command()(view)


@app.command()
@takes_options
def generate(
    models: ModelOptions,
    policy: PolicyOptions,
    decoding: DecodingOptions,
    prompt: Annotated[
        str | None, typer.Argument(help="The question; read from standard input if missing.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write every step to this file as JSON lines.")
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Write every step to this file as a page that stands alone."),
    ] = None,
    trace_top: Annotated[
        int | None,
        typer.Option(
            help="With --trace, --html or --json: the likeliest tokens of every step to keep, so "
            f"many of base, guide and what was emitted from; {ALTERNATIVES} with --html."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as one JSON object.")
    ] = False,
) -> None:
    """Answer one prompt; tokens coloured by the model that chose them."""
    from ..settings import checked

    chosen, settings = policy.build(), decoding.settings()
    if trace_top is None:
        trace_top = 0 if html is None else ALTERNATIVES
    settings |= checked({"trace_top": trace_top})
    check_file("trace", trace)
    check_file("html", html)
    if trace_top and trace is None and html is None and not as_json:
        raise ValueError("--trace-top goes into a trace: add --trace FILE, --html FILE or --json")
    text = checked_prompt(standard_input.read().strip() if prompt is None else prompt)
    stream = models.load().stream(text, policy=chosen, **settings)
    try:
        show(stream, quiet=as_json)
        if not as_json:
            show_legend()
    finally:  # what there is, though a model failed on the way
        if as_json and stream.output.steps:
            console.put(to_json(stream.output.to_dict(), encoding=console.encoding), end="\n")
        if trace is not None:
            stream.output.write_jsonl(trace)
        if html is not None:
            write_page(html, {text: stream.output})


@app.command()
@takes_options
def chat(models: ModelOptions, policy: PolicyOptions, decoding: DecodingOptions) -> None:
    """Talk in turns: the guide reads its chat template, the base a plain transcript."""
    chosen, settings = policy.build(), decoding.settings()
    gen = models.load()
    system = settings.pop("system")
    turns = [{"role": "system", "content": system}] if system else []
    messages.print("An empty line or Ctrl-D ends the chat; Ctrl-C ends an answer.", style="dim")
    show_legend()
    for line in map(str.strip, standard_input.lines()):
        if not line:
            break
        turns.append({"role": "user", "content": line})
        stream = gen.stream(turns, policy=chosen, **settings)
        show(stream)
        turns.append({"role": "assistant", "content": stream.output.text})


@app.command()
@takes_options
def compare(
    models: ModelOptions,
    decoding: DecodingOptions,
    prompt: Annotated[str, typer.Argument(help="The question.")],
    threshold: Annotated[float, typer.Option(help="τ of NUDGING and BlendIn.")] = DEFAULT_THRESHOLD,
    calibration: Annotated[
        str | None,
        typer.Option(help="File of `blendin calibrate`, for BlendIn; τ stays --threshold."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write all three to this file as a page that stands alone.")
    ] = None,
) -> None:
    """Show the base alone, NUDGING and BlendIn on one prompt, side by side."""
    blend = Blend(threshold, calibration=as_calibration("calibration", calibration))
    arms = {"base alone": BaseOnly(), "NUDGING": Nudge(threshold), "BlendIn": blend}
    prompt, settings = checked_prompt(prompt), decoding.settings()
    check_file("html", html)
    if html is not None:
        settings["trace_top"] = ALTERNATIVES
    gen = models.load()
    gen.pair.check_temperatures(blend)
    from . import terminal

    outputs = {}
    with messages.status("decoding") as status:
        for title, arm in arms.items():
            status.update(f"decoding: {title}")
            outputs[title] = gen.generate(prompt, policy=arm, **settings)
    console.print(prompt, style="bold")
    if html is not None:
        write_page(html, outputs)
    console.print(terminal.side_by_side(outputs, console.width), soft_wrap=False)
    console.print(terminal.legend())


@app.command("models")
@takes_options
def list_models() -> None:
    """List the embedded models, named pairs, and the models in the Hugging Face cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    from ..configuration import named_pair, pairs

    console.print("embedded", style="bold")
    for name, embedded in default_pair.EMBEDDED.items():
        folder = default_pair.cached_folder(name)
        if folder is not None:
            state = f"converted, {size_of(folder)}, {folder}"
        elif default_pair.is_installed(name):
            state = "installed, converted at first use"
        else:
            state = f"not installed: {embedded.pip}"
        console.print(f"  {name:24}{state}")
        licence = f"{embedded.licence}, {embedded.licence_url}"
        console.print(f"  {'':24}{embedded.hub_id} ({licence})", style="dim")
    default = {"base": default_pair.DEFAULT_BASE, "guide": default_pair.DEFAULT_GUIDE}
    for name, (path, _) in pairs().items():
        own = named_pair(name)
        models = [own.get(role, default[role]) for role in ("base", "guide")]
        console.print(f"  {f'--pair {name}':24}{' and '.join(models)}")
        console.print(f"  {'':24}{path}", style="dim")
    try:
        repos = [repo for repo in scan_cache_dir().repos if repo.repo_type == "model"]
    except CacheNotFound:
        repos = []
    console.print("Hugging Face cache" + ("" if repos else ": no models"), style="bold")
    for repo in sorted(repos, key=lambda repo: repo.repo_id):
        console.print(f"  {repo.repo_id:48}{repo.size_on_disk_str}")


@app.command("custom-generate")
@takes_options
def custom_generate(
    folder: Annotated[Path, typer.Argument(help="Where to; made if it is not there.")],
) -> None:
    """Write the folder that transformers' generate(custom_generate=...) takes, for the Hub."""
    from ..hf.repository import write_repo

    written = write_repo(folder)
    messages.print(f"{written}: upload it with `hf upload YOU/NAME {written}`", soft_wrap=True)


@app.command(
    "lm-eval",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def lm_eval(context: typer.Context) -> None:
    """EleutherAI's lm-evaluation-harness with the model "blendin"; the arguments are its own."""
    with errors_in_one_line():
        from ..lm_eval.model import main
    main(context.args)


def main() -> None:
    """The console script `blendin`."""
    app()


def checked_prompt(text: str) -> str:
    """A prompt, before models are loaded.

    Raises:
        ValueError: it is empty, or no text.
    """
    if not text.strip():
        raise ValueError("the prompt is empty: give it as an argument or on standard input")
    return encodable("PROMPT", text)


def write_page(path: Path, outputs: Mapping[str, Generation]) -> None:
    """Writes the page of some generations, by the names that they are shown under."""
    from ..page import page

    write_whole(path, page(outputs))


def show(stream: Stream, quiet: bool = False) -> None:
    """Runs a stream to its end, or until Ctrl-C, and shows it as it comes."""
    from . import terminal

    try:
        for step in stream:
            if not quiet:
                console.put(step.text, style=terminal.token_style(step))
    except KeyboardInterrupt:
        messages.print("\ninterrupted", style="yellow")
    if not quiet:
        console.put("\n")
        messages.print(terminal.figures(stream.output))


def show_legend() -> None:
    """What the colours mean, where there are colours."""
    from . import terminal

    if console.is_terminal:
        messages.print(terminal.legend())


def size_of(folder: Path) -> str:
    total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return f"{total / 1e9:.2f} GB"


if __name__ == "__main__":
    main()
