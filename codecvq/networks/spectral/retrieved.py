"""A head that predicts magnitudes and retrieves phases from them (`codecvq.networks.spectral.phase`)."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from codecvq.api.reach import Reach
from codecvq.errors import OptionError
from codecvq.networks.spectral.framing import Framing
from codecvq.networks.spectral.options import DEFAULT_ITERATIONS
from codecvq.networks.spectral.parts import Head
from codecvq.networks.spectral.phase import phase_reach, retrieve_phases, scale_complex, unit_phases
from codecvq.networks.spectral.synthesis import MakeBackbone, Synthesis, SynthesisFraming

MAX_ITERATIONS = 1000


def make_retrieved(
    *,
    sample_rate: int,
    hop_length: int,
    causal: bool,
    dim: int,
    backbone: MakeBackbone,
    iterations: int = DEFAULT_ITERATIONS,
    training_phase: Literal["recorded", "retrieved"] = "recorded",
    synthesis_hop_length: int | None = None,
    synthesis_window_length: int | None = None,
) -> Head:
    """Build a head that retrieves phases in `iterations` steps.

    In training, `training_phase: recorded` takes phases from the recording, so that only magnitudes are
    learned. `training_phase: retrieved` retrieves them in training, too.
    """
    del sample_rate
    synthesis = SynthesisFraming.from_options(
        "retrieved", hop_length, causal, synthesis_hop_length, synthesis_window_length
    )
    if not 1 <= iterations <= MAX_ITERATIONS:
        raise OptionError(
            f"spectral: phase_iterations is {iterations}; needed is 1 to {MAX_ITERATIONS}, usually "
            f"{DEFAULT_ITERATIONS}"
        )
    if training_phase not in ("recorded", "retrieved"):
        raise OptionError(f"spectral: training_phase is {training_phase!r}; needed is recorded or retrieved")
    return Head(
        partial(PhaseRetrievalDecoder, synthesis, dim, backbone, iterations, training_phase == "recorded")
    )


class PhaseRetrievalDecoder(Synthesis):
    """Latents `[B, D, T]` to audio `[B, 1, T * H]`, with phases retrieved from predicted magnitudes.

    If `uses_target_audio` is true, training passes the recording `[B, 1, T * H]`, whose phases it uses; see
    `codecvq.networks.interface.Network`.
    """

    framing: Framing

    def __init__(
        self,
        synthesis: SynthesisFraming,
        dim: int,
        backbone: MakeBackbone,
        iterations: int,
        uses_target_audio: bool,
    ) -> None:
        super().__init__(synthesis, dim, backbone)
        framing = self.framing
        self.iterations, self.uses_target_audio = iterations, uses_target_audio
        self.head = nn.Linear(self.backbone.width, framing.bins)
        nn.init.constant_(self.head.bias, -3.0)  # starts at the level of quiet speech: windowed sums of e^-3
        reach = self.backbone.reach
        if reach.past is None:
            return
        margin = phase_reach(framing, iterations) + framing.overlapping_frames
        self.reach = Reach(self.codec_frames(reach.past + margin), self.codec_frames(reach.future + margin))

    def forward(
        self, latents: Tensor, mask: Tensor | None = None, target_wav: Tensor | None = None
    ) -> Tensor:
        """Decode latents: `[B, D, T]`, mask `[B, T]` -> `[B, 1, T * H]`."""
        mask = self.upsample_mask(mask)
        log_magnitudes = self.head(self.hidden(rearrange(latents, "b d t -> b t d"), mask))
        with torch.autocast(latents.device.type, enabled=False):
            magnitudes = log_magnitudes.float().clamp(max=5).exp()  # e^5 = 148 is above full scale
            if target_wav is not None:
                phases = unit_phases(self.framing.spectra(target_wav))
            else:
                # no gradient in training: the graph of all iterations would be too long
                with torch.set_grad_enabled(torch.is_grad_enabled() and not self.training):
                    phases = retrieve_phases(self.framing, magnitudes, self.iterations, mask)
            return self.framing.overlap_add(scale_complex(phases, magnitudes), mask)
