"""`AudioCodec`: what files, token datasets, evaluation and the command line use of a codec.

`codecvq.Codec` implements it. So does a subclass of `codecvq.WrappedCodec`, which wraps a codec that exists.
Optional abilities are protocols of their own: `LatentCodec`, `SavableCodec`.

Letters: B batch, C channels, S samples, N codebooks, T frames, D latent dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from codecvq.api.code_tables import CodeTables


class AudioCodec(Protocol):
    """A codec with codes: audio `[B, C, S]` to integers `[B, N, T]` and back."""

    # what it is

    @property
    def name(self) -> str:
        """What reports and token datasets call it."""

    @property
    def device(self) -> torch.device:
        """Where it computes. `encode` and `decode` take tensors on any device and return them here."""

    @property
    def sample_rate(self) -> int:
        """Samples a second of the audio that it codes, in Hz."""

    @property
    def channels(self) -> int:
        """C."""

    @property
    def hop_length(self) -> int:
        """Samples a frame."""

    @property
    def frame_rate(self) -> Fraction:
        """Frames a second, exactly: sample rate / hop length."""

    # what its codes are

    @property
    def num_codebooks(self) -> int:
        """N."""

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """K of each codebook: codes are 0 … K - 1."""

    @property
    def strides(self) -> tuple[int, ...]:
        """How many frames one code of each codebook stands for; in `[B, N, T]` it repeats over them."""

    @property
    def prefix_decodable(self) -> bool:
        """Whether the first n codebooks decode without the others."""

    @property
    def variable_depth(self) -> bool:
        """Whether the number of codes may differ from frame to frame; absent codes are -1."""

    def code_tables(self) -> CodeTables | None:
        """The learned frequencies of its codes, for the entropy coder of `.cvq` files; None: it has none.
        Codecs with equal `codebooks_sha256` have equal ones.
        """

    @property
    def bitrate(self) -> float:
        """Nominal bits a second: frame rate times the sum of log2 K / stride."""

    # which one it is

    @property
    def weights_sha256(self) -> str:
        """A hash of all that changes codes or samples: codecs with equal ones give equal codes and samples.
        64 hexadecimal digits.
        """

    @property
    def codebooks_sha256(self) -> str:
        """A hash of what gives codes their meaning: codecs with equal ones decode each other's codes. 64
        hexadecimal digits.
        """

    def matches_codebooks(self, digest: str) -> bool:
        """Whether it decodes the codes of a codec whose `codebooks_sha256` is or begins with `digest`."""

    def matches_weights(self, digest: str) -> bool:
        """Whether it gives the samples of a codec whose `weights_sha256` is or begins with `digest`."""

    @property
    def quantizer_info(self) -> Mapping[str, Any]:  # Any: JSON
        """What datasets record of the quantizer: name, plugin, version, api."""

    # what it does

    def encode(
        self,
        wav: Tensor,
        sample_rate: int | None = None,
        lengths: Tensor | None = None,
        num_codebooks: int | None = None,
    ) -> Tensor:
        """Codes of audio: `[B, C, S]` -> int64 `[B, n, T]`, T = ceil(S / hop).

        Audio at another `sample_rate` (Hz) is resampled. `lengths` `[B]` are the real samples of each item
        of a padded batch; an item gets the codes that it gets alone, and 0 at frames of padding.
        `num_codebooks` is n, by default N. Raises ShapeError for arguments of another type, shape or range.
        """

    def decode(self, codes: Tensor, num_samples: int | None = None, lengths: Tensor | None = None) -> Tensor:
        """Audio of codes: integers `[B, n, T]` -> float32 `[B, C, num_samples]`, by default T * hop samples.

        `lengths` `[B]` are the real samples of each item of a padded batch; what follows them is 0. Raises
        ShapeError for arguments of another type, shape or range.
        """


class LatentCodec(AudioCodec, Protocol):
    """A codec whose continuous latents are public: those in front of its quantizer, and the way back.

    Latents have neither mean 0 nor variance 1, and channels differ in scale: a model of them, such as a
    diffusion model, needs them normalized by the mean and standard deviation of each channel over its
    training data. The decoder was trained on quantized latents, so latents that are near a codeword decode
    best.
    """

    @property
    def latent_dim(self) -> int:
        """D."""

    def encode_latents(
        self, wav: Tensor, sample_rate: int | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """Latents of audio, not quantized: `[B, C, S]` -> float32 `[B, D, T]`, 0 at frames of padding; the
        arguments are those of `encode`. Without gradient.
        """

    def decode_latents(
        self, latents: Tensor, num_samples: int | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """Audio of latents, quantized or not: `[B, D, T]` -> float32 `[B, C, num_samples]`; the other
        arguments are those of `decode`. Without gradient.
        """


class SavableCodec(AudioCodec, Protocol):
    """A codec that can be written to a folder, from which `codecvq.load` reads it."""

    def save(self, folder: str | Path) -> Path:
        """The folder, now with the codec in it."""
