"""BlendIn's intervention: α, and the mixture of both models' lists.

Source: BlendIn (arXiv 2606.11201), Algorithm 1. `blendin.kernels.blend` is the same in Triton.
"""

from __future__ import annotations

from torch import Tensor

from ..calibration import Calibration
from .fused import FusedPrediction, fused_blend
from .mixture import Mixture
from .prediction import Prediction
from .whole_vocabulary import proven_mixture


def blend(
    base: Prediction,
    guide: Prediction,
    *,
    top_k: int | None,
    alpha: float | None,
    agreement_bonus: float,
    calibration: Calibration | None = None,
    greedy: bool = True,
) -> Mixture:
    """The blended distribution over the union of both models' top k.

    Args:
        base: what the base says, N rows.
        guide: what the guide says, the same rows.
        top_k: k; None: the whole vocabulary.
        alpha: the guide's weight α; None adapts it.
        agreement_bonus: λ.
        calibration: at which temperatures α reads its probabilities, and how it weighs them; no
            kernel does.
        greedy: only the mixture's argmax is needed.
    """
    if (
        calibration is None
        and isinstance(base, FusedPrediction)
        and isinstance(guide, FusedPrediction)
        and base.lists(top_k)
        and guide.lists(top_k)
    ):
        assert top_k is not None
        return fused_blend(base, guide, top_k, alpha, agreement_bonus)
    fitted = calibration or Calibration()
    agreement = base.prob_at(guide.choice, fitted.base_temperature)
    if alpha is not None:
        weight = agreement.new_full(agreement.shape, alpha)
    else:
        p_b = base.top_prob_at(fitted.base_temperature)
        p_g = guide.top_prob_at(fitted.guide_temperature)
        if fitted.fits_alpha:
            weight = fitted.alpha(p_b, p_g, agreement)
        else:
            weight = mixing_weight(p_b, p_g, agreement, agreement_bonus)
    if top_k is None and greedy:
        if (proven := proven_mixture(base, guide, weight, agreement)) is not None:
            return proven
    return base.top(top_k).mixed_with(guide.top(top_k), weight, agreement)


def mixing_weight(
    base_top_prob: Tensor, guide_top_prob: Tensor, agreement: Tensor, agreement_bonus: float
) -> Tensor:
    """The adaptive α = clip(p_g / (p_b + p_g) + λ · P_B(t_g), 0, 1), `[N]` float32 each."""
    confidence = guide_top_prob / (base_top_prob + guide_top_prob)
    return (confidence + agreement_bonus * agreement).clamp(0, 1)
