"""What the policy and the sampling settings say of each row, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Parameters(NamedTuple):
    """Settings of N rows on the device of the logits; see SPEC.md for the names.

    Attributes:
        threshold: `[N]` float64, τ (decode.py compares float32 p_b with a Python float too).
        agreement_bonus: `[N]` float32, λ.
        alpha: `[N]` float32, fixed α; NaN adapts it.
        top_k: `[N]` int32; 0, or V and more: the whole vocabulary.
        temperature: `[N]` float32, of the draw alone.
        top_p: `[N]` float32, likewise.
        do_sample: `[N]` bool.
        seed: `[N]` int64, of a sequence.
        counter: `[N]` int64, of a step: a draw is a function of (seed, counter) and the logits.
        may_intervene: `[N]` bool, whether the policy lets a step intervene.
        largest_top_k: no `top_k` is above this. A host number, as the next two are: they choose
            what is launched, and may be larger than needed, never smaller.
        any_whole: some `top_k` may be 0.
        any_sampled: some `do_sample` may be True.
    """

    threshold: Tensor
    agreement_bonus: Tensor
    alpha: Tensor
    top_k: Tensor
    temperature: Tensor
    top_p: Tensor
    do_sample: Tensor
    seed: Tensor
    counter: Tensor
    may_intervene: Tensor
    largest_top_k: int
    any_whole: bool
    any_sampled: bool

    @classmethod
    def of(
        cls,
        rows: int,
        device: torch.device | str,
        *,
        threshold: float | Sequence[float] = 0.4,
        agreement_bonus: float | Sequence[float] = 0.1,
        alpha: float | Sequence[float | None] | None = None,
        top_k: int | Sequence[int | None] | None = 100,
        temperature: float | Sequence[float] = 1.0,
        top_p: float | Sequence[float] = 1.0,
        do_sample: bool | Sequence[bool] = False,
        seed: int | Sequence[int] = 0,
        counter: int | Sequence[int] = 0,
        may_intervene: bool | Sequence[bool] = True,
    ) -> Parameters:
        """From Python numbers, each one for all rows or one a row; None as in `policy.Blend`."""

        def column(value: object, dtype: torch.dtype, none: float = 0) -> Tensor:
            values = value if isinstance(value, Sequence) else [value] * rows
            if len(values) != rows:
                raise ValueError(f"{len(values)} values for {rows} rows: give one, or one a row")
            cells = [none if each is None else each for each in values]
            return torch.tensor(cells, dtype=dtype).to(device)

        ks = [each or 0 for each in (top_k if isinstance(top_k, Sequence) else [top_k])]
        samples = do_sample if isinstance(do_sample, Sequence) else [do_sample]
        return cls(
            threshold=column(threshold, torch.float64),
            agreement_bonus=column(agreement_bonus, torch.float32),
            alpha=column(alpha, torch.float32, float("nan")),
            top_k=column(top_k, torch.int32),
            temperature=column(temperature, torch.float32),
            top_p=column(top_p, torch.float32),
            do_sample=column(do_sample, torch.bool),
            seed=column(seed, torch.int64),
            counter=column(counter, torch.int64),
            may_intervene=column(may_intervene, torch.bool),
            largest_top_k=max(ks, default=0),
            any_whole=0 in ks,
            any_sampled=any(samples),
        )
