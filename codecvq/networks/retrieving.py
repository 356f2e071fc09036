"""Latents to magnitudes, and these to audio with phases that fit them (`codecvq.networks.phase`)."""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from codecvq.errors import OptionError
from codecvq.networks.framing import Framing
from codecvq.networks.interface import Reach
from codecvq.networks.phase import phases_of, reach_of, retrieved_phases, scaled
from codecvq.networks.synthesis import Synthesis


class RetrievingDecoder(Synthesis):
    """Latents `[B, D, T]` to audio `[B, 1, T * H]`.

    In training it may be given the recording `[B, 1, T * H]`, see `codecvq.networks.interface.Network`.
    """

    def __init__(
        self,
        framing: Framing,
        times: int,
        dim: int,
        width: int,
        blocks: int,
        iterations: int,
        training_phase: Literal["recorded", "retrieved"],
    ) -> None:
        if training_phase not in ("recorded", "retrieved"):
            raise OptionError(f"spectral: training_phase is {training_phase!r}; it is recorded or retrieved")
        super().__init__(framing, times, dim, width, blocks)
        self.iterations = iterations
        self.takes_recording = training_phase == "recorded"
        self.head = nn.Linear(width, framing.bins)
        nn.init.constant_(self.head.bias, -3.0)  # begins with quiet speech: windowed sums of e^-3
        beside = reach_of(framing, iterations) + framing.frames_beside
        reach = self.frames(self.backbone.reach.future + beside)
        self.reach = Reach(reach, reach)

    def forward(self, latents: Tensor, mask: Tensor | None = None, recorded: Tensor | None = None) -> Tensor:
        """`[B, D, T]`, mask `[B, T]` -> `[B, 1, T * H]`."""
        mask = self.finer(mask)
        log_magnitudes = self.head(self.hidden(rearrange(latents, "b d t -> b t d"), mask))
        with torch.autocast(latents.device.type, enabled=False):
            magnitudes = log_magnitudes.float().clamp(max=5).exp()  # e^5 = 148: louder than full scale can be
            if recorded is not None:
                phases = phases_of(self.framing.spectra(recorded))
            else:
                with torch.set_grad_enabled(torch.is_grad_enabled() and not self.training):  # too long a way
                    phases = retrieved_phases(self.framing, magnitudes, self.iterations, mask)
            return self.framing.overlap_add(scaled(phases, magnitudes), mask)
