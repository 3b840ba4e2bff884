"""`blendin serve`: an OpenAI server of a blended pair."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import ModelOptions, PolicyOptions, takes_options
from .serve_local import LocalServerOptions, serve_local

ENGINES = ("local",)


@takes_options
def serve(
    models: ModelOptions,
    policy: PolicyOptions,
    options: LocalServerOptions,
    engine: Annotated[str, typer.Option(help="What runs the base: local, here.")] = "local",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any that is free.")] = 8000,
    max_cached_tokens: Annotated[
        int | None, typer.Option(help="Tokens in each model's caches; unbounded by default.")
    ] = None,
    served_model_name: Annotated[
        str | None, typer.Option(help="What clients call the pair; pair by default.")
    ] = None,
) -> None:
    """Serve a pair to any OpenAI client.

    The policy is that of requests that name none; NAME:nudge, NAME:base and so on ask for others.
    """
    if engine not in ENGINES:
        raise ValueError(f"--engine is {engine!r}: use {', '.join(ENGINES)}")
    serve_local(
        models,
        policy,
        options,
        host=host,
        port=port,
        max_cached_tokens=max_cached_tokens,
        served_model_name=served_model_name,
    )
