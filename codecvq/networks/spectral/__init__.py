"""The spectral network: everything between the two Fourier transforms happens at the frame rate.

wav -> log-mel (or compressed STFT) -> ConvNeXt blocks -> latents -> ConvNeXt blocks -> magnitude and phase ->
inverse STFT, after Vocos (arXiv:2306.00814) with an encoder of the same kind. LayerNorm is per frame and
there is no normalisation over time, so neither padding nor cutting into chunks changes a frame beyond the
receptive field. Features, backbones and head are parts (`codecvq.networks.spectral.parts`), each of which a
plugin may replace.

Phases are predicted as magnitudes are, retrieved from magnitudes (`codecvq.networks.spectral.phase`), or
those of a source of speech (`codecvq.networks.voice`). Few bits say nothing of phases, and a network needs a
long training with discriminators to make up some that fit each other; with retrieved ones it has magnitudes
to learn and nothing else, with a source magnitudes and pitch. Both are best with frames of some 40 ms, 10 ms
apart, which may be closer than the codec's: then the decoder works at `synthesis_hop_length`.

Offline, windows are centred on their hops both ways (`Framing`), convolutions see three frames on either
side. Causal, the analysis window ends with its hop, or `lookahead_frames` hops later; convolutions see six
frames back; and the decoder's signal of a frame begins with its hop (`Crossfade`): audio up to (t + 1)H is
decoded from codes up to frame t, which were made from audio up to (t + 1 + lookahead_frames)H.
"""

from codecvq.networks.spectral.build import build_spectral, spectral_network
from codecvq.networks.spectral.parts import Decoder, FrameNetwork, FrontEnd, Head

__all__ = ["Decoder", "FrameNetwork", "FrontEnd", "Head", "build_spectral", "spectral_network"]
