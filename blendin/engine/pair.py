"""A base and a guide, their vocabularies aligned, on the device where steps are decided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from ..decision.gated import KERNEL_DTYPES, Gate
from ..decision.kernel_trial import checked_kernel_tables
from ..decision.predict import NextTokens, predict
from ..decision.prediction import Prediction
from ..models.context import Context
from ..models.identity import template_digest
from ..models.local import LanguageModel, lie_apart
from ..models.protocol import Model
from ..policy import Policy
from ..prompts import PromptRenderer
from ..speculation.speculator import Speculation
from ..vocab.alignment import Alignment


class Driver(Protocol):
    """What takes sequences further whose base another engine runs (`engine/driver.py`)."""

    def advance(self, sequences: Sequence[Any]) -> None:
        """One step of the engine, for these sequences and all others that it runs."""
        ...


def logits_dtype(model: Model) -> torch.dtype:
    """Of its logits, as its weights' dtype has it; float32 where the kernels do not read that."""
    named = (dtype for dtype in KERNEL_DTYPES if model.precision.startswith(str(dtype)[6:]))
    return next(named, torch.float32)


class Pair:
    """A base and a guide with their vocabularies aligned.

    Attributes:
        tables: the alignment on the device of the base's logits, where steps are decided.
        base_kernels: the base's tables for the Triton kernels; None where these do not run.
        guide_kernels: likewise, the guide's.
        speculation: the drafts of its sequences.
        prompts: renders messages for both.
        driver: takes its sequences further, where another engine runs the base in this process.
        is_async: whether predictions take a while to arrive, as servers' do.
        overlaps: whether the base steps on while the guide reads, in lists of prompts.
    """

    driver: Driver | None = None

    def __init__(
        self, base: Model, guide: Model, fused: bool | None = None, overlap: bool | None = None
    ) -> None:
        """Aligns two models.

        Args:
            base: the base.
            guide: the guide.
            fused: whether the Triton kernels read the logits; by default on CUDA devices.
            overlap: whether the base steps on while the guide reads; by default where both run here
                and share no device. Never true of models that run elsewhere.
        """
        self.base, self.guide = base, guide
        self.alignment = Alignment(base.vocabulary, guide.vocabulary, base.end_ids, guide.end_ids)
        self.tables = self.alignment.tables.to(base.device)
        self.device = base.device
        self.speculation = Speculation(base, guide, self.alignment)
        self.is_async = base.is_async or guide.is_async
        apart = False
        if isinstance(base, LanguageModel) and isinstance(guide, LanguageModel):
            apart = lie_apart(base, guide)
        else:
            assert not overlap, "nobody waits for what runs elsewhere"
        self.overlaps = apart if overlap is None else overlap
        base_reader, guide_reader = ((each.tokenizer, each.vocabulary) for each in (base, guide))
        self.prompts = PromptRenderer(base_reader, guide_reader, guide.name)
        self.prompts.chat_template.log_faults()
        if fused is None:
            fused = base.device.type == "cuda" and not self.is_async
        dtypes = logits_dtype(base), logits_dtype(guide)
        checked = checked_kernel_tables(self.tables, dtypes) if fused else None
        self.base_kernels = checked[0] if checked is not None else None
        self.guide_kernels = checked[1] if checked is not None else None
        if checked is not None:
            # Where one model is both, its graphs have the base's: it is read at every step.
            for model, kernels in ((guide, checked[1]), (base, checked[0])):
                if isinstance(model, LanguageModel) and model.device == self.device:
                    model.gate_in_graphs(Gate(kernels, candidates_only=model is not base))

    def predict_base(self, returned: NextTokens) -> Prediction:
        """What the base says of the next tokens."""
        return predict(returned.to(self.device), self.tables.base, kernels=self.base_kernels)

    def predict_guide(self, returned: NextTokens, candidates_only: bool = True) -> Prediction:
        """What the guide says; all its tokens count where it decodes alone."""
        return predict(
            returned.to(self.device),
            self.tables.guide,
            candidates_only=candidates_only,
            kernels=self.guide_kernels,
        )

    def check_temperatures(self, policy: Policy) -> None:
        """Checks that the models tell enough for the temperatures of a policy's calibration.

        Raises:
            ValueError: one lists its likeliest tokens, and the temperature takes all of them.
        """
        for role, temperature in policy.temperatures._asdict().items():
            model = self.model(role)
            if temperature != 1 and model.top is not None:
                raise ValueError(
                    f"the calibration reads the {role}'s probabilities at temperature "
                    f"{temperature:g}, which takes the whole softmax, and {model.name} tells its "
                    f"{model.top} likeliest tokens: load the {role} here or in vLLM "
                    f"(vllm:MODEL), or use a calibration with {role}_temperature 1"
                )

    @property
    def identity(self) -> dict[str, Any]:
        """What results depend on of both models: base and guide, each as its `identity`, the
        guide's with its chat template."""
        base = self.base.identity
        guide = dict(base) if self.guide is self.base else self.guide.identity
        template = template_digest(self.guide.tokenizer)
        return {"base": base, "guide": guide | {"chat_template": template}}

    def model(self, role: str) -> Model:
        """The "base" or the "guide"."""
        return self.base if role == "base" else self.guide

    def leave(self, base: Context | None, guide: Context | None) -> None:
        """Frees the caches of a sequence's contexts, and ends what servers are still asked for."""
        for model, context in ((self.base, base), (self.guide, guide)):
            if context is not None:
                model.leave(context)
