"""Process reward models through transformers: a step's probability of being right.

Three styles, told apart by what the checkpoint is, or named:

- "token": token classification into wrong and right, read at the separator after each step (TRL's
  PRMTrainer, Qwen2.5-Math-1.5B-Instruct-PRM);
- "extra_0": two classes at the token `<extra_0>` after each step, within the chat template
  (Qwen2.5-Math-PRM). Its head is read from the checkpoint's safetensors, so that the code that the
  checkpoint brings does not run;
- "plus_minus": a causal model that writes + or - at the step tag ки (Math-Shepherd, arXiv
  2312.08935).

Where a step ends is known by its characters, so that a tag spelled in a step is no end of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ...models.identity import config_digest, digest, tokenizer_digest, weights_digest
from .reward_loaders import LOADERS
from .scorers import DIGITS, Scored

STYLES = tuple(LOADERS)
EXTRA = "<extra_0>"
TAG = "ки"
INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
"""The system text of Qwen2.5-Math-PRM's own example."""
BATCH = 4


class Layout(NamedTuple):
    """What a model reads, and the last character of each step's separator."""

    text: str
    ends: list[int]


class RewardModel:
    """A `StepScorer` named "PRM".

    Raises:
        ValueError: it cannot be loaded, is of no style that is known, has weights missing, or a
            tokenizer that does not tell its tokens' characters; says what to change.
    """

    names: tuple[str, ...] = ("PRM",)

    def __init__(
        self, name: str, style: str = "auto", separator: str = "\n", trust_remote_code: bool = False
    ) -> None:
        """Loads the model.

        Args:
            name: hub id or folder.
            style: one of `STYLES`, or "auto".
            separator: after each step, of style "token".
            trust_remote_code: whether code that the checkpoint brings may run.
        """
        from transformers import AutoConfig, AutoTokenizer

        self.name, self.separator = name, separator
        if style not in ("auto", *STYLES):
            raise ValueError(f"--prm-style {style}: use auto, {', '.join(STYLES)}")
        if not separator:
            raise ValueError("--prm-separator is empty: give what stands after each step")
        try:
            config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
            self.tokenizer = AutoTokenizer.from_pretrained(
                name, trust_remote_code=trust_remote_code
            )
        except Exception as error:  # transformers raises many kinds
            raise ValueError(_no_model(name, error)) from error
        if not self.tokenizer.is_fast:
            raise ValueError(f"{name} has no fast tokenizer, which tells where tokens are: add one")
        self.style = style if style != "auto" else self._style_of(config)
        try:
            self.model, self._read = LOADERS[self.style](name, self.tokenizer, trust_remote_code)
        except OSError as error:
            raise ValueError(_no_model(name, error)) from error
        self.model.eval()
        self.identity: Mapping[str, Any] = {
            "prm": digest(
                [
                    weights_digest(self.model),
                    config_digest(self.model),
                    tokenizer_digest(self.tokenizer),
                ]
            ),
            "style": self.style,
            "separator": separator if self.style == "token" else None,
        }

    def _style_of(self, config: Any) -> str:
        architectures = " ".join(config.architectures or ())
        vocabulary = self.tokenizer.get_vocab()
        if "TokenClassification" in architectures:
            return "token"
        if "ProcessReward" in architectures and EXTRA in vocabulary:
            return "extra_0"
        if "CausalLM" in architectures and {TAG, f"▁{TAG}"} & vocabulary.keys():
            return "plus_minus"
        raise ValueError(
            f"{self.name} is {architectures or 'of no named architecture'}, which does not say how "
            f"it scores steps: name its style, --prm-style {' or '.join(STYLES)}"
        )

    def __call__(self, question: str, chains: Sequence[Sequence[str]]) -> list[Scored]:
        """As `StepScorer`.

        Raises:
            ValueError: a chain is longer than the model reads, has a control token's name in it,
                or gets a number that is none.
        """
        found: list[Scored] = []
        for begin in range(0, len(chains), BATCH):
            layouts = [self.layout(question, steps) for steps in chains[begin : begin + BATCH]]
            for values in self._scores(layouts):
                found.append(Scored({"PRM": [round(value, DIGITS) for value in values]}))
        return found

    def layout(self, question: str, steps: Sequence[str]) -> Layout:
        """How this style writes a chain."""
        if self.style == "token":
            head, after, end = f"{question}\n", [self.separator] * len(steps), ""
        elif self.style == "plus_minus":
            head, after, end = f"{question} ", [f" {TAG}\n"] * len(steps), ""
            steps = [f"Step {n}: {text}" for n, text in enumerate(steps, start=1)]
        else:
            for text in (question, *steps):
                if EXTRA in text:
                    raise ValueError(f"a text has {EXTRA} in it, which {self.name} reads as a tag")
            whole = self._as_chat(question, steps)
            head, _, end = whole.rpartition(EXTRA.join([*steps, ""]))
            after = [EXTRA] * len(steps)
        text, ends = head, []
        for step, separator in zip(steps, after, strict=True):
            text += step + separator
            ends.append(len(text.rstrip("\n") if self.style == "plus_minus" else text) - 1)
        return Layout(text + end, ends)

    def _as_chat(self, question: str, steps: Sequence[str]) -> str:
        messages = [
            {"role": "system", "content": INSTRUCTION},
            {"role": "user", "content": question},
            {"role": "assistant", "content": EXTRA.join([*steps, ""])},
        ]
        if not self.tokenizer.chat_template:
            raise ValueError(f"{self.name} has no chat template, in which its style reads a chain")
        whole: str = self.tokenizer.apply_chat_template(messages, tokenize=False)
        if EXTRA.join([*steps, ""]) not in whole:
            raise ValueError(f"{self.name}: its chat template changes the steps' texts")
        return whole

    @torch.inference_mode()
    def _scores(self, layouts: Sequence[Layout]) -> list[list[float]]:
        rows = [self._encoded(layout) for layout in layouts]
        longest = max(len(ids) for ids, _ in rows)
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row, _ in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row, _ in rows])
        device = next(self.model.parameters()).device
        probabilities = self._read(ids.to(device), mask.to(device)).cpu()
        if not bool(probabilities.isfinite().all()):
            raise ValueError(f"{self.name} gives no finite scores: its weights are damaged")
        return [probabilities[n, at].tolist() for n, (_, at) in enumerate(rows)]

    def _encoded(self, layout: Layout) -> tuple[list[int], list[int]]:
        """The tokens, and the places of those that end the steps."""
        is_chat = self.style == "extra_0"
        read = self.tokenizer(
            layout.text, return_offsets_mapping=True, add_special_tokens=not is_chat
        )
        ids, offsets = read["input_ids"], read["offset_mapping"]
        limit = getattr(self.model.config, "max_position_embeddings", None)
        if limit is not None and len(ids) > limit:
            raise ValueError(
                f"a chain has {len(ids)} tokens and {self.name} reads {limit}: shorten it"
            )
        places: list[int] = []
        for end in layout.ends:
            place = max((n for n, (a, b) in enumerate(offsets) if a <= end < b), default=None)
            if place is None or place in places:
                raise ValueError(f"{self.name}: its tokenizer joins the ends of two steps")
            places.append(place)
        return ids, places


def _no_model(name: str, error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return (
        f"--scorer {name} cannot be loaded ({lines[0]}): give policy, base, guide, or the hub id "
        "or folder of a process reward model with its tokenizer and safetensors weights"
    )
