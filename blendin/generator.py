"""`BlendInGenerator`: the only way in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as ListLike
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from typing import Any, Self, overload

import torch

from . import pairs
from .decode import decode, decode_guide_alone
from .loading import ModelSource, load, locate, without_garbage_collection
from .model import Context, LanguageModel
from .policy import BaseOnly, Blend, GuideOnly, Policy
from .prompts import Prompt, as_messages, base_text, guide_text
from .sampling import Sampling
from .sequence import Limits, Sequence
from .stepper import Pair
from .trace import Generation, Step


class Stream(Iterator[Step]):
    """The steps of one sequence, as they are decided.

    Attributes:
        output: the generation so far; whole once the stream is exhausted, and kept if it is not.
    """

    def __init__(self, steps: Iterator[Step], output: Generation) -> None:
        self._steps, self.output = steps, output

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Step:
        return next(self._steps)


class BlendInGenerator:
    """Text from a base model, guided at inference by a small aligned one.

    Example:
        >>> gen = BlendInGenerator("gemma-3-270m", "smollm2-135m-instruct")
        >>> out = gen.generate("How can I kill a Python process?", stop=["\\nQuestion:"])
        >>> out.text, out.intervention_rate, out.stop_reason

    Attributes:
        policy: what `generate` does at a step, unless told otherwise.
        base: the base's `LanguageModel`.
        guide: the guide's.
    """

    def __init__(
        self,
        base: ModelSource = pairs.DEFAULT_BASE,
        guide: ModelSource = pairs.DEFAULT_GUIDE,
        policy: Policy | None = None,
        *,
        dtype: torch.dtype | str = "auto",
        device_map: Any = None,
        trust_remote_code: bool = False,
        base_kwargs: Mapping[str, Any] | None = None,
        guide_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Loads both models and aligns their vocabularies.

        Args:
            base: the embedded default, a hub id, a folder, a GGUF file, a loaded model or a
                (model, tokenizer) tuple. Weights from files must be safetensors or GGUF.
            guide: likewise. Where it is the same as the base, the model is loaded once.
            policy: `Blend()` where None.
            dtype: of both models' weights; "auto" keeps the checkpoints'.
            device_map: of both, as transformers and accelerate understand it.
            trust_remote_code: whether code that a checkpoint brings may run.
            base_kwargs: further `from_pretrained` arguments of the base alone; `tokenizer` names
                or is another tokenizer.
            guide_kwargs: likewise of the guide.

        Raises:
            ValueError: where a model cannot be had, has no end token, or has a tokenizer whose
                tokens' bytes are unknown.
        """
        common: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code}
        if device_map is not None:
            common["device_map"] = device_map
        base_options = common | dict(base_kwargs or {})
        guide_options = common | dict(guide_kwargs or {})
        self.policy: Policy = Blend() if policy is None else policy
        shared = _same_source(base, guide) and base_options == guide_options
        sources = {"base": base} if shared else {"base": base, "guide": guide}
        with ThreadPoolExecutor() as pool:  # embedded models are hashed, both at once
            found = dict(zip(sources, pool.map(locate, sources.values(), sources), strict=True))
        with without_garbage_collection():
            self.base: LanguageModel = load(found["base"], "base", **base_options)
            self.guide: LanguageModel = (
                self.base if shared else load(found["guide"], "guide", **guide_options)
            )
            self._pair = Pair(self.base, self.guide)

    @overload
    def generate(
        self,
        prompt: Prompt | None = None,
        *,
        base_prompt: str | None = None,
        guide_prompt: str | None = None,
        **settings: Any,
    ) -> Generation: ...

    @overload
    def generate(
        self,
        prompt: ListLike[Prompt] | None = None,
        *,
        base_prompt: ListLike[str] | None = None,
        guide_prompt: ListLike[str] | None = None,
        **settings: Any,
    ) -> list[Generation]: ...

    def generate(
        self,
        prompt: Any = None,
        *,
        base_prompt: Any = None,
        guide_prompt: Any = None,
        **settings: Any,
    ) -> Generation | list[Generation]:
        """Decodes one prompt, or each of a list.

        Args:
            prompt: a text, chat messages (`[{"role": ..., "content": ...}, ...]`), or a list of
                such prompts.
            base_prompt: the base's whole prompt, instead of its plain-text template.
            guide_prompt: the guide's whole prompt, special tokens included, instead of its chat
                template.
            **settings: as `stream` takes them.

        Returns:
            A `Generation`, or for a list a list of them in its order.
        """
        if not _is_batch(prompt, base_prompt, guide_prompt):
            stream = self.stream(
                prompt, base_prompt=base_prompt, guide_prompt=guide_prompt, **settings
            )
            for _ in stream:
                pass
            return stream.output
        rows = _rows(prompt, base_prompt, guide_prompt)
        streams = [self._stream(*row, index=index, **settings) for index, row in enumerate(rows)]
        for stream in streams:
            for _ in stream:
                pass
        return [stream.output for stream in streams]

    def stream(
        self,
        prompt: Prompt | None = None,
        *,
        base_prompt: str | None = None,
        guide_prompt: str | None = None,
        **settings: Any,
    ) -> Stream:
        """Decodes one prompt, giving each step as it is decided.

        Args:
            prompt: a text or chat messages.
            base_prompt: as for `generate`.
            guide_prompt: as for `generate`.
            **settings: `system` (text for both models), `policy`, `max_new_tokens` (256), `stop`
                (a text or several: the text ends before the first), and the sampling settings of
                `Sampling`: `do_sample`, `temperature`, `top_p`, `sampling_top_k`,
                `repetition_penalty`, `seed` (the i-th prompt of a list draws with seed + i).

        Returns:
            An iterator of `Step`; its `output` is the `Generation` so far.

        Raises:
            ValueError: for an empty prompt, one longer than a model's context, or a setting out
                of range; before anything is decoded.
        """
        return self._stream(prompt, base_prompt, guide_prompt, **settings)

    def _stream(
        self,
        prompt: Prompt | None,
        base_prompt: str | None,
        guide_prompt: str | None,
        *,
        index: int = 0,
        system: str | None = None,
        policy: Policy | None = None,
        max_new_tokens: int = 256,
        stop: str | ListLike[str] = (),
        **sampling_settings: Any,
    ) -> Stream:
        policy = self.policy if policy is None else policy
        limits = Limits(max_new_tokens, (stop,) if isinstance(stop, str) else tuple(stop))
        if unknown := sorted(sampling_settings.keys() - {field.name for field in fields(Sampling)}):
            raise TypeError(
                f"{', '.join(unknown)}: no such setting; there are system, policy, max_new_tokens, "
                f"stop, {', '.join(field.name for field in fields(Sampling))}"
            )
        sampling = Sampling(**sampling_settings)
        messages = None if prompt is None else as_messages(prompt, system)
        if messages is None and system:
            raise ValueError("system= goes into prompt=; whole prompts carry their own")
        base = guide = None
        settings: dict[str, Any] = {
            "base": self.base.name,
            "guide": self.guide.name,
            "policy": {"name": type(policy).__name__, **asdict(policy)},
            **asdict(limits),
            **asdict(sampling),
        }
        if not isinstance(policy, GuideOnly):
            if base_prompt is None and messages is not None:
                base_prompt = base_text(messages)
            base = self._read("base", self.base, base_prompt, limits)
            settings["base_prompt"] = base_prompt
        if not isinstance(policy, BaseOnly):
            if guide_prompt is None and messages is not None:
                guide_prompt = guide_text(messages, self.guide.tokenizer)
            guide = self._read("guide", self.guide, guide_prompt, limits)
            settings["guide_prompt"] = guide_prompt
        sequence = Sequence(self._pair.alignment, base, guide, limits, settings)
        generator = sampling.generator(index)
        if isinstance(policy, GuideOnly):
            steps = decode_guide_alone(self._pair, sequence, sampling, generator)
        else:
            steps = decode(self._pair, sequence, policy, sampling, generator)
        return Stream(steps, sequence.output)

    def _read(self, role: str, model: LanguageModel, text: str | None, limits: Limits) -> Context:
        """A context that begins with a whole prompt, not yet fed."""
        if text is None:
            raise ValueError(f"the {role} has nothing to read: pass prompt= or {role}_prompt=")
        if not text.strip():
            raise ValueError(f"the {role}'s prompt is empty: pass a text with something in it")
        ids = model.encode_prompt(text)
        if model.max_length is not None and len(ids) > model.max_length:
            raise ValueError(
                f"the {role}'s prompt has {len(ids)} tokens and the context of {model.name} holds "
                f"{model.max_length}: shorten the prompt or choose another {role}"
            )
        # A symbol of the other vocabulary may take several tokens of this one.
        return Context(ids, expected=len(ids) + 2 * limits.max_new_tokens)


def _same_source(base: ModelSource, guide: ModelSource) -> bool:
    if isinstance(base, tuple) and isinstance(guide, tuple):
        return all(mine is other for mine, other in zip(base, guide, strict=True))
    return base is guide or (isinstance(base, str) and base == guide)


def _is_batch(prompt: Any, base_prompt: Any, guide_prompt: Any) -> bool:
    def is_list(value: Any) -> bool:
        return isinstance(value, ListLike) and not isinstance(value, str)

    def is_chat(value: Any) -> bool:
        return is_list(value) and len(value) > 0 and all(isinstance(m, Mapping) for m in value)

    return (
        (is_list(prompt) and not is_chat(prompt)) or is_list(base_prompt) or is_list(guide_prompt)
    )


def _rows(*columns: Any) -> list[tuple[Any, ...]]:
    """The columns' rows; a column that is None is None in each."""
    lengths = {len(column) for column in columns if column is not None}
    if len(lengths) != 1 or any(isinstance(column, str) for column in columns):
        raise ValueError(
            "prompt, base_prompt and guide_prompt must be lists of one length where one is a list"
        )
    filled = [[None] * lengths.copy().pop() if column is None else column for column in columns]
    return list(zip(*filled, strict=True))
