"""What the body of a request to vLLM's OpenAI server asks of us, and what of it vLLM is to read."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from ..policy import BaseOnly, GuideOnly, Policy
from ..prompts import BASE_STOP, base_text
from ..prompts.encoding import EncodedText, text_prompt
from ..protocol.errors import refused, refusing
from ..protocol.fields import CHAT, COMPLETIONS, ECHOED, changes_nothing
from ..protocol.names import split_name
from ..protocol.ours import GUIDE_READS, NAME, read_ours
from ..protocol.prompts import as_turn, read_messages, read_prompts, text_of
from ..protocol.sampling import RANGES, read_limit, read_sampling
from ..values import told
from ..vocab.vocabulary import Vocabulary
from .arguments import GUIDE_ALONE, EngineArguments

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
    "tool_choice": "blendin runs no tools: leave it out",
    "function_call": "blendin runs no tools: leave it out",
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
    "logit_bias": "it would change the base's probabilities and not the guide's",
    "thinking_token_budget": "it would choose tokens beside the policy",
    "watermarking": "it would choose tokens beside the policy",
    "truncate_prompt_tokens": "it would shorten the base's prompt and not the guide's",
    "prompt_embeds": "the guide cannot read what is no text",
    "kv_transfer_params": "another server would choose tokens beside the policy",
    "prompt_logprobs": "it would tell the base's own",
}
"""What a request that is to be blended may not have."""


class Base(Protocol):
    """Of the base, its name, what its prompt is made with, and how long a text may be."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    vocabulary: Vocabulary
    max_length: int | None


@dataclass(frozen=True)
class Asked:
    """A request, read.

    Attributes:
        body: what vLLM is to read, but for our part of `vllm_xargs`.
        policy: what decides.
        ours: that part; None where vLLM's base answers by itself.
    """

    body: Mapping[str, Any]
    policy: Policy
    ours: Mapping[str, Any] | None = None

    @property
    def prompt(self) -> dict[str, Any]:
        """Of our part, what the guide's prompt is made from."""
        names = (*GUIDE_READS, "chat_template_kwargs")
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


def read_request(path: str, body: Mapping[str, Any], own: EngineArguments, base: Base) -> Asked:
    """Reads a request to `CHAT` or `COMPLETIONS`.

    Args:
        path: one of these.
        body: its JSON.
        own: how the engine was started.
        base: the model that vLLM runs.

    Raises:
        ApiError: naming what to change.
    """
    body = dict(body)
    with refusing(**({"prompt": "messages"} if path == CHAT else {})):
        ours = read_ours(body, own.policy)
        if isinstance(ours.policy, GuideOnly):
            raise refused(GUIDE_ALONE, NAME)
        is_base = isinstance(ours.policy, BaseOnly) and not ours.tells_steps
        for name in (NAME, "chat_template_kwargs"):
            body.pop(name, None)
        if body.get("model"):
            body["model"] = split_name(body["model"])[0]
        _check_extensions(body)
        _set_sampling(body)
        messages = []
        if path == CHAT:
            messages = _as_transcript(body, base, own.default_max_tokens)
        unblended = _not_in_a_blend(body, base)
        if unblended is not None and not (is_base or ours.is_declined):
            raise refused(*unblended)
        makes_nothing = body.get("echo") and body.get("max_tokens") == 0
        if ours.is_declined or unblended is not None or makes_nothing:
            return Asked(body, ours.policy)
        if path == COMPLETIONS:
            tokens = base.vocabulary.tokens
            (prompt,) = read_prompts(body, tokens)
            messages = as_turn(text_of(prompt, tokens))
        if body["temperature"] and body.get("seed") is None:
            body["seed"] = secrets.randbits(31)  # JavaScript's numbers hold it: the answer tells it
        choice = ours.choice
        named = {} if choice.name is None else {"policy": choice.name}
        told_of = {"trace": ours.trace} if ours.tells_steps else {}
        reads = ours.guide_reads(messages)
        return Asked(body, ours.policy, {**named, **choice.settings, **told_of, **reads})


def _check_extensions(body: Mapping[str, Any]) -> None:
    """Refuses what would stand where our part goes."""
    xargs = body.get("vllm_xargs") or {}
    if not isinstance(xargs, Mapping):
        raise refused(f"vllm_xargs is {told(xargs)}: give a mapping", "vllm_xargs")
    if NAME in xargs:
        raise refused(
            f"vllm_xargs has {NAME}, which is put there from the body's {NAME}", "vllm_xargs"
        )


def _set_sampling(body: dict[str, Any]) -> None:
    """Says to vLLM what is greedy: its own default is a draw."""
    read_limit(body)
    read = read_sampling(body)
    body["temperature"] = read["temperature"]
    if body.get("repetition_penalty") is not None:
        body["repetition_penalty"] = read["repetition_penalty"]
    body.pop("do_sample", None)


def _as_transcript(
    body: dict[str, Any], base: Base, default_max_tokens: int
) -> list[dict[str, Any]]:
    """Prepares a chat's body so that the base reads what the local engine's base reads.

    Returns:
        The conversation.
    """
    for name, reason in NOT_IN_A_TRANSCRIPT.items():
        if not changes_nothing(name, body.pop(name, None)):
            raise refused(f"{name}: {reason}", name)
    messages = read_messages(body)
    for name in ("add_generation_prompt", "continue_final_message"):
        body.pop(name, None)
    body["messages"] = [{name: each[name] for name in ("role", "content")} for each in messages]
    ids = list(text_prompt(base_text(messages), base.tokenizer, base.vocabulary).ids)
    body["add_special_tokens"] = _adds_special_tokens(base_text(messages), ids, base)
    if body.get("stop") is None:
        body["stop"] = [BASE_STOP]
    room = (base.max_length or 0) + 1 - len(ids)
    if read_limit(body) is None and room > 0:
        body["max_tokens"] = min(default_max_tokens, room)
    return messages


def _adds_special_tokens(text: str, ids: list[int], base: Base) -> bool:
    """The setting with which vLLM reads a transcript as the local engine does.

    Args:
        text: the transcript.
        ids: its tokens.
        base: the model.

    Raises:
        ApiError: there is none.
    """
    for adds in (True, False):
        if base.tokenizer.encode(text, add_special_tokens=adds) == ids:
            return adds
    controls = EncodedText(text, base.tokenizer, base.vocabulary).controls
    if controls:
        spelled = text[controls[0].start : controls[0].end]
        raise refused(
            f"the messages spell {spelled!r}, which vLLM would read as a control token of the "
            f"base: write it otherwise, or ask {COMPLETIONS} with the prompt's token ids",
            "messages",
        )
    raise refused(
        f"the base's tokenizer adds tokens to a text's end, which vLLM would keep: ask "
        f"{COMPLETIONS} with the prompt's token ids"
    )


def _not_in_a_blend(body: Mapping[str, Any], base: Base) -> tuple[str, str] | None:
    """What in a request would not be what it says in a blend, told, and the field that it is."""
    alone = f'leave it out, or ask for the base alone with "{NAME}": false'
    for name, reason in NOT_IN_A_BLEND.items():
        if not changes_nothing(name, body.get(name)):
            return f"{name} is {told(body[name])}: {reason}; {alone}", name
    read = read_sampling(body)
    if read["repetition_penalty"] != 1:
        narrowing = () if read["repetition_penalty_range"] is None else RANGES
        if read["penalize_nl"] is not True:
            narrowing = (*narrowing, "penalize_nl")
        if given := [each for each in narrowing if body.get(each) is not None]:
            reason = "vLLM's penalty looks at all of the text"
            return f"{given[0]} is {told(body[given[0]])}: {reason}; {alone}", given[0]
    if body.get("echo") and body.get("logprobs") not in (None, False):
        return ECHOED.format(base.name), "echo"
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) > 1 and not isinstance(prompt[0], int):
        texts = f"prompt has {len(prompt)} texts and the guide reads one: send a request for each"
        return f'{texts}, or ask for the base alone with "{NAME}": false', "prompt"
    return None
