"""`blendin serve` of a pair that runs here: its options, and the server itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from .options import ModelOptions, PolicyOptions
from .streams import messages


@dataclass(frozen=True)
class LocalServerOptions:
    """What a server of our own lets clients do."""

    batch_size: Annotated[int, typer.Option(help="Texts decoded together at most.")] = 32
    max_waiting: Annotated[
        int, typer.Option(help="Further texts that may wait; beyond, the answer is 429.")
    ] = 128
    request_timeout: Annotated[
        float, typer.Option(help="Seconds after which a text is cut, and says so.")
    ] = 600.0
    max_body_bytes: Annotated[int, typer.Option(help="Of a request.")] = 4 * 2**20
    stop_timeout: Annotated[
        float, typer.Option(help="Seconds that texts may go on when the server is told to stop.")
    ] = 30.0
    api_key: Annotated[
        str | None,
        typer.Option(
            metavar="VARIABLE",
            help="The environment variable with the key that clients must send; "
            "BLENDIN_SERVE_API_KEY by default, if it is set.",
        ),
    ] = None
    cors: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN", help="Whose pages may ask from a browser; may be repeated; * for all."
        ),
    ] = None


def serve_local(
    models: ModelOptions,
    policy: PolicyOptions,
    options: LocalServerOptions,
    *,
    host: str,
    port: int,
    max_cached_tokens: int | None,
    served_model_name: str,
    default_max_tokens: int,
) -> None:
    """Serves a pair until a signal ends it.

    Raises:
        ValueError: for an option out of range, or a model that cannot be had.
        ModuleNotFoundError: the extra `serve` is not installed.
    """
    from ..serve.settings import ServeSettings, api_key

    settings = ServeSettings(
        host=host,
        port=port,
        served_model_name=served_model_name,
        policy=policy.build(),
        max_batch_size=options.batch_size,
        max_cached_tokens=max_cached_tokens,
        max_waiting=options.max_waiting,
        default_max_tokens=default_max_tokens,
        request_timeout=options.request_timeout,
        max_body_bytes=options.max_body_bytes,
        stop_timeout=options.stop_timeout,
        api_key=api_key(options.api_key),
        cors=options.cors or (),
    )
    try:
        from ..serve.run import run
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error}: `pip install 'blendin[serve]'` brings what the server needs"
        ) from error
    if settings.api_key is None and not settings.is_loopback:
        messages.print(
            f"--host {host} lets others in and no key is asked for: set BLENDIN_SERVE_API_KEY",
            style="yellow",
        )

    def listening(url: str) -> None:
        messages.print(
            f"{settings.served_model_name} ({models.base} with the guide {models.guide}): "
            f"{url}/v1, its documentation {url}/docs; 503 until the models are loaded",
            soft_wrap=True,
        )

    run(settings, models.load, listening)
