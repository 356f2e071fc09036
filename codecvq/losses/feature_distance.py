"""Distances between features, one per batch item.

With features a(d, t), targets s(d, t), frame weights w(t), 0 or 1, and the logistic
function σ:

    cosine               Σ_t w (1 - cos(a(·, t), s(·, t))) / Σ_t w
    cosine_over_time     mean over d of  -ln σ(cos(w a(d, ·), w s(d, ·)))
    l1                   Σ_t w mean_d |a - s| / Σ_t w

Mimi (arXiv:2410.00037 §3.3) uses the first, computed per frame. SpeechTokenizer (arXiv:2308.16692 eq. 1) uses
the second, computed per channel.

The distance of an item without frames is 0.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

Distance = Literal["cosine", "cosine_over_time", "l1"]


def feature_distance(
    kind: Distance, features: Tensor, target: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Return distances `[B]` of `features` `[B, F, T]` from `target` `[B, F, T]`.

    `weights` `[B, T]` is 1 for frames that count and 0 for others; None: all frames count.
    """
    if weights is None:
        weights = features.new_ones(features.shape[0], features.shape[2])
    if kind == "cosine_over_time":
        cosines = F.cosine_similarity(features * weights[:, None], target * weights[:, None], dim=2)
        return -F.logsigmoid(cosines).mean(dim=1) * weights.amax(dim=1)
    if kind == "cosine":
        distances = 1 - F.cosine_similarity(features, target, dim=1)
    else:
        distances = (features - target).abs().mean(dim=1)
    return (distances * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
