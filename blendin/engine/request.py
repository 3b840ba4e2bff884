"""What a caller asks for: one sequence's prompts and settings, checked before any work starts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from typing import Any, Unpack

from ..models.context import Context
from ..models.protocol import Model
from ..policy import Policy, as_policy, described
from ..prompts import BASE_STOP, Prompt, as_messages
from ..sampling import Sampling, fresh_seed
from ..settings import DEFAULTS, GenerationSettings, Speculate, checked
from ..speculation.speculator import Speculator, max_draft_tokens
from ..spelling import did_you_mean
from ..values import shown
from .columns import Column, one_or_each, one_prompt, one_text, prompts_or_column, texts_or_column
from .pair import Pair
from .sequence import Limits, SequenceState

logger = logging.getLogger("blendin")

SAMPLING_SETTINGS = tuple(field.name for field in fields(Sampling))
SETTINGS = tuple(GenerationSettings.__annotations__)
DEFAULTS_OF_ONE = {name: DEFAULTS[name] for name in SETTINGS}

MOST_EXPECTED = 2**20
"""Tokens that room is reserved for where neither the caller nor the model sets a bound below."""


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
        trace_top: how many candidates of each step the trace keeps.
        index: its place in the caller's list; it draws with `seed + index`.
        chat_template_kwargs: settings for the guide's chat template.
        error: what is wrong with this row of a list; the others go on.
    """

    prompt: Prompt | None
    base_prompt: str | None
    guide_prompt: str | None
    system: str | None
    policy: Policy
    limits: Limits
    sampling: Sampling
    speculate: Speculate = "auto"
    trace_top: int = 0
    index: int = 0
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    error: Exception | None = None

    @classmethod
    def of(
        cls,
        prompt: Prompt | None,
        base_prompt: str | None,
        guide_prompt: str | None,
        *,
        default_policy: Policy,
        index: int = 0,
        draw_seed: Callable[[], int] = fresh_seed,
        **settings: Unpack[GenerationSettings],
    ) -> Request:
        """From what `BlendInGenerator.generate` takes for one prompt.

        Args:
            prompt: a text or chat messages.
            base_prompt: the base's whole prompt.
            guide_prompt: the guide's whole prompt.
            default_policy: where no setting names one.
            index: its place in the caller's list.
            draw_seed: gives the seed of a sequence that is sampled without one.
            **settings: as their type has them.

        Raises:
            TypeError: for a setting that there is not.
            ValueError: for one of the wrong type or out of range, and for a prompt that is none.
        """
        refuse_unknown(settings)
        given = checked(DEFAULTS_OF_ONE | dict(settings))
        policy = as_policy(default_policy) if given["policy"] is None else given["policy"]
        prompt = one_prompt("prompt", prompt)
        base_prompt = None if base_prompt is None else one_text("base_prompt", base_prompt)
        guide_prompt = None if guide_prompt is None else one_text("guide_prompt", guide_prompt)
        stop = given["stop"]
        if stop is None:  # the base goes on to ask itself questions, in its default template
            stop = (BASE_STOP,) if policy.reads_base and base_prompt is None else ()
        sampling = Sampling(**{name: given[name] for name in SAMPLING_SETTINGS})
        if sampling.do_sample and sampling.seed is None:
            sampling = replace(sampling, seed=draw_seed())
        return cls(
            prompt,
            base_prompt,
            guide_prompt,
            given["system"],
            policy,
            Limits(given["max_new_tokens"], stop),
            sampling,
            given["speculate"],
            given["trace_top"],
            index,
            chat_template_kwargs=given["chat_template_kwargs"] or {},
        )

    def read(self, pair: Pair) -> SequenceState:
        """The sequence, its prompts rendered and tokenized.

        Raises:
            ValueError: for an empty prompt or one longer than a model's context.
        """
        if self.error is not None:
            raise self.error
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
        self._check_trace_top(pair)
        pair.check_temperatures(self.policy)
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
            trace_top=self.trace_top,
            speculator=None if self.speculate == "off" else Speculator(self.speculate),
        )

    def _settings(self, pair: Pair) -> dict[str, Any]:
        """For the result: models, policy and settings, as they are; of a bad row the models."""
        models = {"base": pair.base.name, "guide": pair.guide.name}
        if self.error is not None:
            return models
        further: dict[str, Any] = {"trace_top": self.trace_top} if self.trace_top else {}
        if self.chat_template_kwargs:
            further["chat_template_kwargs"] = dict(self.chat_template_kwargs)
        return {
            **models,
            "policy": described(self.policy),
            **asdict(self.limits),
            **asdict(self.sampling),
            "speculate": self.speculate,
            **further,
        }

    def _check_trace_top(self, pair: Pair) -> None:
        asked = {"base": self.policy.reads_base, "guide": self.policy.reads_guide}
        for role in (role for role, is_read in asked.items() if is_read and self.trace_top):
            model = pair.model(role)
            if model.top is not None and model.top < min(self.trace_top, len(model.vocabulary)):
                raise ValueError(
                    f"{shown('trace_top')} is {self.trace_top} and {model.name} is asked for "
                    f"{model.top} tokens of each position: ask for no more, or pass top_logprobs= "
                    f"in {role}_kwargs"
                )

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
        longest = MOST_EXPECTED if model.max_length is None else model.max_length
        expected = min(len(ids) + self.limits.max_new_tokens, longest) + 8
        if not (model.can_draft or model.writes_ahead) and self.speculate not in ("auto", "off"):
            raise ValueError(
                f"speculate={self.speculate!r}: the engine of {model.name} drafts as its "
                "own settings say: leave it out"
            )
        ahead = None if model.can_draft else max_draft_tokens(self.speculate)
        # Where the base is unsure the guide mostly decides for another token, so that a server need
        # not write on. Half-sure, its token stands in two of five cases, and a new request would
        # cost more.
        unlikely = 0.5 * self.policy.uncertain_below if role == "base" else 0.0
        return Context(ids, expected=expected, max_draft_tokens=ahead, min_top_prob=unlikely)


def is_batch(prompt: Any, base_prompt: Any, guide_prompt: Any) -> bool:
    """Whether a caller gives a list of prompts; chat messages are one prompt.

    Args:
        prompt: as `prompts_or_column` gives it, or no iterator: that would be used up.
        base_prompt: likewise.
        guide_prompt: likewise.
    """
    return any(
        isinstance(each, Column) for each in columns(prompt, base_prompt, guide_prompt).values()
    )


def columns(prompt: Any, base_prompt: Any, guide_prompt: Any) -> dict[str, Any]:
    """What a caller gives as prompts, by name: each None, one prompt, or a `Column`.

    Raises:
        ValueError: for a whole table, or messages in the place of a text.
    """
    return {
        "prompt": prompts_or_column("prompt", prompt),
        "base_prompt": texts_or_column("base_prompt", base_prompt),
        "guide_prompt": texts_or_column("guide_prompt", guide_prompt),
    }


def requests(
    prompt: Any,
    base_prompt: Any,
    guide_prompt: Any,
    *,
    default_policy: Policy,
    count: int | None = None,
    **settings: Any,
) -> list[Request]:
    """One request a row of a batch.

    A setting is one for all rows or a list with one for each; of `stop`, a list of texts is for all
    rows, and a list of such lists one for each. What is wrong with one row alone is that request's
    `error`.

    Args:
        prompt: a list of prompts, or None.
        base_prompt: a list of texts, or None.
        guide_prompt: likewise.
        default_policy: where no setting names one.
        count: of rows, where one prompt is for all of them.
        **settings: as `GenerationSettings` and `BatchSettings` name them.

    Raises:
        TypeError: for a setting that there is not.
        ValueError: for lists of different lengths, a setting that is wrong for all rows, or one
            that is wrong in each.
    """
    prompts = columns(prompt, base_prompt, guide_prompt)
    if count is None:
        given = [cells for cells in prompts.values() if cells is not None]
        lengths = {len(cells) if isinstance(cells, Column) else None for cells in given}
        if len(lengths) != 1 or None in lengths:
            raise ValueError(
                "prompt, base_prompt and guide_prompt must be lists of one length where one is a "
                "list"
            )
        count = len(given[0])
    refuse_unknown(settings)
    split = {name: one_or_each(name, value, count) for name, value in settings.items()}
    errors = _errors(split, count)
    table = {
        name: cells if isinstance(cells, Column) else [cells] * count
        for name, cells in (prompts | split).items()
    }
    draw_seed = cache(fresh_seed)  # one for the list: the i-th prompt draws with seed + i
    rows = []
    for index in range(count):
        row = {name: cells[index] for name, cells in table.items()}
        try:
            if index in errors:
                raise errors[index]
            made = Request.of(
                **row, default_policy=default_policy, index=index, draw_seed=draw_seed
            )
        except ValueError as error:
            made = Request(
                None, None, None, None, as_policy(default_policy), Limits(), Sampling(), "off",
                index=index, error=error,
            )  # fmt: skip
        rows.append(made)
    return rows


def _errors(settings: Mapping[str, Any], count: int) -> dict[int, ValueError]:
    """What is wrong with the settings of single rows.

    Args:
        settings: each a value for all rows, or a `Column`.
        count: of rows.

    Raises:
        ValueError: a value for all rows is wrong, or something is wrong in each; the first row's.
    """
    each = {name: value for name, value in settings.items() if isinstance(value, Column)}
    for_all = {name: value for name, value in settings.items() if name not in each}
    checked(for_all, together=not each)
    errors = dict[int, ValueError]()
    for index in range(count if each else 0):
        row = {name: cells[index] for name, cells in each.items()}
        try:
            if "policy" in row:  # None is the default for all, and no policy for one
                as_policy(row["policy"])
            checked(for_all | row)
        except ValueError as error:
            errors[index] = error
    if errors and len(errors) == count:
        raise errors[0]
    return errors


def say_what_has_no_effect(rows: Sequence[Request]) -> None:
    """Warns of settings beside temperature=0 that change nothing there, once for a list."""
    names = dict.fromkeys(name for row in rows for name in row.sampling.without_effect)
    if names:
        logger.warning(
            "%s is greedy: %s cannot change the most probable token",
            shown("temperature", 0),
            " and ".join(map(shown, names)),
        )


def refuse_unknown(settings: Mapping[str, Any]) -> None:
    """Checks the names of settings.

    Raises:
        TypeError: for one that there is not.
    """
    if unknown := sorted(settings.keys() - set(SETTINGS)):
        raise TypeError(
            f"{', '.join(unknown)}: no such setting; there are {', '.join(SETTINGS)}"
            f"{did_you_mean(unknown[0], SETTINGS)}"
        )
