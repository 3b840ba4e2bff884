"""`BlendInGenerator`: the only way in."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Unpack, overload

import torch

from .engine.pair import Pair
from .engine.request import Request, is_batch, requests
from .engine.scoring import Score, score
from .engine.stream import Batch, Interrupted, Stream
from .models import default_pair
from .models.loader import (
    ModelSource,
    check,
    load,
    locate,
    same_source,
    without_garbage_collection,
)
from .models.protocol import Model
from .policy import Blend, Policy, as_policy
from .prompts import Prompt
from .settings import (
    BatchSettings,
    GenerationSettings,
    SchedulingSettings,
    ScoreSettings,
    shows_settings,
)
from .trace import Generation

logger = logging.getLogger("blendin")


class BlendInGenerator:
    """Text from a base model, guided at inference by a small aligned one.

    Example:
        >>> gen = BlendInGenerator("gemma-3-270m", "smollm2-135m-instruct")
        >>> out = gen.generate("How can I kill a Python process?", stop=["\\nQuestion:"])
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
    ) -> None:
        """Loads both models and aligns their vocabularies.

        Args:
            base: the embedded default, a hub id, a folder, a GGUF file, a loaded model (with PEFT
                or torch.compile around it, too), a (model, tokenizer) pair, a transformers
                pipeline, or the URL of an OpenAI-compatible completions server
                (`http://host:8000/v1#model`, replicas with commas between). Weights from files
                must be safetensors or GGUF.
            guide: likewise. Where it is the same as the base, the model is loaded once.
            policy: a policy or its name; `Blend()` where None.
            dtype: of both models' weights; "auto" keeps the checkpoints'. Like the other options
                for loading, it is refused where a model is loaded already.
            device_map: of both, as transformers and accelerate understand it.
            trust_remote_code: whether code that a checkpoint brings may run.
            base_kwargs: further `from_pretrained` arguments of the base alone; `tokenizer` names
                or is another tokenizer. Of a server: `tokenizer`, `top_logprobs`, `timeout`,
                `patience`, `max_connections` (`blendin.remote.loading.load`).
            guide_kwargs: likewise of the guide.

        Raises:
            TypeError: for a base or guide that is no model and names none.
            ValueError: where a model cannot be had, has no end token, or has a tokenizer whose
                tokens' bytes are unknown; for an option that would have no effect.
            ConnectionError: where a server does not answer or refuses.
        """
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
        with without_garbage_collection():
            self.base: Model = load(found["base"], "base", **base_options)
            self.guide: Model = (
                self.base if shared else load(found["guide"], "guide", **guide_options)
            )
            self.pair = Pair(self.base, self.guide)
        if self.policy.reads_guide and not self.pair.prompts.chat_template.exists:
            logger.warning(
                "the guide %s has no chat template to read a prompt in: choose an "
                "instruction-tuned guide, set its tokenizer.chat_template, or pass guide_prompt=",
                self.guide.name,
            )

    @overload
    def generate(
        self,
        prompt: Prompt | None = None,
        *,
        base_prompt: str | None = None,
        guide_prompt: str | None = None,
        **settings: Unpack[GenerationSettings],
    ) -> Generation: ...

    @overload
    def generate(
        self,
        prompt: Sequence[Prompt] | None = None,
        *,
        base_prompt: Sequence[str] | None = None,
        guide_prompt: Sequence[str] | None = None,
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
            prompt: a text, chat messages (`[{"role": ..., "content": ...}, ...]`), or a list of
                such prompts. A last message of the assistant is the beginning of the answer, which
                both models continue. Whatever is written in texts and contents is text: control
                tokens that are spelled in it are read as their characters.
            base_prompt: the base's whole prompt, instead of its plain-text template; special tokens
                that are spelled in it are read as such.
            guide_prompt: the guide's whole prompt, special tokens included, instead of its chat
                template; likewise.
            **settings: as `stream` takes them, for a list as `stream_batch` does.

        Returns:
            A `Generation`, or for a list a list of them in its order. A prompt of a list that fails
            (empty, or too long) does so alone: see its `Generation.error`.

        Raises:
            Interrupted: at Ctrl-C during a list; a `KeyboardInterrupt` that has the results so far.
            ServerError: a server that does not answer for as long as patience lasts, or refuses; a
                `ConnectionError` that has the result so far as its `output`.
        """
        if not is_batch(prompt, base_prompt, guide_prompt):
            stream = self.stream(
                prompt, base_prompt=base_prompt, guide_prompt=guide_prompt, **settings
            )
            for _ in stream:
                pass
            return stream.output
        batch = self.stream_batch(
            prompt, base_prompt=base_prompt, guide_prompt=guide_prompt, **settings
        )
        outputs = [Generation() for _ in range(len(batch))]
        try:
            for place, output in batch:
                outputs[place] = output
        except KeyboardInterrupt:
            for place, output in batch.unfinished.items():
                outputs[place] = output
            raise Interrupted(outputs) from None
        return outputs

    @overload
    def score(
        self,
        prompt: Prompt | None = None,
        text: str = "",
        *,
        base_prompt: str | None = None,
        guide_prompt: str | None = None,
        **settings: Unpack[ScoreSettings],
    ) -> Score: ...

    @overload
    def score(
        self,
        prompt: Sequence[Prompt] | None = None,
        text: Sequence[str] | None = None,
        *,
        base_prompt: Sequence[str] | None = None,
        guide_prompt: Sequence[str] | None = None,
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
        """How likely a given text is after a prompt, under the policy; or each of a list.

        Where the base is sure its own distribution counts, elsewhere the blend over the whole
        vocabulary; `Nudge` counts as α = 1.

        Args:
            prompt: as for `generate`.
            text: what follows the prompt; a list of texts for a list of prompts.
            base_prompt: as for `generate`.
            guide_prompt: as for `generate`.
            **settings: `system`, `policy` and `chat_template_kwargs`; one for all, or a list.

        Returns:
            A `Score`, or for a list a list of them in its order.

        Raises:
            ValueError: for an empty text or prompt, or one that does not fit into a context.
        """
        if isinstance(text, str):
            alone: Any = settings
            one = Request.of(prompt, base_prompt, guide_prompt, default_policy=self.policy, **alone)
            return next(score(self.pair, [(one.read(self.pair), text)]))
        asked = requests(prompt, base_prompt, guide_prompt, default_policy=self.policy, **settings)
        texts = list(text or ())
        if len(texts) != len(asked):
            raise ValueError(f"there are {len(texts)} texts for {len(asked)} prompts: give as many")
        pairs_of = [(each.read(self.pair), own) for each, own in zip(asked, texts, strict=True)]
        return list(score(self.pair, pairs_of))

    @shows_settings(BatchSettings)
    def stream_batch(
        self,
        prompt: Sequence[Prompt] | None = None,
        *,
        base_prompt: Sequence[str] | None = None,
        guide_prompt: Sequence[str] | None = None,
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
                (of `stop`, a list of lists).

        Returns:
            An iterator of (place in the list, `Generation`), in the order in which they end.
            Closing it ends the work and frees the caches.

        Raises:
            ValueError: for lists of different lengths or a setting out of range, at once.
        """
        if not is_batch(prompt, base_prompt, guide_prompt):
            raise ValueError("stream_batch takes lists of prompts; use stream or generate for one")
        asked = requests(prompt, base_prompt, guide_prompt, default_policy=self.policy, **settings)
        return Batch(
            self.pair,
            asked,
            max_batch_size=max_batch_size,
            max_cached_tokens=max_cached_tokens,
            progress=progress,
        )

    @shows_settings(GenerationSettings)
    def stream(
        self,
        prompt: Prompt | None = None,
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
            **settings: `system` (text for both models), `policy`, `chat_template_kwargs` (what the
                guide's chat template can be told, such as `{"enable_thinking": False}`; the texts
                in it are part of the template, but for `tools` and `documents`, which are
                contents), `max_new_tokens` (256), `stop`
                (a text or several: the text ends before the first), and the sampling settings of
                `Sampling`: `do_sample`, `temperature`, `top_p`, `sampling_top_k`,
                `repetition_penalty`, `seed` (the i-th prompt of a list draws with seed + i).
                `speculate` reads draft tokens ahead, which changes no output:
                "auto" where it pays, "off", "lookup" (in the text so far), "guide" (its greedy
                continuation), or a number of tokens. Of a server windows of tokens are asked for,
                "off" one at a time. In bfloat16 near-ties may fall either way
                with the number of tokens read at once, which "auto" chooses by measured times:
                "off" repeats itself exactly.

        Returns:
            An iterator of `Step`; its `output` is the `Generation` so far.

        Raises:
            ValueError: for an empty prompt, one longer than a model's context, or a setting out
                of range; before anything is decoded.
        """
        asked = Request.of(
            prompt, base_prompt, guide_prompt, default_policy=self.policy, **settings
        )
        return Stream(self.pair, asked.read(self.pair))
