"""The spectral network, whose layers between the two Fourier transforms run at the frame rate.

wav -> log-mel (or compressed STFT) -> ConvNeXt blocks -> latents -> ConvNeXt blocks -> magnitude and phase ->
inverse STFT, after Vocos (arXiv:2306.00814), with an encoder of the same kind. LayerNorm is per frame, and
there is no normalization over time. A frame therefore depends only on its receptive field, not on padding or
other chunks outside it. Features, backbones and head are parts (`codecvq.networks.spectral.parts`); plugins
can replace each of them.

Phases are predicted like magnitudes, retrieved from magnitudes (`codecvq.networks.spectral.phase`), or the
phases of a synthetic speech source (`codecvq.networks.voice`). At low bit rates, codes contain no phases, and
a network needs long training with discriminators to generate consistent ones. With retrieved phases it learns
only magnitudes, with a source only magnitudes and pitch. Both work best with windows of about 40 ms every 10
ms. If this hop is shorter than a frame of the codec, the decoder works at `synthesis_hop_length`.

Offline, analysis and synthesis windows are centered on their hops (`Framing`), and convolutions span three
frames on either side. In a causal network, the analysis window ends with its hop, or `lookahead_frames` hops
later, and convolutions span the six previous frames. The decoder's signal of a frame starts with its hop
(`Crossfade`), and so do windows of source phases, which extend over the hops of the lookahead
(`AheadFraming`). With hop length H, audio up to sample (t + 1)H is thus decoded from codes up to frame t,
which depend on audio up to (t + 1 + lookahead_frames)H. Retrieved phases need future frames.
"""

from codecvq.networks.spectral.build import build_spectral, spectral_network
from codecvq.networks.spectral.parts import Decoder, FrameNetwork, FrontEnd, Head

__all__ = ["Decoder", "FrameNetwork", "FrontEnd", "Head", "build_spectral", "spectral_network"]
