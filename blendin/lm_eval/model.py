"""BlendIn as a model of EleutherAI's lm-evaluation-harness, there under the name "blendin".

    blendin lm-eval run --model blendin --model_args base=...,guide=...,policy=blend --tasks ...

The harness does not look for models elsewhere: importing this module registers ours with it, and
`blendin lm-eval` does so before it hands its arguments over to the harness' own command line.

What each model reads:

- A context, few-shot examples included: the base reads it as it is, the guide as the
  user's turn of its chat template.
- With --apply_chat_template, the harness' messages, as `BlendInGenerator.generate` reads messages:
  the base a plain transcript ("Question: ...\\nAnswer:"), the guide its chat template. An answer
  that the task begins (`gen_prefix`) stands at the end of both. Most tasks' texts have "Question:"
  and "Answer:" in them, which the base would then read twice: leave the option out for those, the
  guide has its template anyway.
- No context (unconditional likelihoods, perplexities): its BOS token, or EOS where it has none.

The answer is one text for both models: white space at a context's end moves into the text that is
scored, as with the harness' own models, and a choice after "Answer:" gets the space that the
transcript has there. A text is tokenized by itself as a continuation (docs/contract.md, "Scoring").
What is too long is cut from the left, or read in windows (`lengths`).
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

try:
    from lm_eval.api.model import LM, CacheHook
    from lm_eval.api.registry import register_model

    # Registers the harness' own models too, which it leaves out once there is one in the registry.
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.utils import simple_parse_args_string
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error}: the harness is missing, `pip install 'blendin[lm-eval]'`", name=error.name
    ) from error

from .. import __version__
from ..generator import BlendInGenerator
from ..models.loader import ModelSource, is_named
from ..policy import Policy, all_parameters, described
from .cache import keep_apart
from .harness import (
    DEFAULT_LENGTH,
    Asked,
    Count,
    batch_settings,
    chat_context,
    check_chat_template,
    chosen_device,
    chosen_length,
    chosen_policy,
    chosen_template_settings,
    flag,
    generation_settings,
    refuse_several_processes,
    refuse_unknown,
)
from .lengths import Fitted
from .pairs import pair_arguments

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

TEXTS_AT_ONCE = 64
"""Texts between two marks of progress, after which they are in the harness' cache."""


@register_model("blendin")
class BlendInLM(LM):
    """A base model guided by a small one, as a model of the harness.

    Requests are decoded together, and no answer depends on the others. Answers from the harness'
    cache (`use_cache`) are not counted in the intervention rates; there each pair with its policy
    and settings has its own.

    Attributes:
        gen: the generator behind it.
        decoded: tokens of `generate_until` so far.
        scored: tokens of the likelihoods so far.
    """

    def __init__(
        self,
        base: ModelSource | None = None,
        guide: ModelSource | None = None,
        policy: str | Policy = "blend",
        *,
        pair: str | None = None,
        dtype: torch.dtype | str | None = None,
        device: str | None = None,
        device_map: Any = None,
        trust_remote_code: bool | str = False,
        compile_layers: bool | str | None = None,
        batch_size: Any = "auto",
        max_batch_size: Any = None,
        max_cached_tokens: Any = None,
        max_gen_toks: Any = DEFAULT_LENGTH,
        chat_template_kwargs: Mapping[str, Any] | str | None = None,
        **policy_settings: Any,
    ) -> None:
        """Loads the pair; numbers may be text, as they are on a command line.

        Args:
            base: as for `BlendInGenerator`; None is its default.
            guide: likewise, with a chat template unless the policy is "base".
            policy: one of `policy.POLICY_NAMES`, or a policy.
            pair: a pair by its name in `blendin.toml`, for base, guide and how they are loaded.
            dtype: of both models' weights; "auto" by default.
            device: of both models, unless the pair has a device_map; CUDA by default where there
                is any.
            device_map: instead of a device, as accelerate understands it.
            trust_remote_code: whether code that a checkpoint brings may run.
            compile_layers: as for `BlendInGenerator`; False by default.
            batch_size: sequences decoded together; "auto" is `max_batch_size`.
            max_batch_size: 32 by default.
            max_cached_tokens: tokens in each model's cache at most.
            max_gen_toks: tokens of an answer where the task does not say.
            chat_template_kwargs: for the guide's chat template, as a mapping or as text: a JSON
                object, or name=value.
            **policy_settings: `threshold`, `alpha`, `top_k` and the like: `policy.named_policy`'s.

        Raises:
            ValueError: for an unknown argument or a value out of range, before anything is loaded;
                for what a pair has beside another of the same (`pairs.pair_arguments`).
        """
        super().__init__()
        of_policies = all_parameters()
        known = list(inspect.signature(BlendInLM).parameters)
        unknown = {name for name in policy_settings if name not in of_policies}
        refuse_unknown("model_args", unknown, [*known[:-1], *of_policies])
        refuse_several_processes()
        chosen = chosen_policy(policy, **policy_settings)
        self._batch: dict[str, Any] = batch_settings(batch_size, max_batch_size, max_cached_tokens)
        self._max_gen_toks = chosen_length(max_gen_toks)
        compiled = None if compile_layers is None else flag("compile_layers", compile_layers)
        given = {"base": base, "guide": guide, "dtype": dtype, "device_map": device_map}
        own = pair_arguments(pair, given | {"compile_layers": compiled})
        base, guide, device_map = own["base"], own["guide"], own.get("device_map")
        asked = chosen_device(device) if device_map is None else device_map
        # A loaded model stays where it is, unless somebody asks for a device.
        unasked = device is None and device_map is None
        if unasked and asked:
            for role, source in (("base", base), ("guide", guide)):
                if is_named(source):
                    own[f"{role}_kwargs"]["device_map"] = asked
        self._template_settings = chosen_template_settings(chat_template_kwargs)
        self.gen = BlendInGenerator(
            base,
            guide,
            chosen,
            dtype=own.get("dtype", "auto"),
            device_map=None if unasked else asked,
            trust_remote_code=flag("trust_remote_code", trust_remote_code),
            base_kwargs=own["base_kwargs"],
            guide_kwargs=own["guide_kwargs"],
            compile_layers=own.get("compile_layers", False),
        )
        if chosen.reads_guide and not self.gen.pair.prompts.chat_template.exists:
            check_chat_template(self.gen.guide)
        self._device = self.gen.base.device
        self.decoded, self.scored = Count(), Count()
        self._fitted = Fitted(self.gen.pair, chosen, self._template_settings)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> BlendInLM:
        """From model_args and the harness' own batch size and device, which they overrule."""
        own = {
            name: value for name, value in (additional_config or {}).items() if value is not None
        }
        return cls(**(own | dict(arg_dict)))

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: Mapping[str, Any] | None = None
    ) -> BlendInLM:
        """The same from "base=...,guide=..."."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Takes the harness' cache (`use_cache`), whose answers are kept by model and policy.

        Raises:
            ValueError: as `cache.keep_apart`.
        """
        if cache_hook.dbdict is not None:
            keep_apart(
                cache_hook.dbdict,
                {
                    **self._described,
                    "models": self.gen.pair.identity,
                    "dtype": [self.gen.base.precision, self.gen.guide.precision],
                    "max_gen_toks": self._max_gen_toks,
                },
            )
        super().set_cache_hook(cache_hook)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers contexts, all of them together, in their order.

        Those that leave no room for the answer are cut from the left, with one warning that counts
        them.

        Raises:
            ValueError: for unknown generation settings, at once; for requests that fail, after the
                others were answered (and cached).
        """
        if not requests:
            return []
        rows = [
            generation_settings(normalize_gen_kwargs(request.args[1], self._max_gen_toks))
            for request in requests
        ]
        settings: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
        asked = [Asked.of(request.args[0]) for request in requests]
        settings |= self._fitted.prompts(asked, settings["max_new_tokens"])
        batch = self.gen.stream_batch(
            **settings, **self._batch, progress=False if disable_tqdm else None
        )
        texts, failed = [""] * len(requests), dict[int, str]()
        for place, output in batch:
            self.decoded.add(len(output.steps), output.interventions)
            if output.error is not None:
                failed[place] = output.error
                continue
            texts[place] = output.text
            self.cache_hook.add_partial("generate_until", requests[place].args, output.text)
        if failed:
            first = min(failed)
            raise ValueError(
                f"{len(failed)} of {len(requests)} requests failed, the first of them number "
                f"{first}: {failed[first]}"
            )
        self.decoded.log("generate_until")
        self._fitted.log("generate_until", len(requests))
        return texts

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Scores continuations: (log-likelihood, whether it is the greedy one) of each.

        Contexts that are too long are cut from the left, with one warning that counts them.

        Raises:
            ValueError: for an empty continuation.
        """
        asked = [Asked.of(request.args[0]).before(request.args[1]) for request in requests]
        return self._score("loglikelihood", requests, asked, disable_tqdm)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Scores whole texts, each after nothing.

        What does not fit into a context is scored in the harness' windows, of the base's tokens
        (the guide's under `GuideOnly`): each token once, the last window with all the context that
        fits. The guide reads a window's text in tokens of its own, and windows are shorter where
        its context is.
        """
        asked = [(Asked(""), request.args[0]) for request in requests]
        answers = self._score("loglikelihood_rolling", requests, asked, disable_tqdm)
        return [value for value, _ in answers]

    def _score(
        self,
        method: str,
        requests: list[Instance],
        asked: Sequence[tuple[Asked, str]],
        disable_tqdm: bool,
    ) -> list[tuple[float, bool]]:
        answers = list[tuple[float, bool]]()
        with tqdm(total=len(asked), unit="text", disable=disable_tqdm) as bar:
            for begin in range(0, len(asked), TEXTS_AT_ONCE):
                some = asked[begin : begin + TEXTS_AT_ONCE]
                windows = [self._fitted.windows(context, text) for context, text in some]
                flat = [each for of in windows for each in of]
                scores = iter(
                    self.gen.score(
                        text=[each.text for each in flat],
                        base_prompt=[each.base_prompt for each in flat],
                        guide_prompt=[each.guide_prompt for each in flat]
                        if self.gen.policy.reads_guide
                        else None,
                    )
                )
                for of in windows:
                    own = [next(scores) for _ in of]
                    for score in own:
                        self.scored.add(len(score.token_ids), score.interventions)
                    answer = (
                        math.fsum(score.log_likelihood for score in own),
                        all(score.is_greedy for score in own),
                    )
                    self.cache_hook.add_partial(
                        method,
                        requests[len(answers)].args,
                        answer if method == "loglikelihood" else answer[0],
                    )
                    answers.append(answer)
                bar.update(len(some))
        self.scored.log(method)
        self._fitted.log(method, len(requests))
        return answers

    @property
    def _described(self) -> dict[str, Any]:
        return {
            "policy": described(self.gen.policy),
            "chat_template_kwargs": self._template_settings,
            "blendin_version": __version__,
        }

    @property
    def tokenizer_name(self) -> str:
        """For the harness' cache of requests; rendered messages are the same for all tokenizers."""
        return "blendin-messages"

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The guide's, for the record.

        Raises:
            ValueError: for a template's name.
        """
        if isinstance(chat_template, str):
            raise ValueError(
                f"--apply_chat_template {chat_template}: the guide's own template is the only one; "
                "leave the name out"
            )
        return str(self.gen.guide.tokenizer.chat_template or "")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Messages as JSON in a text, so that each model can render them its own way.

        Without `add_generation_prompt` the last is the beginning of the answer.
        """
        return chat_context(chat_history)

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes among its results' `config`."""
        return {
            "base": self.gen.base.name,
            "guide": self.gen.guide.name,
            **self._described,
            "decoded_tokens": self.decoded.tokens,
            "decoded_intervention_rate": self.decoded.rate,
            "scored_tokens": self.scored.tokens,
            "scored_intervention_rate": self.scored.rate,
            **self._fitted.counts,
        }


def main(arguments: Sequence[str]) -> None:
    """The harness' own command line, which knows "blendin" by now."""
    from lm_eval.__main__ import cli_evaluate

    sys.argv = ["lm-eval", *arguments]
    cli_evaluate()
