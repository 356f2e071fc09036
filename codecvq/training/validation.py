"""How a codec does on clips that it does not learn from, in passing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from codecvq.codec import Codec
from codecvq.errors import AudioError
from codecvq.training.corpus import Clip

LONGEST_S = 5.0  # of a clip: validation is a glance, `codecvq evaluate` is the measure


@torch.no_grad()
def validate(codec: Codec, mel: nn.Module, clips: Sequence[Clip]) -> dict[str, float]:
    """`validation/mel`: mean mel loss of the clips through codes and back, as users would get them. The mode
    is put back.
    """
    training = codec.training
    codec.eval()
    losses = []
    for clip in clips:
        try:
            samples = clip.read(codec.sample_rate)[: round(LONGEST_S * codec.sample_rate)]
        except AudioError:
            continue  # `split.jsonl` and evaluation name it; a glance goes on
        wav = torch.from_numpy(samples)[None, None].to(codec.device)
        decoded = codec.decode(codec.encode(wav), num_samples=wav.shape[2])
        losses.append(float(mel(decoded, wav)))
    codec.train(training)
    return {"validation/mel": sum(losses) / len(losses)} if losses else {}
