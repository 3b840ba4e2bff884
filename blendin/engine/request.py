"""What a caller asks for: one sequence's prompts and settings, checked before any work starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Unpack

from ..models.context import Context
from ..models.protocol import Model
from ..policy import Policy, as_policy, described
from ..prompts import Prompt, as_messages, checked_template_kwargs
from ..sampling import Sampling
from ..settings import DEFAULTS, GenerationSettings, Speculate
from ..speculation.speculator import Speculator, check_speculate, max_draft_tokens
from ..spelling import did_you_mean
from .pair import Pair
from .sequence import Limits, SequenceState

SAMPLING_SETTINGS = tuple(field.name for field in fields(Sampling))
SETTINGS = tuple(GenerationSettings.__annotations__)


@dataclass(frozen=True)
class Request:
    """One sequence, asked for but not yet read.

    Attributes:
        prompt: a text or chat messages; None where both models' prompts are given whole.
        base_prompt: the base's whole prompt.
        guide_prompt: the guide's whole prompt.
        system: text for both models.
        policy: what to do at a step.
        limits: when it ends without END.
        sampling: how a symbol is taken.
        speculate: whether and how the next tokens are drafted.
        index: its place in the caller's list; it draws with `seed + index`.
        chat_template_kwargs: settings for the guide's chat template.
    """

    prompt: Prompt | None
    base_prompt: str | None
    guide_prompt: str | None
    system: str | None
    policy: Policy
    limits: Limits
    sampling: Sampling
    speculate: Speculate = "auto"
    index: int = 0
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        prompt: Prompt | None,
        base_prompt: str | None,
        guide_prompt: str | None,
        *,
        default_policy: Policy,
        index: int = 0,
        **settings: Unpack[GenerationSettings],
    ) -> Request:
        """From what `BlendInGenerator.generate` takes for one prompt.

        Raises:
            TypeError: for a setting that there is not.
            ValueError: for one out of range.
        """
        if unknown := sorted(settings.keys() - set(SETTINGS)):
            raise TypeError(
                f"{', '.join(unknown)}: no such setting; there are {', '.join(SETTINGS)}"
                f"{did_you_mean(unknown[0], SETTINGS)}"
            )
        given: dict[str, Any] = {name: DEFAULTS[name] for name in SETTINGS} | dict(settings)
        stop, policy = given["stop"], given["policy"]
        stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
        return cls(
            prompt,
            base_prompt,
            guide_prompt,
            given["system"],
            default_policy if policy is None else as_policy(policy),
            Limits(given["max_new_tokens"], stops),
            Sampling(**{name: given[name] for name in SAMPLING_SETTINGS}),
            check_speculate(given["speculate"]),
            index,
            checked_template_kwargs(given["chat_template_kwargs"]),
        )

    def read(self, pair: Pair) -> SequenceState:
        """The sequence, its prompts rendered and tokenized.

        Raises:
            ValueError: for an empty prompt or one longer than a model's context.
        """
        messages = None if self.prompt is None else as_messages(self.prompt, self.system)
        if messages is None and self.system:
            raise ValueError("system= goes into prompt=; whole prompts carry their own")
        if self.guide_prompt is not None and self.chat_template_kwargs:
            raise ValueError(
                "chat_template_kwargs= goes into the guide's chat template, which a whole "
                "guide_prompt= does without: give one of them"
            )
        base = guide = None
        settings = self._settings(pair)
        if self.policy.reads_base:
            text = self.base_prompt
            if text is None and messages is not None:
                text = pair.prompts.base(messages)
            base = self._context("base", pair.base, text)
            settings["base_prompt"] = str(text)
        if self.policy.reads_guide:
            text = self.guide_prompt
            if text is None and messages is not None:
                text = pair.prompts.guide(messages, self.chat_template_kwargs)
            guide = self._context("guide", pair.guide, text)
            settings["guide_prompt"] = str(text)
        return self._sequence(pair, base, guide, settings)

    def read_alone(self, pair: Pair) -> SequenceState:
        """`read` for one among many: what is wrong with its prompt is an error in its result."""
        try:
            return self.read(pair)
        except Exception as error:
            sequence = self._sequence(pair, None, None, self._settings(pair))
            sequence.fail(error)
            return sequence

    def _sequence(
        self, pair: Pair, base: Context | None, guide: Context | None, settings: dict[str, Any]
    ) -> SequenceState:
        return SequenceState(
            pair.alignment,
            base,
            guide,
            policy=self.policy,
            limits=self.limits,
            sampling=self.sampling,
            index=self.index,
            settings=settings,
            speculator=None if self.speculate == "off" else Speculator(self.speculate),
        )

    def _settings(self, pair: Pair) -> dict[str, Any]:
        """For the result: models, policy and settings, as they are."""
        further = {"chat_template_kwargs": dict(self.chat_template_kwargs)}
        return {
            "base": pair.base.name,
            "guide": pair.guide.name,
            "policy": described(self.policy),
            **asdict(self.limits),
            **asdict(self.sampling),
            "speculate": self.speculate,
            **(further if self.chat_template_kwargs else {}),
        }

    def _context(self, role: str, model: Model, text: str | None) -> Context:
        """A context that begins with a whole prompt, not yet fed."""
        if text is None:
            raise ValueError(f"the {role} has nothing to read: pass prompt= or {role}_prompt=")
        if not text.strip():
            raise ValueError(f"the {role}'s prompt is empty: pass a text with something in it")
        ids = model.encode_prompt(text)
        if ids and max(ids) >= len(model.vocabulary):
            raise ValueError(
                f"the {role}'s prompt has the token "
                f"{str(model.tokenizer.convert_ids_to_tokens(max(ids)))!r}, for which {model.name} "
                "has no row: leave it out"
            )
        if model.max_length is not None and len(ids) > model.max_length:
            raise ValueError(
                f"the {role}'s prompt has {len(ids)} tokens and the context of {model.name} holds "
                f"{model.max_length}: shorten the prompt or choose another {role}"
            )
        # A symbol of the other vocabulary may take several tokens of this one; where a text is full
        # of those its room is enlarged.
        expected = len(ids) + self.limits.max_new_tokens + 8
        ahead = None if model.can_draft else max_draft_tokens(self.speculate)
        # Where the base is unsure the guide mostly decides for another token, so that a server need
        # not write on. Half-sure, its token stands in two of five cases, and a new request would
        # cost more.
        unlikely = 0.5 * self.policy.uncertain_below if role == "base" else 0.0
        return Context(ids, expected=expected, max_draft_tokens=ahead, min_top_prob=unlikely)


def is_batch(prompt: Any, base_prompt: Any, guide_prompt: Any) -> bool:
    """Whether a caller gives a list of prompts; chat messages are one prompt."""
    if _is_list(prompt) and not _is_chat(prompt):
        return True
    return _is_list(base_prompt) or _is_list(guide_prompt)


def requests(
    prompt: Any,
    base_prompt: Any,
    guide_prompt: Any,
    *,
    default_policy: Policy,
    **settings: Any,
) -> list[Request]:
    """One request a row of a batch.

    A setting is one for all rows or a list with one for each; of `stop`, a list of texts is for all
    rows, and a list of such lists one for each.

    Raises:
        ValueError: for lists of different lengths, or a setting out of range.
    """
    prompts = {"prompt": prompt, "base_prompt": base_prompt, "guide_prompt": guide_prompt}
    lengths = {len(column) for column in prompts.values() if column is not None}
    whole = any(isinstance(column, str) for column in prompts.values())
    if len(lengths) != 1 or whole or _is_chat(prompt):
        raise ValueError(
            "prompt, base_prompt and guide_prompt must be lists of one length where one is a list"
        )
    count = lengths.pop()
    columns = {name: [None] * count if cells is None else cells for name, cells in prompts.items()}
    for name, value in settings.items():
        columns[name] = list(value) if _is_column(name, value) else [value] * count
        if len(columns[name]) != count:
            raise ValueError(
                f"{name} has {len(columns[name])} values for {count} prompts: give one for all, or "
                "one each"
            )
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return [
        Request.of(**row, default_policy=default_policy, index=index)
        for index, row in enumerate(rows)
    ]


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_chat(value: Any) -> bool:
    return _is_list(value) and len(value) > 0 and all(isinstance(m, Mapping) for m in value)


def _is_column(name: str, value: Any) -> bool:
    if name == "stop":
        return _is_list(value) and any(not isinstance(each, str) for each in value)
    return _is_list(value)
