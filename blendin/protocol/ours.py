"""What a request asks of the pair: `blendin` in its body, and a policy in its model's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Self

from ..calibration import refuse_paths
from ..policy import (
    POLICIES,
    InterventionCap,
    Policy,
    all_parameters,
    named_policy,
    parameters,
)
from ..prompts import as_messages, checked_template_kwargs
from ..spelling import did_you_mean
from ..values import Integer, Text, encodable, told
from .errors import refused
from .names import split_name

NAME = "blendin"
EXAMPLE = '{"policy": "nudge", "threshold": 0.3, "trace": 5}'
GUIDE_READS = ("messages", "guide_prompt", "guide_prompt_ids")
"""What the guide may be given to read instead, one of them."""

OWN = (*GUIDE_READS, "chat_template_kwargs", "policy", "trace")
"""The fields of `blendin` beside the policies' settings."""

MOST_CANDIDATES = 100
"""Of a step, that are told."""


@dataclass(frozen=True)
class PolicyChoice:
    """A policy as a request names it.

    Attributes:
        name: one of `POLICY_NAMES`; None: the server's own, with some settings changed.
        settings: those that are given.
    """

    name: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def over(self, default: Policy) -> Policy:
        """The policy, where `default` is the server's.

        Raises:
            ValueError: for an unknown name, a value out of range or a setting that it lacks.
        """
        if self.name is not None:
            return named_policy(self.name, **self.settings)
        return changed(default, self.settings) if self.settings else default

    def some_policy(self) -> Policy:
        """A policy that has all of the settings, where the server's is not known.

        Raises:
            ValueError: none has.
        """
        given = {name for name, value in self.settings.items() if value is not None}
        fitting = (name for name in POLICIES if given <= parameters(name).keys())
        if (name := next(fitting, None)) is None:
            raise ValueError(f"no policy has all of {', '.join(sorted(given))}: name one")
        return named_policy(name)

    @classmethod
    def of(cls, own: Mapping[str, Any], name: Any) -> Self:
        """From a name and those settings in a mapping that say something.

        Raises:
            ValueError: the name is no text, or the calibration a path.
        """
        # null is what was left out, but an α that adapts where the server's is fixed.
        settings = {
            each: own[each]
            for each in all_parameters()
            if each in own and (own[each] is not None or each == "alpha")
        }
        refuse_paths(settings)
        return cls(None if name is None else Text()("policy", name), settings)


@dataclass(frozen=True)
class Ours:
    """What a request asks of the pair, read.

    Attributes:
        choice: the policy, as it was named.
        policy: that it comes to.
        reads: what the guide reads instead: one of `GUIDE_READS`, or nothing.
        chat_template_kwargs: settings for the guide's chat template.
        trace: whether every step is told, or with how many candidates.
        is_declined: the request says `"blendin": false`.
    """

    choice: PolicyChoice
    policy: Policy
    reads: Mapping[str, Any]
    chat_template_kwargs: Mapping[str, Any]
    trace: bool | int = False
    is_declined: bool = False

    @property
    def tells_steps(self) -> bool:
        """Whether the trace is part of the answer: 0 candidates are a trace, too."""
        return self.trace is not False

    @property
    def candidates(self) -> int:
        """How many candidates each step of the trace has."""
        return 0 if isinstance(self.trace, bool) else self.trace

    def guide_reads(self, messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What the guide reads: one of `GUIDE_READS`, and `chat_template_kwargs` where given.

        Args:
            messages: the conversation, where the request says nothing else.
        """
        if not self.policy.reads_guide:
            return {}
        reads = dict(self.reads) or {"messages": list(messages)}
        if self.chat_template_kwargs:
            reads["chat_template_kwargs"] = dict(self.chat_template_kwargs)
        return reads


def read_ours(body: Mapping[str, Any], default: Policy) -> Ours:
    """Reads what stands in `blendin`, the model's name and `chat_template_kwargs`.

    Args:
        body: of the request.
        default: the server's policy, of requests that name none.

    Raises:
        ApiError: naming what to change.
        ValueError: likewise, of a value.
    """
    given = body.get(NAME)
    _, named = split_name(Text()("model", body.get("model") or "") or "")
    own = {"policy": "base"} if given is False else {} if given in (None, True) else given
    if not isinstance(own, Mapping):
        raise refused(f"{NAME} is {told(own)}: give a mapping, such as {EXAMPLE}", NAME)
    choice = _choice(own, named)
    beside = checked_template_kwargs(body.get("chat_template_kwargs") or None)
    within = checked_template_kwargs(own.get("chat_template_kwargs") or None)
    if beside and within:
        raise refused(
            f"chat_template_kwargs stands in {NAME} and beside it: give one of them",
            "chat_template_kwargs",
        )
    reads = _reads(own)
    if (beside or within) and (whole := [name for name in reads if name != "messages"]):
        raise refused(
            f"chat_template_kwargs goes into the guide's chat template, which a whole {whole[0]} "
            "does without: give one of them",
            "chat_template_kwargs",
        )
    return Ours(
        choice, choice.over(default), reads, beside or within, read_trace(own.get("trace")),
        is_declined=given is False,
    )  # fmt: skip


def read_trace(given: Any) -> bool | int:
    """Whether every step is told, or with how many candidates.

    Raises:
        ValueError: it is neither.
    """
    if given is None or isinstance(given, bool):
        return bool(given)
    return Integer(0, MOST_CANDIDATES)("trace", given) or 0


def _choice(own: Mapping[str, Any], named: str | None) -> PolicyChoice:
    known = (*OWN, *all_parameters())
    if unknown := sorted(map(str, own.keys() - set(known))):
        raise refused(
            f"{NAME} has no {unknown[0]!r}: use {', '.join(known)}"
            f"{did_you_mean(unknown[0], known)}",
            NAME,
        )
    name = own.get("policy")
    if name is None:
        name = named
    elif named is not None and name != named:
        raise refused(
            f"the model's name asks for the policy {named} and {NAME} for {told(name)}: name one",
            NAME,
        )
    return PolicyChoice.of(own, name)


def _reads(own: Mapping[str, Any]) -> dict[str, Any]:
    """What the guide reads, where `blendin` says so."""
    given = [name for name in GUIDE_READS if own.get(name) is not None]
    if len(given) > 1:
        raise refused(f"{NAME} has {' and '.join(given)}: give one of them", NAME)
    if "messages" in given:
        return {"messages": checked_messages(own["messages"])}
    if "guide_prompt" in given:
        text = Text()("guide_prompt", own["guide_prompt"]) or ""
        if not text.strip():
            raise refused("guide_prompt is empty: give a text with something in it", NAME)
        return {"guide_prompt": text}
    if "guide_prompt_ids" in given:
        return {"guide_prompt_ids": token_ids("guide_prompt_ids", own["guide_prompt_ids"])}
    return {}


def checked_messages(given: Any) -> list[dict[str, Any]]:
    """A conversation, as it is rendered.

    Raises:
        ApiError: it is no list.
        ValueError: as `as_messages`; or a content cannot be encoded.
    """
    if not isinstance(given, list | tuple):
        raise refused(f"messages is {told(given)}: give a list of messages", "messages")
    messages = as_messages(given, None)
    for message in messages:
        encodable(f"the content of the {message['role']}'s message", message["content"])
    return messages


def token_ids(name: str, ids: Any, count: int | None = None) -> list[int]:
    """Tokens that a request gives.

    Args:
        name: of the field.
        ids: its value.
        count: how many there are in the vocabulary, where it is known.

    Raises:
        ApiError: it is no list.
        ValueError: for what is no token.
    """
    if not isinstance(ids, list | tuple) or not ids:
        raise refused(f"{name} is {told(ids)}: give a list of token ids", name)
    kind = Integer(0, None if count is None else count - 1)
    return [kind(name, id) for id in ids]  # type: ignore[misc]


def changed(policy: Policy, settings: Mapping[str, Any]) -> Policy:
    """A policy with some of its settings changed; of a cap, those of the capped one, too.

    Raises:
        ApiError: it has no such setting.
        ValueError: a value is out of range.
    """
    own = {each.name for each in fields(policy)} if is_dataclass(policy) else set[str]()
    given = {name: value for name, value in settings.items() if name in own}
    others = {name: value for name, value in settings.items() if name not in own}
    if given.get("top_k") == 0:
        given["top_k"] = None
    if others and isinstance(policy, InterventionCap):
        given["policy"] = changed(policy.policy, others)
    elif others:
        raise refused(
            f"the server's policy, {type(policy).__name__}, has no setting "
            f"{', '.join(sorted(others))}: name a policy beside it",
            NAME,
        )
    return replace(policy, **given)  # type: ignore[type-var]
