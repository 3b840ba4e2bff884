"""A task under several policies on the same items, each result kept as soon as it is finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ...engine.scoring import Score
from ...generator import BlendInGenerator
from ...models.identity import digest
from ...policy import GuideOnly, Policy, described
from ...prompts import BASE_STOP, as_messages
from ...settings import KINDS
from ...visible import visible
from ..records import Record
from ..tasks.task import Item, Task
from .folder import RunFolder
from .manifest import MODELS

QUESTIONS_AT_ONCE = 4
"""Questions whose given texts are scored together; a killed run loses no more than these."""


def config(
    gen: BlendInGenerator,
    task: Task,
    *,
    max_new_tokens: int | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    **further: Any,
) -> dict[str, Any]:
    """What a run's results depend on, besides its arms: the manifest's `config`.

    Args:
        gen: the models.
        task: the task.
        max_new_tokens: of an answer; None: the task's. Where given texts are scored it is 0.
        chat_template_kwargs: settings for the guide's chat template.
        **further: where the items came from, and anything else to record.

    Raises:
        ValueError: `max_new_tokens` is no integer from 1 up.
    """
    planned = plan(
        task, max_new_tokens=max_new_tokens, chat_template_kwargs=chat_template_kwargs, **further
    )
    return planned | of_models(gen)


def plan(
    task: Task,
    *,
    max_new_tokens: int | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    **further: Any,
) -> dict[str, Any]:
    """What of `config` is known before models are loaded, for `check`; arguments likewise."""
    length = task.max_new_tokens
    if max_new_tokens is not None:
        given = KINDS["max_new_tokens"]("max_new_tokens", max_new_tokens)
        length = given if task.writes else 0
    return {
        "task": task.name,
        "scorer": task.scorer,
        "items": len(task.items),
        "system": task.system,
        "max_new_tokens": length,
        "stop": [BASE_STOP] if task.writes else [],
        "do_sample": False,
        MODELS: None,
        **({"chat_template_kwargs": dict(chat_template_kwargs)} if chat_template_kwargs else {}),
        **further,
    }


def of_models(gen: BlendInGenerator) -> dict[str, Any]:
    """The rest of `config`: the models' names, and what tells them from others of these names."""
    return {
        "base": gen.base.name,
        "guide": gen.guide.name,
        "dtype": [gen.base.precision, gen.guide.precision],
        MODELS: gen.pair.identity,
    }


def check(
    task: Task, arms: Mapping[str, Policy], folder: str | Path, planned: Mapping[str, Any]
) -> None:
    """Whether a run can go on in a folder or begin there, as far as is known without its models.

    Args:
        task: as for `run`.
        arms: likewise.
        folder: the run's.
        planned: as `plan` gives it.

    Raises:
        ValueError: the folder has results of another run.
    """
    results = RunFolder(folder, planned)
    for name, policy in arms.items():
        results.add_arm(name, described(policy))
    results.take_items(task.items)


def run(
    gen: BlendInGenerator,
    task: Task,
    arms: Mapping[str, Policy],
    results: RunFolder,
    *,
    max_batch_size: int = 32,
    progress: bool | None = None,
) -> None:
    """Runs the items of this process's shard that are not finished yet, arm after arm.

    An item that fails (too long for a model, for example) is recorded with its error and has no
    score. Ctrl-C keeps everything that is finished.

    Args:
        gen: the models.
        task: the items and their scorer.
        arms: policies by the names under which results are kept.
        results: where records are kept; its configuration limits the length of answers, and has
            what the guide's chat template is told.
        max_batch_size: the most answers in flight.
        progress: whether to show a bar on stderr; None: where that is a terminal.

    Raises:
        ValueError: the folder holds results of other items or of an arm under other settings, or
            another process is writing there.
        OSError: the folder cannot be written; what is finished is kept.
    """
    for name, policy in arms.items():
        results.add_arm(name, described(policy))
    results.take_items(task.items)
    mine = results.shard.of_items(task.items)
    with results.claimed():
        settings = results.manifest["config"]
        read = _prompts(gen, task.system, settings.get("chat_template_kwargs"))
        results.begin(max_batch_size=max_batch_size, items=len(task.items), prompts=read)
        for name, policy in arms.items():
            done = results.records(name)
            left = [item for item in mine if item.id not in done]
            if left:
                seconds = _Seconds()
                made = (
                    _answers(gen, task, policy, left, seconds, max_batch_size, settings)
                    if task.writes
                    else _likelihoods(gen, task, policy, left, seconds, settings)
                )
                hidden = None if progress is None else not progress
                before = len(mine) - len(left)
                with tqdm(total=len(mine), initial=before, unit="item", disable=hidden) as bar:
                    bar.set_description(visible(f"{task.name} {name}", one_line=True))
                    _keep(made, results, name, seconds, bar)


def _prompts(
    gen: BlendInGenerator, system: str | None, settings: Mapping[str, Any] | None
) -> str | None:
    """A digest of a prompt that the guide reads, in which a template may write the date."""
    prompts = gen.pair.prompts
    if not prompts.chat_template.exists:
        return None
    try:
        return digest(str(prompts.guide(as_messages("How?", system), settings)))
    except ValueError:  # items say so of their own prompts
        return None


def _keep(
    made: Iterator[Record], results: RunFolder, arm: str, seconds: _Seconds, bar: Any
) -> None:
    """Writes an arm's records as they are made."""
    tokens = interventions = 0
    with results.writer(arm) as write:
        for record in made:
            write(record)
            tokens, interventions = tokens + record.tokens, interventions + record.interventions
            bar.set_postfix_str(
                f"{tokens / seconds.total:.1f} tok/s, "
                f"intervention rate {interventions / max(1, tokens):.2f}",
                refresh=False,
            )
            bar.update()


class _Seconds:
    """A stopwatch: each call returns the time since the last."""

    def __init__(self) -> None:
        self.total, self._last = 0.0, time.perf_counter()

    def __call__(self) -> float:
        now = time.perf_counter()
        elapsed, self._last = now - self._last, now
        self.total += elapsed
        return elapsed


def _answers(
    gen: BlendInGenerator,
    task: Task,
    policy: Policy,
    items: Sequence[Item],
    seconds: _Seconds,
    max_batch_size: int,
    settings: Mapping[str, Any],
) -> Iterator[Record]:
    """Generates answers."""
    batch = gen.stream_batch(
        [item.prompt for item in items],
        system=task.system,
        policy=policy,
        max_new_tokens=settings["max_new_tokens"],
        stop=settings["stop"],
        chat_template_kwargs=settings.get("chat_template_kwargs"),
        max_batch_size=max_batch_size,
        progress=False,
    )
    for place, output in batch:
        item = items[place]
        metrics = {} if output.error else task.score_answer(item, output.text, output.stop_reason)
        yield Record.of(item.id, output, metrics, elapsed=seconds())


def _likelihoods(
    gen: BlendInGenerator,
    task: Task,
    policy: Policy,
    items: Sequence[Item],
    seconds: _Seconds,
    settings: Mapping[str, Any],
) -> Iterator[Record]:
    """Scores given texts.

    A text follows "Answer:", or what else the prompt ends with, with a space between; the guide
    alone reads it without, for its chat template has opened the answer's own line.
    """
    space = "" if isinstance(policy, GuideOnly) else " "

    def score(some: Sequence[Item]) -> list[Score]:
        prompts = [item.prompt for item in some for _ in item.texts]
        return gen.score(
            prompts,
            [space + text for item in some for text in item.texts],
            base_prompt=[gen.pair.prompts.base_text(prompt) for prompt in prompts]
            if task.continues
            else None,
            system=task.system,
            policy=policy,
            chat_template_kwargs=settings.get("chat_template_kwargs"),
        )

    for begin in range(0, len(items), QUESTIONS_AT_ONCE):
        some = items[begin : begin + QUESTIONS_AT_ONCE]
        try:
            scores, errors = score(some), dict[str, str]()
        except ValueError:  # one is too long: the others are scored without it
            scores, errors = _each_alone(some, score)
        elapsed, given = seconds() / len(some), iter(scores)
        for item in some:
            if item.id in errors:
                yield Record(item.id, {}, 0, 0, elapsed, elapsed, error=errors[item.id])
                continue
            own = [next(given) for _ in item.texts]
            likelihoods = [each.log_likelihood for each in own]
            yield Record(
                item.id,
                task.score(item, likelihoods),
                tokens=sum(len(each.token_ids) for each in own),
                interventions=sum(each.interventions for each in own),
                seconds=elapsed,
                elapsed=elapsed,
                log_likelihoods=likelihoods,
            )


def _each_alone(
    items: Sequence[Item], score: Callable[[Sequence[Item]], list[Score]]
) -> tuple[list[Score], dict[str, str]]:
    """The scores of those items that can be scored, and what is wrong with the others."""
    scores: list[Score] = []
    errors: dict[str, str] = {}
    for item in items:
        try:
            scores += score([item])
        except ValueError as error:
            errors[item.id] = str(error)
    return scores, errors
