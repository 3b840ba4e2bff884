"""What stands in a request's `blendin`: the policy, and what the guide reads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..calibration import refuse_paths
from ..engine.pair import Pair
from ..policy import POLICIES, POLICY_NAMES, Policy, all_parameters, named_policy
from ..prompts import as_messages
from ..prompts.encoding import RenderedPrompt
from ..spelling import did_you_mean
from ..values import Integer, Kind, Text, spelled, told
from .errors import ApiError, refused
from .settings import ServeSettings

NAME = "blendin"
EXAMPLE = '{"policy": "nudge", "threshold": 0.3, "trace": 5}'
OWN = ("guide_prompt", "guide_prompt_ids", "messages", "chat_template_kwargs", "policy", "trace")
GUIDE_READS = OWN[:3]

SPELLINGS = {
    "max_new_tokens": "max_tokens",
    "sampling_top_k": "top_k",
    "trace_top": "top_logprobs",
    "base_prompt": "prompt",
}
"""Fields that are called otherwise than the settings that they set."""


@contextlib.contextmanager
def refusing(**spellings: str) -> Iterator[None]:
    """Refusals of values become answers, in which fields have their names."""

    def spelling(name: str, value: Any) -> str:
        name = (SPELLINGS | spellings).get(name, name)
        return name if value is None else f"{name}: {value}"

    try:
        with spelled(spelling):
            yield
    except (ValueError, TypeError) as error:
        raise refused(str(error)) from error


def chosen_policy(
    given: Mapping[str, Any], settings: ServeSettings
) -> tuple[str, Policy, Mapping[str, Any]]:
    """The model's name, the policy, and what else stands in `blendin`."""
    own_name = settings.served_model_name
    model = Text()("model", given.get("model", own_name)) or own_name
    served, _, named = model.partition(":")
    if served != own_name or (named and named not in POLICY_NAMES):
        names = ", ".join((own_name, *(f"{own_name}:{policy}" for policy in POLICIES)))
        raise ApiError(
            404,
            f"the model {told(model)} does not exist here: use one of {names}",
            param="model",
            code="model_not_found",
        )
    own = given.get(NAME, {})
    own = {} if own is True else {"policy": "base"} if own is False else own
    if not isinstance(own, Mapping):
        raise refused(f"{NAME} is {told(own)}: give a mapping, such as {EXAMPLE}", NAME)
    own = {name: value for name, value in own.items() if value is not None or name == "alpha"}
    parameters = all_parameters()
    known = (*OWN, *parameters)
    if unknown := sorted(own.keys() - set(known)):
        raise refused(
            f"{NAME} has no {unknown[0]!r}: use {', '.join(known)}"
            f"{did_you_mean(unknown[0], known)}",
            NAME,
        )
    chosen = {name: own[name] for name in parameters if name in own}
    refuse_paths(chosen)
    if named and own.get("policy", named) != named:
        raise refused(
            f"the model's name asks for the policy {named} and {NAME} for {told(own['policy'])}: "
            "name one",
            NAME,
        )
    if "policy" in own or named:
        name = Text()("policy", own.get("policy", named))
        return model, named_policy(str(name), **chosen), own
    if chosen:
        return model, _changed(settings.policy, chosen), own
    return model, settings.policy, own


def _changed(policy: Policy, chosen: Mapping[str, Any]) -> Policy:
    """The server's own policy with some settings changed."""
    fields = getattr(policy, "__dataclass_fields__", {})
    if foreign := sorted(chosen.keys() - set(fields)):
        raise refused(
            f"the server's policy, {type(policy).__name__}, has no setting {', '.join(foreign)}: "
            "name a policy beside it",
            NAME,
        )
    top_k = {"top_k": None} if chosen.get("top_k") == 0 else {}
    return replace(policy, **{**chosen, **top_k})  # type: ignore[type-var]


def guide_reads(own: Mapping[str, Any], pair: Pair) -> dict[str, Any]:
    """What the guide reads, where `blendin` says so."""
    given = [name for name in GUIDE_READS if name in own]
    if len(given) > 1:
        raise refused(f"{NAME} has {' and '.join(given)}: give one of them", NAME)
    if "guide_prompt" in own:
        return {"guide_prompt": Text()("guide_prompt", own["guide_prompt"])}
    if "guide_prompt_ids" in own:
        ids = token_ids("guide_prompt_ids", own["guide_prompt_ids"], len(pair.guide.vocabulary))
        return {"guide_prompt": RenderedPrompt(pair.guide.tokenizer.decode(ids), ids)}
    if "messages" in own:
        return {"messages": as_messages(own["messages"], None)}
    return {}


def token_ids(name: str, ids: Any, count: int) -> list[int]:
    if not isinstance(ids, list) or not ids:
        raise refused(f"{name} is {told(ids)}: give a list of token ids", name)
    kind: Kind = Integer(0, count - 1)
    return [kind(name, id) for id in ids]
