"""Distances between features, one for each item of a batch.

With ours and theirs, features a(d, t) and s(d, t), and weights w(t) of frames, 0 or 1:

    cosine               Σ_t w (1 - cos(a(·, t), s(·, t))) / Σ_t w
    cosine_over_time     mean over d of  -ln σ(cos(w a(d, ·), w s(d, ·)))
    l1                   Σ_t w mean_d |a - s| / Σ_t w

The first is that of Mimi (arXiv:2410.00037 §3.3), frame by frame; the second that of SpeechTokenizer
(arXiv:2308.16692 eq. 1), channel by channel.

An item without a frame has the distance 0.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

Distance = Literal["cosine", "cosine_over_time", "l1"]


def feature_distance(
    kind: Distance, features: Tensor, target: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Distances `[B]` of features `[B, F, T]` from `[B, F, T]`, over the frames where `weights` `[B, T]` (1
    or 0; None for all) is 1.
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
