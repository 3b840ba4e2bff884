"""`blendin serve --engine vllm`: its options, and vLLM's own server in this process's place."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass, fields
from typing import Annotated

import typer

from ..policy import calibration_of
from ..values import Integer
from .options import ModelOptions, PolicyOptions
from .streams import messages

READ = ("base", "guide", "dtype", "trust_remote_code")
"""Of the options that say which pair, those that vLLM's server has a place for."""


@dataclass(frozen=True)
class VllmOptions:
    """What concerns vLLM's server alone."""

    guide_dtype: Annotated[
        str | None,
        typer.Option(help="Of the guide's weights, with --engine vllm; the checkpoint's."),
    ] = None
    print_command: Annotated[
        bool,
        typer.Option(
            "--print-command", help="With --engine vllm: print its command and start nothing."
        ),
    ] = False


def serve_vllm(
    models: ModelOptions,
    policy: PolicyOptions,
    options: VllmOptions,
    *,
    host: str,
    port: int,
    max_cached_tokens: int | None,
    served_model_name: str | None,
    further: tuple[str, ...],
) -> None:
    """Starts vLLM's server, which takes this process's place.

    Raises:
        ValueError: for an option that it has no place for, and as `vllm.launch.command`.
    """
    from ..vllm.launch import ServerSettings, command

    for each in fields(models):
        if each.name not in READ and getattr(models, each.name) != each.default:
            raise ValueError(
                f"--{each.name.replace('_', '-')} has no part in --engine vllm: give vLLM its own "
                "options after --"
            )
    built = policy.build()
    given = {name: value for name, value in policy.given().items() if value is not None}
    if (calibration := calibration_of(built)) is not None:
        # Itself, not its file's name: the engine may run elsewhere.
        given["calibration"] = calibration.to_dict()
    Integer(1, 65535)("port", port)
    settings = ServerSettings(
        models.base,
        models.guide,
        host=host,
        port=port,
        dtype=models.dtype,
        guide_dtype=options.guide_dtype or "auto",
        policy={"name": getattr(policy, "policy", "blend"), **given},
        max_cached_tokens=max_cached_tokens,
        served_model_name=served_model_name,
        trust_remote_code=models.trust_remote_code,
        further=further,
    )
    words = command(settings)
    if options.print_command:
        print(shlex.join(words))
        return
    messages.print(
        f"{settings.name} with the guide {models.guide}: http://{host}:{port}/v1, metrics on "
        "/metrics",
        soft_wrap=True,
    )
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(words[0], words)  # vLLM's processes and signals are then as if it had been started
