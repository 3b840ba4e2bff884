"""The command line's options in groups that commands share."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from ..models import default_pair
from ..policy import (
    POLICY_NAMES,
    Parameter,
    Policy,
    all_parameters,
    named_policy,
    parameters,
)
from ..values import spelled
from .errors import as_option, errors_in_one_line
from .streams import messages

if TYPE_CHECKING:
    from ..generator import BlendInGenerator
    from ..models.protocol import Model


class ToMessages(logging.Handler):
    """Shows what the library logs on standard error, above a status line if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            messages.print(self.format(record), soft_wrap=True)
        except Exception:
            self.handleError(record)


# One for the process: a logger takes a handler once, however often models are loaded.
warnings_shown = ToMessages()


Base = Annotated[
    str,
    typer.Option(
        help="Base model: an embedded name, a hub id, a folder, a GGUF file, or the URL of a "
        "completions server, http://host:8000/v1#model, replicas with commas between."
    ),
]
Dtype = Annotated[str, typer.Option(help="Of the weights: auto, float32, bfloat16, float16.")]
RefusalModelOption = Annotated[
    str | None,
    typer.Option(
        "--refusal-model",
        help="Text-classification model that reads refusals, a hub id or a folder with safetensors "
        "weights; its labels must say which is a refusal, such as REJECTION and NORMAL.",
    ),
]
DelimiterOption = Annotated[
    str | None,
    typer.Option(
        help="What parts the cells of CSV: one character, or tab; by default what the header shows."
    ),
]
DeviceMap = Annotated[
    str | None, typer.Option(help="As accelerate understands it, for example auto.")
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that a checkpoint brings.")
]

ChatTemplateKwargs = Annotated[
    list[str] | None,
    typer.Option(
        help="Settings for the guide's chat template: a JSON object such as "
        "'{\"enable_thinking\": false}', or name=value; may be repeated."
    ),
]


Headers = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VARIABLE",
        help="A further header of every request to the model's server, and the environment "
        "variable that holds its value; may be repeated.",
    ),
]
Verify = Annotated[
    str | None,
    typer.Option(
        metavar="PATH|off",
        help="The certificate of the authority that the model's server has its own from (PEM), or "
        "a folder of them; off: anyone's are trusted.",
    ),
]


@dataclass(frozen=True)
class ServerOptions:
    """How servers are reached."""

    base_header: Headers = None
    guide_header: Headers = None
    base_verify: Verify = None
    guide_verify: Verify = None

    def of(self, role: str, sources: Sequence[str]) -> dict[str, Any]:
        """What `{role}_kwargs` are given of it.

        Args:
            role: "base" or "guide".
            sources: the model's, or those of all guides.

        Raises:
            ValueError: as `credentials.options_of`.
        """
        from ..models.remote.credentials import options_of

        header, verify = getattr(self, f"{role}_header"), getattr(self, f"{role}_verify")
        return options_of(role, sources, header, verify)


@dataclass(frozen=True)
class ModelOptions(ServerOptions):
    """Which pair, and how it is loaded."""

    base: Base = default_pair.DEFAULT_BASE
    guide: Annotated[str, typer.Option(help="Guide model, likewise.")] = default_pair.DEFAULT_GUIDE
    dtype: Dtype = "auto"
    device_map: DeviceMap = None
    trust_remote_code: TrustRemoteCode = False
    base_tokenizer: Annotated[
        str | None,
        typer.Option(
            help="The base's tokenizer, if not the model's own or if a server does not name it."
        ),
    ] = None
    guide_tokenizer: Annotated[
        str | None, typer.Option(help="The guide's tokenizer, likewise.")
    ] = None
    compile_layers: Annotated[
        bool,
        typer.Option(
            "--compile-layers",
            help="On a GPU: compile the layers of captured forwards, for fewer kernels a step.",
        ),
    ] = False
    top_logprobs: Annotated[
        int | None, typer.Option(help="Tokens that servers list at each position; 100 by default.")
    ] = None

    def load(
        self, loaded_base: Model | None = None, guides: Sequence[str] = ()
    ) -> BlendInGenerator:
        """The generator, with transformers' own messages kept to errors.

        Args:
            loaded_base: the model that `base` names, where a generator has loaded it already.
            guides: all that the options are for, where `guide` is one of several.

        Raises:
            ValueError: as `ServerOptions.of`.
        """
        servers = {
            "base": self.of("base", [self.base]),
            "guide": self.of("guide", guides or [self.guide]),
        }
        with messages.status("loading transformers"):
            from transformers.utils import logging as transformers_logging

            from ..generator import BlendInGenerator
            from ..models.loader import same_source
            from ..models.remote.loading import is_url
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        settings = asdict(self)
        for field in fields(ServerOptions):
            del settings[field.name]
        top = settings.pop("top_logprobs")
        for role in ("base", "guide"):
            tokenizer = settings.pop(f"{role}_tokenizer")
            served = is_url(settings[role])
            options = {"tokenizer": tokenizer, "top_logprobs": top if served else None}
            options |= servers[role] if served else {}
            settings[f"{role}_kwargs"] = {k: v for k, v in options.items() if v is not None}
        names = f"{self.base} and {self.guide}"
        if loaded_base is not None:
            names = self.guide
            settings["base"] = loaded_base
            for_loading = {
                name: settings.pop(name) for name in ("dtype", "device_map", "trust_remote_code")
            }
            same = same_source(self.base, self.guide)
            if same and settings["guide_kwargs"] == settings["base_kwargs"]:
                settings["guide"] = loaded_base
            else:
                settings["guide_kwargs"] |= for_loading
            settings["base_kwargs"] = {}
        with messages.status(f"loading {names}"):
            return BlendInGenerator(**settings)


class PolicySettings:
    """A group of options made from the policies' own parameters."""

    def given(self) -> dict[str, Any]:
        """Those that were given on the command line, by name; the others are None."""
        return {name: value for name, value in vars(self).items() if name != "policy"}

    def build(self) -> Policy:
        """The policy; `Blend` where the group has no --policy."""
        return named_policy(getattr(self, "policy", "blend"), **self.given())


def policy_settings(
    parameters: Mapping[str, Parameter], policy: str | None = None
) -> type[PolicySettings]:
    """A group with an option for each of some parameters.

    Args:
        parameters: by name; None stands for a default in each.
        policy: the default of an option --policy; None for no such option.
    """
    options: list[tuple[str, Any, Any]] = []
    if policy is not None:
        help = f"One of {', '.join(POLICY_NAMES)}."
        options.append(("policy", Annotated[str, typer.Option(help=help)], policy))
    for name, each in parameters.items():
        default = "" if each.default is None else f" {each.default} by default."
        option = typer.Option(help=f"{each.help}{default}")
        options.append((name, Annotated[each.type | None, option], None))
    return make_dataclass("PolicySettings", options, bases=(PolicySettings,), frozen=True)


if TYPE_CHECKING:

    class PolicyOptions(PolicySettings): ...

    class BlendOptions(PolicySettings): ...

    class ArmOptions(PolicySettings): ...

else:
    PolicyOptions = policy_settings(all_parameters(), policy="blend")
    BlendOptions = policy_settings(parameters("blend"))
    ArmOptions = policy_settings(all_parameters())


@dataclass(frozen=True)
class DecodingOptions:
    """How long, and how a symbol is chosen."""

    max_new_tokens: Annotated[int, typer.Option(help="The most steps.")] = 256
    system: Annotated[str | None, typer.Option(help="System text for both models.")] = None
    stop: Annotated[
        list[str] | None,
        typer.Option(
            help="Text to stop before; may be repeated. \\n is a newline, an empty text is none. "
            "By default \\nQuestion: where the base reads its default template."
        ),
    ] = None
    do_sample: Annotated[
        bool, typer.Option("--do-sample", help="Sample instead of greedy decoding.")
    ] = False
    temperature: Annotated[float, typer.Option(help="With --do-sample; 0 is greedy.")] = 1.0
    top_p: Annotated[float, typer.Option(help="With --do-sample.")] = 1.0
    min_p: Annotated[float, typer.Option(help="With --do-sample.")] = 0.0
    sampling_top_k: Annotated[int | None, typer.Option(help="With --do-sample.")] = None
    repetition_penalty: Annotated[float, typer.Option(help="As in transformers.")] = 1.0
    repetition_penalty_range: Annotated[
        int | None, typer.Option(help="How many of the last tokens it looks at. All by default.")
    ] = None
    penalize_nl: Annotated[
        bool,
        typer.Option(
            "--penalize-nl/--no-penalize-nl",
            help="Whether it counts line feeds.",
        ),
    ] = True
    seed: Annotated[int | None, typer.Option(help="Seed of the random draws.")] = None
    speculate: Annotated[
        str,
        typer.Option(
            help="Draft the next tokens and verify them in one forward, which changes no "
            "output: auto, off, lookup, guide, or how many."
        ),
    ] = "auto"
    chat_template_kwargs: ChatTemplateKwargs = None

    def settings(self) -> dict[str, Any]:
        """What `BlendInGenerator.generate` takes, checked before any model is loaded.

        Raises:
            ValueError: for a value out of range.
        """
        from ..prompts import read_template_kwargs
        from ..settings import checked

        stop = self.stop
        if stop is not None:
            stop = [text.replace("\\n", "\n") for text in stop if text]
        count = self.speculate
        is_number = count.removeprefix("-").isdecimal() and len(count) < 20
        speculate = int(count) if is_number else count
        template = self.chat_template_kwargs and read_template_kwargs(self.chat_template_kwargs)
        changed = {"stop": stop, "speculate": speculate, "chat_template_kwargs": template}
        return checked(asdict(self) | changed)


def check_settings(max_new_tokens: int | None, batch_size: int) -> None:
    """Checks a run's settings before any model is loaded.

    Raises:
        ValueError: for a value out of range.
    """
    from ..settings import checked

    given = {"max_batch_size": batch_size}
    if max_new_tokens is not None:
        given["max_new_tokens"] = max_new_tokens
    checked(given)


PairOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="A pair by its name in blendin.toml: its base, guide and how they are loaded; options "
        "that are given beside it go before its own.",
    ),
]


def with_pair(
    name: str, arguments: dict[str, Any], hints: Mapping[str, Any], context: typer.Context
) -> None:
    """Puts a named pair's settings in the place of options that were not given.

    Raises:
        ValueError: as `configuration.named_pair`; or the command has no such option.
    """
    from ..configuration import named_pair

    for option, value in named_pair(name).items():
        if option not in hints:
            raise ValueError(
                f"the pair {name} has {option}, and this command no {as_option(option)}: "
                "give it another pair, or take that out"
            )
        source = context.get_parameter_source(option)
        if source is None or source.name == "DEFAULT":
            is_repeated = "list[" in str(hints[option]) and not isinstance(value, list)
            arguments[option] = [value] if is_repeated else value


def takes_options(command: Callable[..., None]) -> Callable[..., None]:
    """Spreads a command's parameters that are option groups into options of their own.

    Where there is a base and a guide among them, there is --pair, too.

    An error that the user can fix (a value out of range, a missing model) ends the command with one
    line and exit status 2, without a traceback.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    parameters = [
        parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(command).parameters.items()
        if name not in groups
    ]
    for group in groups.values():
        group_hints = get_type_hints(group, include_extras=True)
        for field in fields(group):
            assert field.default is not MISSING
            parameters.append(
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=field.default,
                    annotation=group_hints[field.name],
                )
            )

    hinted = {parameter.name: parameter.annotation for parameter in parameters}
    takes_context = "context" in hinted
    if {"base", "guide"} <= hinted.keys():
        added: dict[str, tuple[Any, Any]] = {"pair": (PairOption, None)}
        if not takes_context:
            added["context"] = (typer.Context, inspect.Parameter.empty)
        parameters += [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind
            )
            for name, (kind, default) in added.items()
        ]

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        logging.getLogger("blendin").addHandler(warnings_shown)
        with spelled(as_option), errors_in_one_line():
            context, pair = arguments.pop("context", None), arguments.pop("pair", None)
            if pair is not None:
                with_pair(pair, arguments, hinted, context)
            if takes_context:
                arguments["context"] = context
            built = {
                name: group(**{field.name: arguments.pop(field.name) for field in fields(group)})
                for name, group in groups.items()
            }
            command(**arguments, **built)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__wrapped__
    return run


def warn_of_languages(place: str, completions: Sequence[str]) -> None:
    """One warning where the classifier of refusals, which reads English, met something else."""
    from ..evaluation.tasks.xstest import not_english

    rows = [str(row + 1) for row in not_english(completions)]
    if rows:
        named = ", ".join(rows[:5]) + (" …" if len(rows) > 5 else "")
        messages.print(
            f"[yellow]{len(rows)} of {len(completions)} completions are not English[/] "
            f"({place}: {named}): the classifier reads English only, so their labels mean nothing; "
            "a --refusal-model or a judge of their language can read them",
            soft_wrap=True,
        )
