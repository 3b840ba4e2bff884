"""What the body of a request to vLLM's OpenAI server asks of us, and what of it vLLM is to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from ..policy import POLICY_NAMES, Policy
from ..prompts import BASE_STOP, as_messages, base_text
from ..prompts.encoding import EncodedText, text_prompt
from ..values import encodable, told
from ..vocab.vocabulary import Vocabulary
from .arguments import EXAMPLE, NAME, PROMPTS, RequestArguments

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"

WITHOUT_GUIDE = (
    "/cohere/v2/chat",
    "/invocations",
    "/v1/chat/completions/batch",
    "/v1/messages",
    "/v1/responses",
)
"""Further conversations that vLLM serves, in which the base would answer alone."""

NOT_IN_A_TRANSCRIPT = {
    "tools": "blendin runs no tools: leave it out",
    "functions": "blendin runs no tools: leave it out",
    "documents": "the base's plain transcript has no place for it: put it into a message",
    "chat_template": "the base reads a plain transcript: leave it out",
    "reasoning_effort": "the base reads a plain transcript: leave it out",
    "add_special_tokens": "the base's prompt begins as its tokenizer has it: leave it out",
}
"""What a chat request may not have."""

NOT_IN_A_BLEND = {
    "n": "each text is a request of its own: send one for each",
    "best_of": "each text is a request of its own: send one for each",
    "use_beam_search": "a beam is searched in one model's probabilities",
    "presence_penalty": "it has no part in a blend",
    "frequency_penalty": "it has no part in a blend",
    "min_p": "it has no part in a blend",
    "logit_bias": "it would change the base's probabilities and not the guide's",
    "thinking_token_budget": "it would choose tokens beside the policy",
    "watermarking": "it would choose tokens beside the policy",
    "truncate_prompt_tokens": "it would shorten the base's prompt and not the guide's",
    "prompt_embeds": "the guide cannot read what is no text",
    "kv_transfer_params": "another server would choose tokens beside the policy",
    "prompt_logprobs": "it would tell the base's own",
}
"""What a request that is to be blended may not have."""

INACTIVE: Mapping[str, tuple[Any, ...]] = {"n": (1,), "best_of": (1,), "prompt_logprobs": ()}
"""Values at which they do nothing, beside None; of the others what is false."""


class Base(Protocol):
    """Of the base, what its prompt is made with."""

    tokenizer: PreTrainedTokenizerBase
    vocabulary: Vocabulary


@dataclass(frozen=True)
class Asked:
    """A request, read.

    Attributes:
        body: what vLLM is to read, but for our part of `vllm_xargs`.
        policy: what decides; None where vLLM answers alone.
        ours: that part.
    """

    body: Mapping[str, Any]
    policy: Policy | None = None
    ours: Mapping[str, Any] | None = None

    @property
    def prompt(self) -> dict[str, Any]:
        """Of our part, what the guide's prompt is made from."""
        names = (*PROMPTS, "chat_template_kwargs")
        return {name: value for name, value in (self.ours or {}).items() if name in names}

    def with_guide_prompt(self, ids: list[int]) -> Asked:
        """The same with the guide's prompt in tokens."""
        others = {k: v for k, v in (self.ours or {}).items() if k not in self.prompt}
        return replace(self, ours=others | {"guide_prompt_ids": ids})

    def sent(self, id: str) -> dict[str, Any]:
        """The body as vLLM gets it.

        Args:
            id: by which the report is asked for.
        """
        if self.ours is None:
            return dict(self.body)
        ours = json.dumps({**self.ours, "id": id})  # values there are texts, numbers or lists
        return {**self.body, "vllm_xargs": {**(self.body.get("vllm_xargs") or {}), NAME: ours}}


def read_request(path: str, body: Mapping[str, Any], default: Policy, base: Base) -> Asked:
    """Reads a request to `CHAT` or `COMPLETIONS`.

    Args:
        path: one of these.
        body: its JSON.
        default: the engine's policy.
        base: the model that vLLM runs.

    Raises:
        ValueError: naming what to change.
    """
    body = dict(body)
    ours = _ours(body, is_chat=path == CHAT)
    xargs = body.get("vllm_xargs") or {}
    if not isinstance(xargs, Mapping):
        raise ValueError(f"vllm_xargs is {told(xargs)}: give a mapping")
    if NAME in xargs:
        raise ValueError(f"vllm_xargs has {NAME}, which is put there from the body's {NAME}")
    if path == CHAT:
        messages, settings = _as_transcript(body, base)
        if ours is None and settings:
            raise ValueError(
                "chat_template_kwargs is for the guide's chat template, and no guide is asked: "
                "leave it out"
            )
        if ours is not None:
            ours = _with_messages(ours, messages, settings)
    if ours is None:
        return Asked(body)
    _refuse_unblended(body)
    if ours.get("messages") is not None:
        ours["messages"] = _messages(ours["messages"])
    arguments = RequestArguments.of({NAME: ours})
    assert arguments is not None
    return Asked(body, arguments.policy or default, ours)


def _ours(body: dict[str, Any], is_chat: bool) -> dict[str, Any] | None:
    """Takes our part out of a body, and a policy out of its model's name; None: vLLM alone."""
    given = body.pop(NAME, None)
    served, _, policy = str(body.get("model") or "").rpartition(":")
    named = policy if served and policy in POLICY_NAMES else None
    if given is None or given is True:
        given = {} if is_chat or named or given else None
    elif given is False and named is None:
        given = None
    elif not isinstance(given, Mapping):
        raise ValueError(f"{NAME} is {told(given)}: give a mapping, such as {EXAMPLE}")
    if given is None:
        return None
    if own := sorted({"id", "key"} & set(given)):
        raise ValueError(f"{NAME} has {own[0]}, which the server sets itself: leave it out")
    if named is None:
        return dict(given)
    if given.get("policy", named) != named:
        raise ValueError(
            f"the model's name asks for the policy {named} and {NAME} for {told(given['policy'])}: "
            "name one"
        )
    body["model"] = served
    return {**given, "policy": named}


def _as_transcript(
    body: dict[str, Any], base: Base
) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
    """Prepares a chat's body so that the base reads what the local engine's base reads.

    Returns:
        The conversation, and settings for the guide's chat template.
    """
    for name, reason in NOT_IN_A_TRANSCRIPT.items():
        if body.get(name) not in (None, [], {}, ""):
            raise ValueError(f"{name}: {reason}")
    messages = _messages(body.get("messages"))
    begun = messages[-1]["role"] == "assistant"
    opens, continues = (
        body.pop(name, None) for name in ("add_generation_prompt", "continue_final_message")
    )
    if opens is not None and bool(opens) == begun:
        raise ValueError(
            f"add_generation_prompt is {told(opens)}: the answer goes on with the last message "
            "where that is the assistant's, and is opened where it is not: leave it out"
        )
    if continues and not begun:
        raise ValueError(
            "continue_final_message: the last message is not the assistant's: leave it out"
        )
    body["messages"] = [{name: each[name] for name in ("role", "content")} for each in messages]
    body["add_special_tokens"] = _adds_special_tokens(base_text(messages), base)
    if body.get("stop") is None:
        body["stop"] = [BASE_STOP]
    settings = body.pop("chat_template_kwargs", None) or {}
    return messages, settings


def _messages(given: Any) -> list[dict[str, Any]]:
    """A conversation, checked.

    Raises:
        ValueError: as `as_messages`; or it is none.
    """
    if not isinstance(given, list):
        raise ValueError(f"messages is {told(given)}: give a list of messages")
    messages = as_messages(given, None)
    for message in messages:
        encodable(f"the content of the {message['role']}'s message", message["content"])
    return messages


def _adds_special_tokens(text: str, base: Base) -> bool:
    """The setting with which vLLM reads a transcript as the local engine does.

    Raises:
        ValueError: there is none.
    """
    ids = list(text_prompt(text, base.tokenizer, base.vocabulary).ids)
    for adds in (True, False):
        if base.tokenizer.encode(text, add_special_tokens=adds) == ids:
            return adds
    controls = EncodedText(text, base.tokenizer, base.vocabulary).controls
    if controls:
        spelled = text[controls[0].start : controls[0].end]
        raise ValueError(
            f"the messages spell {spelled!r}, which vLLM would read as a control token of the "
            f"base: write it otherwise, or ask {COMPLETIONS} with the prompt's token ids"
        )
    raise ValueError(
        f"the base's tokenizer adds tokens to a text's end, which vLLM would keep: ask "
        f"{COMPLETIONS} with the prompt's token ids"
    )


def _with_messages(
    ours: dict[str, Any], messages: list[dict[str, Any]], settings: Any
) -> dict[str, Any]:
    """Our part of a chat with what the guide reads."""
    if settings and ours.get("chat_template_kwargs"):
        raise ValueError(f"chat_template_kwargs stands in {NAME} and beside it: give one of them")
    if settings:
        ours["chat_template_kwargs"] = settings
    whole = [name for name in PROMPTS[1:] if ours.get(name) is not None]
    if whole and ours.get("chat_template_kwargs"):
        raise ValueError(
            f"chat_template_kwargs goes into the guide's chat template, which a whole {whole[0]} "
            "does without: give one of them"
        )
    if not any(ours.get(name) is not None for name in PROMPTS):
        ours["messages"] = messages
    return ours


def _refuse_unblended(body: Mapping[str, Any]) -> None:
    """Refuses what would not be what it says.

    Raises:
        ValueError: naming it.
    """
    alone = f'leave it out, or ask for the base alone with "{NAME}": false'
    for name, reason in NOT_IN_A_BLEND.items():
        value = body.get(name)
        is_inactive = value in INACTIVE[name] if name in INACTIVE else not value
        if value is not None and not is_inactive:
            raise ValueError(f"{name} is {told(value)}: {reason}; {alone}")
    asks_logprobs = body.get("logprobs") not in (None, False)
    if body.get("echo") and (asks_logprobs or body.get("max_tokens") == 0):
        raise ValueError(f"echo: the prompt's log-probabilities would be the base's own; {alone}")
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) > 1 and not isinstance(prompt[0], int):
        raise ValueError(
            f"prompt has {len(prompt)} texts and the guide reads one: send a request for each"
        )
