"""`blendin serve`: an OpenAI server of a blended pair."""

from __future__ import annotations

import os
import shlex
import sys
from typing import Annotated

import typer

from ..models import default_pair
from ..values import Integer
from .options import PolicyOptions, TrustRemoteCode, takes_options
from .streams import messages

ENGINES = ("vllm",)


@takes_options
def serve(
    policy: PolicyOptions,
    vllm_options: Annotated[
        list[str] | None,
        typer.Argument(help="Options of `vllm serve`, after --.", metavar="-- [OPTIONS OF VLLM]"),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="What runs the base: vllm, the only one so far.")
    ] = "vllm",
    base: Annotated[
        str, typer.Option(help="Base model: an embedded name, a hub id or a folder.")
    ] = default_pair.DEFAULT_BASE,
    guide: Annotated[
        str, typer.Option(help="Guide model, likewise, or a GGUF file.")
    ] = default_pair.DEFAULT_GUIDE,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    dtype: Annotated[str, typer.Option(help="Of the base's weights, as vLLM takes it.")] = "auto",
    guide_dtype: Annotated[str, typer.Option(help="Of the guide's weights.")] = "auto",
    max_cached_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens in the guide's caches; as many as run at once by default."),
    ] = None,
    served_model_name: Annotated[
        str | None, typer.Option(help="What clients call the model; the base's name by default.")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    print_command: Annotated[
        bool, typer.Option("--print-command", help="Print vLLM's command and start nothing.")
    ] = False,
) -> None:
    """Serve a pair: vLLM's own OpenAI server, the guide in its worker.

    The policy is that of requests that name none.
    """
    from ..vllm.launch import ServerSettings, command

    if engine not in ENGINES:
        raise ValueError(f"--engine is {engine!r}: use {', '.join(ENGINES)}")
    policy.build()
    given = {name: value for name, value in policy.given().items() if value is not None}
    Integer(1, 65535)("port", port)
    settings = ServerSettings(
        base,
        guide,
        host=host,
        port=port,
        dtype=dtype,
        guide_dtype=guide_dtype,
        policy={"name": getattr(policy, "policy", "blend"), **given},
        max_cached_tokens=max_cached_tokens,
        served_model_name=served_model_name,
        trust_remote_code=trust_remote_code,
        further=tuple(vllm_options or ()),
    )
    words = command(settings)
    if print_command:
        print(shlex.join(words))
        return
    messages.print(
        f"{settings.name} with the guide {guide}: http://{host}:{port}/v1, metrics on /metrics",
        soft_wrap=True,
    )
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(words[0], words)  # vLLM's processes and signals are then as if it had been started
