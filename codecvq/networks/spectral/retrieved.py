"""A head that predicts magnitudes, and retrieves phases that fit them (`codecvq.networks.spectral.phase`)."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from codecvq.api.reach import Reach
from codecvq.errors import OptionError
from codecvq.networks.spectral.options import ITERATIONS
from codecvq.networks.spectral.parts import Head
from codecvq.networks.spectral.phase import phases_of, reach_of, retrieved_phases, scaled
from codecvq.networks.spectral.synthesis import MakeBackbone, Pace, Synthesis

MOST_ITERATIONS = 1000


def make_retrieved(
    *,
    sample_rate: int,
    hop_length: int,
    causal: bool,
    dim: int,
    backbone: MakeBackbone,
    iterations: int = ITERATIONS,
    training_phase: Literal["recorded", "retrieved"] = "recorded",
    synthesis_hop_length: int | None = None,
    synthesis_window_length: int | None = None,
) -> Head:
    """A head whose phases are retrieved by `iterations`; in training, by `training_phase`, they are those of
    the recording, so that magnitudes are all there is to learn, or retrieved too.
    """
    del sample_rate
    pace = Pace.checked("retrieved", hop_length, causal, synthesis_hop_length, synthesis_window_length)
    if not 1 <= iterations <= MOST_ITERATIONS:
        raise OptionError(
            f"spectral: phase_iterations is {iterations}; it is 1 to {MOST_ITERATIONS}, usually {ITERATIONS}"
        )
    if training_phase not in ("recorded", "retrieved"):
        raise OptionError(f"spectral: training_phase is {training_phase!r}; it is recorded or retrieved")
    return Head(partial(RetrievingDecoder, pace, dim, backbone, iterations, training_phase == "recorded"))


class RetrievingDecoder(Synthesis):
    """Latents `[B, D, T]` to audio `[B, 1, T * H]`.

    Where it `takes_recording`, it may be given the recording `[B, 1, T * H]` in training, see
    `codecvq.networks.interface.Network`.
    """

    def __init__(
        self, pace: Pace, dim: int, backbone: MakeBackbone, iterations: int, takes_recording: bool
    ) -> None:
        super().__init__(pace, dim, backbone)
        framing = self.framing
        self.iterations, self.takes_recording = iterations, takes_recording
        self.head = nn.Linear(self.backbone.width, framing.bins)
        nn.init.constant_(self.head.bias, -3.0)  # begins with quiet speech: windowed sums of e^-3
        reach = self.backbone.reach
        if reach.past is None:
            return
        beside = reach_of(framing, iterations) + framing.frames_beside
        self.reach = Reach(self.frames(reach.past + beside), self.frames(reach.future + beside))

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
