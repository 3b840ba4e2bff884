"""`blendin serve`: an OpenAI server of a blended pair."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any

import typer

from ..protocol.names import DEFAULT_NAME
from ..protocol.sampling import CHAT_TOKENS
from .options import ModelOptions, PolicyOptions, takes_options
from .serve_local import LocalServerOptions, serve_local
from .serve_vllm import VllmOptions, serve_vllm

ENGINES = ("local", "vllm")


@takes_options
def serve(
    models: ModelOptions,
    policy: PolicyOptions,
    local_options: LocalServerOptions,
    vllm_options: VllmOptions,
    further: Annotated[
        list[str] | None,
        typer.Argument(
            help="Options of `vllm serve`, after --, with --engine vllm.",
            metavar="-- [OPTIONS OF VLLM]",
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(help="What runs the base: local, here; vllm, with the guide in its worker."),
    ] = "local",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0: any that is free (local alone).")
    ] = 8000,
    max_cached_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens in each model's caches, with vllm in the guide's; unbounded by default."
        ),
    ] = None,
    served_model_name: Annotated[
        str, typer.Option(help="What clients call the pair.")
    ] = DEFAULT_NAME,
    default_max_tokens: Annotated[
        int, typer.Option(help="Tokens of a chat that names no limit.")
    ] = CHAT_TOKENS,
) -> None:
    """Serve a pair to any OpenAI client.

    The policy is that of requests that name none; NAME:nudge, NAME:base and so on ask for others.
    """
    common: dict[str, Any] = {
        "host": host,
        "port": port,
        "max_cached_tokens": max_cached_tokens,
        "served_model_name": served_model_name,
        "default_max_tokens": default_max_tokens,
    }
    if engine == "local":
        _refuse_given(vllm_options, engine)
        if further:
            raise ValueError(f"{further[0]} stands where vLLM's options do: add --engine vllm")
        serve_local(models, policy, local_options, **common)
    elif engine == "vllm":
        _refuse_given(local_options, engine)
        serve_vllm(models, policy, vllm_options, further=tuple(further or ()), **common)
    else:
        raise ValueError(f"--engine is {engine!r}: use {', '.join(ENGINES)}")


def _refuse_given(options: Any, engine: str) -> None:
    """Refuses what concerns the other engine alone."""
    for each in fields(options):
        if getattr(options, each.name) != each.default:
            raise ValueError(
                f"--{each.name.replace('_', '-')} has no part in --engine {engine}: leave it out"
            )
