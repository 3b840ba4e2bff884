"""What lm-evaluation-harness hands to a model, in blendin's terms: contexts, settings, arguments.

The protocol is in `model`; nothing here needs the harness.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..models.protocol import Model
from ..policy import Policy, all_parameters, named_policy
from ..prompts import (
    Message,
    PromptRenderer,
    as_messages,
    checked_template_kwargs,
    read_template_kwargs,
)
from ..settings import KINDS, checked
from ..values import spelled
from ..visible import VisibleMessages

logger = logging.getLogger("lm_eval.blendin")  # the harness shows what its own loggers say
logger.addFilter(VisibleMessages())

CHAT = '{"blendin_messages": '
"""How a context of messages begins; the harness requires rendered messages to be text."""

MAX_BATCH_SIZE = 32
DEFAULT_LENGTH = 256
GENERATION_ARGUMENTS = (
    "until",
    "max_gen_toks",
    "do_sample",
    "temperature",
    "top_p",
    "min_p",
    "top_k",
    "repetition_penalty",
    "seed",
    "num_beams",
)


def chat_context(messages: Sequence[Message]) -> str:
    """Messages as text, which contexts have to be; `Asked.of` reads them back."""
    return f"{CHAT}{json.dumps(list(messages), ensure_ascii=False)}}}"


@dataclass(frozen=True)
class Asked:
    """A context of the harness.

    Attributes:
        text: the context; of a chat, how the answer to it begins.
        chat: its messages, up to a user's turn.
    """

    text: str
    chat: tuple[Message, ...] | None = None

    @classmethod
    def of(cls, context: str) -> Asked:
        """Distinguishes messages (`BlendInLM.apply_chat_template`) from plain text.

        Raises:
            ValueError: where a task has added to the rendered messages.
        """
        if not context.startswith(CHAT):
            return cls(context)
        try:
            (messages,) = json.loads(context).values()
        except ValueError as error:
            raise ValueError(
                "the task changes its context after the chat template was applied, so that it no "
                "longer holds messages: run it without --apply_chat_template"
            ) from error
        begun = messages.pop()["content"] if messages[-1]["role"] == "assistant" else ""
        return cls(begun, tuple(as_messages(messages, None)))

    def before(self, text: str) -> tuple[Asked, str]:
        """This context and a text to score after it, white space between them in the text."""
        kept = self.text.rstrip()
        text = self.text[len(kept) :] + text
        if self.chat is not None and not kept and not text[:1].isspace():
            text = f" {text}"
        return replace(self, text=kept), text

    @property
    def messages(self) -> list[Message]:
        """Those of a chat, with the answer that is begun; a plain context is a user's turn."""
        if self.chat is None:
            return [*as_messages(self.text, None)]
        begun = [{"role": "assistant", "content": self.text}] if self.text else []
        return [*self.chat, *begun]

    def base_prompt(self, model: Model, prompts: PromptRenderer) -> str:
        """What the base reads."""
        if self.chat is not None:
            return prompts.base(self.messages)
        return prompts.base_text(self.text) if self.text else prefix(model)

    def guide_prompt(
        self, model: Model, prompts: PromptRenderer, settings: Mapping[str, Any] | None = None
    ) -> str:
        """What the guide reads, its chat template told `settings`."""
        if self.chat is None and not self.text:
            return prefix(model)
        return prompts.guide(self.messages, settings)


@dataclass
class Count:
    """How many tokens, and at how many of them the guide was asked."""

    tokens: int = 0
    interventions: int = 0

    def add(self, tokens: int, interventions: int) -> None:
        self.tokens += tokens
        self.interventions += interventions

    @property
    def rate(self) -> float | None:
        return self.interventions / self.tokens if self.tokens else None

    def log(self, method: str) -> None:
        """The intervention rate so far, where there is one."""
        if self.rate is not None:
            logger.info(
                "%s: intervention rate %.3f (%d of %d tokens)",
                method,
                self.rate,
                self.interventions,
                self.tokens,
            )


def prefix(model: Model) -> str:
    """What a model reads where there is no context: its BOS token, else its EOS.

    Raises:
        ValueError: where its tokenizer has neither.
    """
    text = model.tokenizer.bos_token or model.tokenizer.eos_token
    if not text:
        raise ValueError(
            f"the tokenizer of {model.name} has no BOS and no EOS token to begin with where there "
            "is no context: set one, or choose other tasks"
        )
    return str(text)


def check_chat_template(guide: Model) -> None:
    """Whether the guide can read contexts as a user's turns.

    Raises:
        ValueError: where it has no chat template.
    """
    if not guide.tokenizer.chat_template:
        raise ValueError(
            f"guide={guide.name} has no chat template to read contexts in: choose an "
            "instruction-tuned guide, or policy=base"
        )


def refuse_unknown(what: str, given: Iterable[str], known: Collection[str]) -> None:
    """Checks the names of arguments.

    Raises:
        ValueError: for one that is not known; the message lists those that are.
    """
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"{what} {', '.join(unknown)}: unknown; use {', '.join(known)}")


def refuse_several_processes() -> None:
    """Checks how the program was started.

    Raises:
        ValueError: this process is one of several.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "blendin runs in one process: start it without `accelerate launch` or torchrun; "
            "device_map=auto spreads the models over the devices there are"
        )


def chosen_policy(policy: str | Policy, **settings: Any) -> Policy:
    """A policy from its name and settings, which may be given as text.

    Raises:
        ValueError: as `named_policy`, and for settings beside a policy that has its own.
    """
    kinds = {name: each.type for name, each in all_parameters().items()}
    given = {
        name: value if kinds[name] is str else number(name, value, kinds[name])
        for name, value in settings.items()
    }
    if isinstance(policy, str):
        return named_policy(policy, **given)
    if stray := [name for name, value in given.items() if value is not None]:
        raise ValueError(f"{', '.join(stray)}: {policy!r} has settings of its own, leave it out")
    return policy


def generation_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of `BlendInGenerator.generate` from the harness' generation arguments.

    Args:
        given: as `lm_eval.models.utils.normalize_gen_kwargs` gives them. Without `do_sample`, or
            at temperature 0, decoding is greedy and the other sampling arguments do not count.

    Raises:
        ValueError: for an unknown one, or a value of the wrong type or out of range.
    """
    refuse_unknown("generation arguments", given, GENERATION_ARGUMENTS)
    if given.get("num_beams", 1) != 1:
        raise ValueError(f"num_beams is {given['num_beams']!r}: blendin has no beams, use 1")
    temperature = number("temperature", given.get("temperature"))
    drawn = flag("do_sample", given.get("do_sample") or False) and temperature != 0
    settings: dict[str, Any] = {
        "max_new_tokens": number("max_gen_toks", given["max_gen_toks"], int),
        "stop": [text for text in given["until"] if text],
        "do_sample": drawn,
        "temperature": 1.0,
        "top_p": 1.0,
        "min_p": 0.0,
        "sampling_top_k": None,
        "repetition_penalty": number_or("repetition_penalty", given, 1.0),
        "seed": number("seed", given.get("seed"), int),
    }
    if drawn:
        settings["temperature"] = 1.0 if temperature is None else temperature
        settings["top_p"] = number_or("top_p", given, 1.0)
        settings["min_p"] = number_or("min_p", given, 0.0)
        # 0 is the harness' word for no top k; for the others 0 is out of range.
        settings["sampling_top_k"] = number("top_k", given.get("top_k"), int) or None
    with spelled(as_argument):
        return checked(settings)


def as_argument(name: str, value: Any = None) -> str:
    """A setting as the harness' generation arguments name it."""
    own = {"max_new_tokens": "max_gen_toks", "stop": "until", "sampling_top_k": "top_k"}
    argument = own.get(name, name)
    return argument if value is None else f"{argument}={value}"


def batch_settings(size: Any, largest: Any, max_cached_tokens: Any) -> dict[str, int | None]:
    """Settings of `BlendInGenerator.stream_batch` from a batch size, "auto" or "auto:N".

    "auto" is `largest`, by default `MAX_BATCH_SIZE`: sequences are admitted as others end, so that
    no size has to be tried out.
    """
    if str(size).partition(":")[0] == "auto":
        size = MAX_BATCH_SIZE if largest is None else largest
    chosen = number("batch_size", size, int)
    cached = number("max_cached_tokens", max_cached_tokens, int)
    chosen = KINDS["max_batch_size"]("batch_size", MAX_BATCH_SIZE if chosen is None else chosen)
    cached = KINDS["max_cached_tokens"]("max_cached_tokens", cached)
    if chosen == 1:
        logger.warning(
            "batch_size is 1, the harness' default: with --batch_size auto many decode together"
        )
    return {"max_batch_size": chosen, "max_cached_tokens": cached}


def chosen_length(asked: Any) -> int:
    """Tokens of an answer where the task does not say.

    Raises:
        ValueError: below 1, or not an integer.
    """
    length = number("max_gen_toks", asked, int)
    kind = KINDS["max_new_tokens"]
    return int(kind("max_gen_toks", DEFAULT_LENGTH if length is None else length))


def chosen_template_settings(asked: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """`chat_template_kwargs`, which may be given as text.

    Raises:
        ValueError: for what a chat template cannot be told.
    """
    if isinstance(asked, str):
        return {} if asked.lower() in ("", "none") else read_template_kwargs(asked)
    return checked_template_kwargs(asked)


def chosen_device(asked: str | None) -> str | None:
    """A device_map; the CPU, as with the harness' own models, where CUDA is asked for but missing.

    The harness' command line asks for cuda:0 where the user names no device.
    """
    if asked is None or asked.startswith("cuda"):
        return (asked or "cuda") if torch.cuda.is_available() else None
    return asked


def number(name: str, value: Any, kind: type[int] | type[float] = float) -> Any:
    """A number or None, which may be given as text.

    Raises:
        ValueError: for anything else.
    """
    if value is None or str(value).lower() == "none":
        return None
    try:
        result = kind(value)
        if isinstance(value, bool) or (not isinstance(value, str) and result != value):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        what = "an integer" if kind is int else "a number"
        raise ValueError(f"{name} is {value!r}; use {what}") from None
    return result


def number_or(name: str, given: Mapping[str, Any], default: float) -> float:
    """The number given under a name; the default where it is missing or None, not where it is 0.

    Raises:
        ValueError: as `number`.
    """
    value = number(name, given.get(name))
    return default if value is None else float(value)


def flag(name: str, value: Any) -> bool:
    """A truth value, which may be given as text.

    Raises:
        ValueError: for anything else.
    """
    word = str(value).lower()
    if word not in ("true", "false"):
        raise ValueError(f"{name} is {value!r}; use True or False")
    return word == "true"
