"""`BlendInGenerator`: the only way in."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Unpack, overload

import torch

from .engine.columns import Column, one_text, texts_or_column
from .engine.driver import Driver
from .engine.pair import Pair
from .engine.request import (
    Request,
    columns,
    is_batch,
    refuse_unknown,
    requests,
    say_what_has_no_effect,
)
from .engine.scoring import Score, score
from .engine.stream import Batch, Interrupted, Stream
from .forks import settle
from .models import default_pair, layer_compilation
from .models.hosted import HostedModel
from .models.loader import (
    ModelSource,
    check,
    load,
    locate,
    runs_here,
    same_source,
    without_garbage_collection,
)
from .models.protocol import Model
from .policy import Blend, Policy, as_policy
from .prompts import Message, Prompt
from .settings import (
    BatchSettings,
    GenerationSettings,
    SchedulingSettings,
    ScoreSettings,
    checked,
    refuse_ignored,
    shows_settings,
)
from .trace import Generation
from .values import Flag, SettingTypeError, shown

_OF_LISTS = sorted(SchedulingSettings.__annotations__.keys() - GenerationSettings.__annotations__)
"""What concerns lists of prompts alone."""

OVERLAP = Flag(none="where the models share no device")

logger = logging.getLogger("blendin")


class BlendInGenerator:
    """Text from a base model, guided at inference by a small aligned one.

    Several threads may use one generator: each call gets what it would get alone. Forwards of one
    model follow each other; a stream belongs to one thread at a time.

    A child of `os.fork` may use one too, whatever the parent's threads were in the midst of: served
    models open connections of their own there, and local ones compute with one thread, which is
    logged, for OpenMP's others are in the parent alone. A result that another thread was making is
    refused there. Models on CUDA devices work in no child: start it by spawn.

    Examples:
        >>> gen = BlendInGenerator("gemma-3-270m", "smollm2-135m-instruct")
        >>> out = gen.generate("How can I kill a Python process?")
        >>> out.text, out.intervention_rate, out.stop_reason

    Attributes:
        policy: what `generate` does at a step, unless told otherwise.
        base: the base's `LanguageModel`, or `RemoteModel` where a server runs it.
        guide: the guide's.
        pair: both, their vocabularies aligned.
    """

    def __init__(
        self,
        base: ModelSource = default_pair.DEFAULT_BASE,
        guide: ModelSource = default_pair.DEFAULT_GUIDE,
        policy: Policy | str | None = None,
        *,
        dtype: torch.dtype | str = "auto",
        device_map: Any = None,
        trust_remote_code: bool = False,
        base_kwargs: Mapping[str, Any] | None = None,
        guide_kwargs: Mapping[str, Any] | None = None,
        overlap: bool | None = None,
        compile_layers: bool = False,
    ) -> None:
        """Loads both models and aligns their vocabularies.

        Args:
            base: the embedded default, a hub id, a folder, a GGUF file, a loaded model (with PEFT
                or torch.compile around it, too), a (model, tokenizer) pair, a transformers
                pipeline, or the URL of an OpenAI-compatible completions server
                (`http://host:8000/v1#model`, replicas with commas between). Weights from files
                must be safetensors or GGUF. `vllm:MODEL` is run by vLLM in this process; the base
                alone.
            guide: likewise. Where it is the same as the base, the model is loaded once.
            policy: a policy or its name; `Blend()` where None.
            dtype: of both models' weights; "auto" keeps the checkpoints'. Like the other options
                for loading, it is refused where a model is loaded already.
            device_map: of both, as transformers and accelerate understand it.
            trust_remote_code: whether code that a checkpoint brings may run.
            base_kwargs: further `from_pretrained` arguments of the base alone; `tokenizer` names
                or is another tokenizer. Of a server: `tokenizer`, `top_logprobs`, `timeout`,
                `patience`, `max_connections`, `headers`, `verify`
                (`blendin.models.remote.loading.load`). Of vLLM: its engine arguments.
            guide_kwargs: likewise of the guide.
            overlap: whether in lists of prompts the base makes its next step while the guide, in a
                thread of its own, still reads those that intervene. None: where both run here and
                share no device. True elsewhere: on one GPU, in a stream of its own. Texts are the
                same, but for near-ties in 16 bits, which fall with the rows that are read at once,
                as these do with measured times: False repeats itself exactly.
            compile_layers: whether the decoder layers of forwards that are captured as CUDA graphs
                are compiled (torch.compile), so that a step has less than half as many kernels.
                A minute's work for a model, at its first captures. Texts are the same, but for
                near-ties in 16 bits. Of a loaded `LanguageModel` it stays.

        Raises:
            TypeError: for a base or guide that is no model and names none.
            ValueError: where a model cannot be had, has no end token, or has a tokenizer whose
                tokens' bytes are unknown; for an option that would have no effect.
            ConnectionError: where a server does not answer or refuses.
        """
        settle()
        overlap = OVERLAP("overlap", overlap)
        compile_layers = bool(Flag()("compile_layers", compile_layers))
        common: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code}
        if device_map is not None:
            common["device_map"] = device_map
        base_options = common | dict(base_kwargs or {})
        guide_options = common | dict(guide_kwargs or {})
        self.policy = Blend() if policy is None else as_policy(policy)
        check(base, "base", **base_options)
        check(guide, "guide", **guide_options)
        shared = same_source(base, guide) and base_options == guide_options
        sources = {"base": base} if shared else {"base": base, "guide": guide}
        with ThreadPoolExecutor() as pool:  # embedded models are hashed, both at once
            found = dict(zip(sources, pool.map(locate, sources.values(), sources), strict=True))
        if overlap and (elsewhere := [role for role in found if not runs_here(found[role])]):
            raise ValueError(
                f"overlap is for models that run here, and the {elsewhere[0]} does not: leave it "
                "out, nobody waits for servers"
            )
        if compile_layers:
            maps = (each.get("device_map") for each in (base_options, guide_options))
            layer_compilation.check_captures(zip(found.values(), maps, strict=False))
        with without_garbage_collection():
            self.base: Model = load(found["base"], "base", **base_options)
            self.guide: Model = (
                self.base if shared else load(found["guide"], "guide", **guide_options)
            )
            self.pair = Pair(self.base, self.guide, overlap=overlap)
        if compile_layers:
            layer_compilation.compile_layers((self.base, self.guide))
        self.pair.check_temperatures(self.policy)
        if isinstance(self.base, HostedModel):
            self.pair.driver = Driver(self.pair)
        if self.policy.reads_guide and not self.pair.prompts.chat_template.exists:
            logger.warning(
                "the guide %s has no chat template to read a prompt in: choose an "
                "instruction-tuned guide, set its tokenizer.chat_template, or pass guide_prompt=",
                self.guide.name,
            )

    @overload
    def generate(
        self,
        prompt: Prompt | Message | None = None,
        *,
        base_prompt: str | None = None,
        guide_prompt: str | None = None,
        **settings: Unpack[GenerationSettings],
    ) -> Generation: ...

    @overload
    def generate(
        self,
        prompt: Iterable[Prompt | Message] | None = None,
        *,
        base_prompt: Iterable[str] | None = None,
        guide_prompt: Iterable[str] | None = None,
        **settings: Unpack[SchedulingSettings],
    ) -> list[Generation]: ...

    @shows_settings(SchedulingSettings)
    def generate(
        self,
        prompt: Any = None,
        *,
        base_prompt: Any = None,
        guide_prompt: Any = None,
        **settings: Any,
    ) -> Generation | list[Generation]:
        """Decodes one prompt, or a list of them together.

        Args:
            prompt: a text, chat messages (`[{"role": ..., "content": ...}, ...]`, or one of them),
                or a list of such prompts; whatever yields texts is a list (a generator, an array, a
                column of a table). A last message of the assistant is the beginning of the answer,
                which both models continue. Whatever is written in texts and contents is text:
                control tokens that are spelled in it are read as their characters.
            base_prompt: the base's whole prompt, instead of its plain-text template; special tokens
                that are spelled in it are read as such.
            guide_prompt: the guide's whole prompt, special tokens included, instead of its chat
                template; likewise.
            **settings: as `stream` takes them, for a list as `stream_batch` does. With one prompt
                `max_batch_size`, `max_cached_tokens` and `progress` are checked and have no effect.

        Returns:
            A `Generation`, or for a list a list of them in its order. A prompt of a list that fails
            (empty, too long, no text, or with a bad setting of its own) does so alone: see its
            `Generation.error`.

        Raises:
            ValueError: for a setting of the wrong type or out of range, and for one prompt that is
                empty or too long; before anything is decoded.
            Interrupted: at Ctrl-C; a `KeyboardInterrupt` that has the results so far.
            ServerError: a server that does not answer for as long as patience lasts, or refuses.
            RuntimeError: and whatever else a forward may raise for one prompt; every error has the
                result so far as its `output`, of a list the results as its `outputs`.
        """
        prompts = columns(prompt, base_prompt, guide_prompt)
        if not is_batch(**prompts):
            checked({name: settings.pop(name) for name in _OF_LISTS if name in settings})
            stream = self.stream(**prompts, **settings)
            try:
                for _ in stream:
                    pass
            except KeyboardInterrupt:
                raise Interrupted([stream.output]) from None
            return stream.output
        batch = self.stream_batch(**prompts, **settings)
        outputs = [Generation() for _ in range(len(batch))]
        try:
            for place, output in batch:
                outputs[place] = output
        except BaseException as error:
            for place, output in batch.unfinished.items():
                outputs[place] = output
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted(outputs) from None
            error.outputs = outputs  # type: ignore[attr-defined]
            raise
        return outputs

    @overload
    def score(
        self,
        prompt: Prompt | Message | None = None,
        text: str = "",
        *,
        base_prompt: str | None = None,
        guide_prompt: str | None = None,
        **settings: Unpack[ScoreSettings],
    ) -> Score: ...

    @overload
    def score(
        self,
        prompt: Iterable[Prompt | Message] | None = None,
        text: Iterable[str] | None = None,
        *,
        base_prompt: Iterable[str] | None = None,
        guide_prompt: Iterable[str] | None = None,
        **settings: Unpack[ScoreSettings],
    ) -> list[Score]: ...

    @shows_settings(ScoreSettings)
    def score(
        self,
        prompt: Any = None,
        text: Any = None,
        *,
        base_prompt: Any = None,
        guide_prompt: Any = None,
        **settings: Unpack[ScoreSettings],
    ) -> Score | list[Score]:
        """How likely a given text is after a prompt, under the policy; or each of several.

        Where the base is sure its own distribution counts, elsewhere the blend over the whole
        vocabulary; `Nudge` counts as α = 1.

        Args:
            prompt: as for `generate`; one for all texts, or a list with one for each.
            text: what follows the prompt; one for all prompts, or a list of texts.
            base_prompt: as for `generate`.
            guide_prompt: as for `generate`.
            **settings: `system`, `policy` and `chat_template_kwargs`; one for all, or a list. The
                settings of decoding have no part in it and are refused.

        Returns:
            A `Score`; or a list of them in the order of the texts or prompts, where either is a
            list.

        Raises:
            ValueError: for an empty text or prompt, or one that does not fit into a context.
            TypeError: for any other setting.
        """
        refuse_unknown(settings)
        refuse_ignored("score", settings, ScoreSettings)
        prompts, texts = columns(prompt, base_prompt, guide_prompt), texts_or_column("text", text)
        if texts is None:
            raise ValueError(f"there is nothing to score: pass {shown('text')}=")
        if not is_batch(**prompts) and not isinstance(texts, Column):
            alone: Any = settings
            one = Request.of(**prompts, default_policy=self.policy, **alone)
            return next(score(self.pair, [(one.read(self.pair), one_text("text", texts))]))
        count = len(texts) if isinstance(texts, Column) else None
        whole = {"count": count} if not is_batch(**prompts) else {}
        asked = requests(**prompts, default_policy=self.policy, **whole, **settings)
        if not isinstance(texts, Column):
            texts = [texts] * len(asked)
        if len(texts) != len(asked):
            raise ValueError(f"there are {len(texts)} texts for {len(asked)} prompts: give as many")
        checked_texts = [one_text(f"text {place}", own) for place, own in enumerate(texts)]
        pairs_of = [
            (each.read(self.pair), own) for each, own in zip(asked, checked_texts, strict=True)
        ]
        return list(score(self.pair, pairs_of))

    @shows_settings(BatchSettings)
    def stream_batch(
        self,
        prompt: Iterable[Prompt | Message] | None = None,
        *,
        base_prompt: Iterable[str] | None = None,
        guide_prompt: Iterable[str] | None = None,
        max_batch_size: int = 32,
        max_cached_tokens: int | None = None,
        progress: bool | None = None,
        **settings: Unpack[BatchSettings],
    ) -> Batch:
        """Decodes a list of prompts together and gives each result as it is finished.

        Args:
            prompt: texts or chat messages.
            base_prompt: the base's whole prompts.
            guide_prompt: the guide's whole prompts.
            max_batch_size: sequences in flight at most.
            max_cached_tokens: tokens in each model's cache at most; None: unbounded.
            progress: whether to show a bar on stderr; None: where that is a terminal.
            **settings: as `stream` takes them, each one for all prompts or a list with one for each
                (of `stop`, a list of lists). What is wrong with one prompt or one of its own
                settings is that row's `Generation.error`.

        Returns:
            An iterator of (place in the list, `Generation`), in the order in which they end.
            Closing it ends the work and frees the caches.

        Raises:
            ValueError: for lists of different lengths or a setting that is wrong for all rows, at
                once.
        """
        prompts = columns(prompt, base_prompt, guide_prompt)
        if not is_batch(**prompts):
            raise ValueError("stream_batch takes lists of prompts; use stream or generate for one")
        scheduling = checked(
            {
                "max_batch_size": max_batch_size,
                "max_cached_tokens": max_cached_tokens,
                "progress": progress,
            }
        )
        asked = requests(**prompts, default_policy=self.policy, **settings)
        say_what_has_no_effect(asked)
        return Batch(self.pair, asked, **scheduling)

    @shows_settings(GenerationSettings)
    def stream(
        self,
        prompt: Prompt | Message | None = None,
        *,
        base_prompt: str | None = None,
        guide_prompt: str | None = None,
        **settings: Unpack[GenerationSettings],
    ) -> Stream:
        """Decodes one prompt, giving each step as it is decided.

        Args:
            prompt: a text or chat messages.
            base_prompt: as for `generate`.
            guide_prompt: as for `generate`.
            **settings: `system` (text for both models), `policy` (one, or its name),
                `chat_template_kwargs` (what the guide's chat template can be told, such as
                `{"enable_thinking": False}`; the texts in it are part of the template, but for
                `tools` and `documents`, which are contents), `max_new_tokens` (256), `stop` (a text
                or several: the text ends before the first; None is "\\nQuestion:" where the base
                reads its default template, and otherwise none; `()` is none), and the sampling
                settings of `Sampling`: `do_sample`, `temperature` (0 is greedy), `top_p`, `min_p`,
                `sampling_top_k`, `repetition_penalty`, `repetition_penalty_range`, `penalize_nl`,
                `seed` (the i-th prompt of a list draws with
                seed + i; without one it comes from torch's global generator, and
                `Generation.settings` records it).
                `trace_top` (0) keeps the likeliest candidates of each step, so many of base, guide
                and what was emitted from (`Step.candidates`), which changes no output.
                `speculate` reads draft tokens ahead, which changes no output:
                "auto" where it pays, "off", "lookup" (in the text so far), "guide" (its greedy
                continuation), or a number of tokens. Of a server windows of tokens are asked for,
                "off" one at a time. In bfloat16 near-ties may fall either way
                with the number of tokens read at once, which "auto" chooses by measured times:
                "off" repeats itself exactly.

        Returns:
            An iterator of `Step`, for `for` and for `async for`; its `output` is the `Generation`
            so far.

        Raises:
            ValueError: for an empty prompt, one longer than a model's context, or a setting of the
                wrong type or out of range; before anything is decoded.
        """
        prompts = columns(prompt, base_prompt, guide_prompt)
        if is_batch(**prompts):
            raise SettingTypeError("stream takes one prompt; use stream_batch or generate for more")
        asked = Request.of(**prompts, default_policy=self.policy, **settings)
        say_what_has_no_effect([asked])
        return Stream(self.pair, asked.read(self.pair))
