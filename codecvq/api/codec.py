"""`AudioCodec`: the codec interface that `.cvq` files, token datasets, evaluation and the command line use.

`codecvq.Codec` implements it, and so do subclasses of `codecvq.WrappedCodec`, which wrap an existing codec.
Optional features have separate protocols: `LatentCodec` and `SavableCodec`.

Letters: B batch, C channels, S samples, N codebooks, T frames, D latent dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from codecvq.api.code_tables import CodeTables


class EncoderStream(Protocol):
    """Encodes B independent streams of audio block by block; see `codecvq.codec.StreamEncoder`."""

    #: Number of valid frames of each stream in the last result, int64 `[B]`.
    output_lengths: Tensor

    def push(self, samples: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Encode new samples `[B, C, S]`, and return the codes determined by now, int64 `[B, n, T]`."""

    def flush(self, items: Sequence[int] | None = None) -> Tensor:
        """End the recordings of all streams or of those in `items`, and return the remaining codes."""

    def reset(self, items: Sequence[int] | None = None) -> None:
        """Discard the recordings of all streams or of those in `items`."""


class DecoderStream(Protocol):
    """Decodes B independent streams of codes block by block; see `codecvq.codec.StreamDecoder`."""

    #: Number of valid samples of each stream in the last result, int64 `[B]`.
    output_lengths: Tensor

    def push(self, codes: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Decode new codes `[B, n, T]`, and return the samples determined by now, float32 `[B, C, S]`."""

    def lost(self, frames: int, items: Sequence[int] | None = None) -> Tensor:
        """Conceal the next `frames` frames of all streams or those in `items`; return samples as `push`."""

    def flush(self, items: Sequence[int] | None = None) -> Tensor:
        """End the recordings of all streams or of those in `items`, and return the remaining samples."""

    def reset(self, items: Sequence[int] | None = None) -> None:
        """Discard the recordings of all streams or of those in `items`."""


class AudioCodec(Protocol):
    """A codec that encodes audio `[B, C, S]` to codes, integers `[B, N, T]`, and decodes them."""

    # properties

    @property
    def name(self) -> str:
        """Name in reports and token datasets."""

    @property
    def device(self) -> torch.device:
        """Device of the computation and of all outputs. Inputs may be on any device."""

    @property
    def sample_rate(self) -> int:
        """Sample rate of the audio, in Hz."""

    @property
    def channels(self) -> int:
        """Number of audio channels C."""

    @property
    def hop_length(self) -> int:
        """Samples per frame."""

    @property
    def frame_rate(self) -> Fraction:
        """Exact frames per second: sample rate / hop length."""

    # codes

    @property
    def num_codebooks(self) -> int:
        """Number of codebooks N."""

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Size K of each codebook. Codes are in 0 … K - 1."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Frames per code of each codebook. In codes `[B, N, T]` a code is repeated over its frames."""

    @property
    def prefix_decodable(self) -> bool:
        """Whether the first n codebooks decode without the others."""

    @property
    def variable_depth(self) -> bool:
        """Whether the number of codes per frame varies. Absent codes are -1."""

    def code_tables(self) -> CodeTables | None:
        """Return the learned code frequencies for the entropy coder of `.cvq` files, or None.

        A file that uses them refers to them by `CodeTables.sha256`, and a codec reads it if its tables have
        this hash.
        """

    @property
    def bitrate(self) -> float:
        """Nominal bits per second: frame rate times the sum of log2(K) / stride."""

    # identity

    @property
    def weights_sha256(self) -> str:
        """Hash of everything that affects codes or samples; 64 hexadecimal digits.

        Codecs with equal hashes return equal codes and samples.
        """

    @property
    def codebooks_sha256(self) -> str:
        """Hash of everything that defines the meaning of codes; 64 hexadecimal digits.

        Codecs with equal hashes can decode each other's codes.
        """

    def matches_codebooks(self, digest: str) -> bool:
        """Whether this codec can decode codes of a codec whose `codebooks_sha256` starts with `digest`."""

    def matches_weights(self, digest: str) -> bool:
        """Whether this codec returns the same samples as one whose `weights_sha256` starts with `digest`."""

    @property
    def quantizer_info(self) -> Mapping[str, Any]:  # Any: JSON
        """Quantizer metadata that datasets record: name, plugin, version, api."""

    # encoding and decoding

    def encode(
        self,
        wav: Tensor,
        sample_rate: int | None = None,
        lengths: Tensor | None = None,
        num_codebooks: int | None = None,
    ) -> Tensor:
        """Encode audio `[B, C, S]` to codes, int64 `[B, n, T]`, T = ceil(S / hop).

        Audio at another `sample_rate` (Hz) is resampled. `lengths` `[B]` are the numbers of valid samples of
        the items of a padded batch: an item has the same codes as without padding, and 0 in padding frames.
        `num_codebooks` is n, by default N. Raises ShapeError for arguments of the wrong type, shape or range.
        """

    def decode(self, codes: Tensor, num_samples: int | None = None, lengths: Tensor | None = None) -> Tensor:
        """Decode codes, integers `[B, n, T]`, to audio, float32 `[B, C, num_samples]`.

        `num_samples` is T * hop by default. `lengths` `[B]` are the numbers of valid samples of the items of
        a padded batch; later samples are 0. Raises ShapeError for arguments of the wrong type, shape or
        range.
        """

    # streams

    @property
    def latency_ms(self) -> float | None:
        """Algorithmic latency in milliseconds: lookahead plus hop. None if the codec declares no reach."""

    def survey(self, recording: Callable[[], Iterable[Tensor]]) -> Tensor | None:
        """Return what `stream_encoder` needs to know of a whole recording; None if it is nothing.

        `recording` returns blocks of audio `[1, C, S]` from the beginning, and can be called several times.
        """

    def stream_encoder(
        self, batch: int = 1, num_codebooks: int | None = None, survey: Tensor | None = None
    ) -> EncoderStream:
        """Return an encoder for `batch` independent streams; its codes equal those of whole recordings.

        With the `survey` of a recording, it encodes this recording alone. Raises StreamingError, with the
        reason, if the codec cannot encode streams, or not without a survey.
        """

    def stream_decoder(self, batch: int = 1) -> DecoderStream:
        """Return a decoder for `batch` independent streams; its samples equal those of whole recordings.

        Raises StreamingError, with the reason, if the codec cannot decode streams.
        """


class LatentCodec(AudioCodec, Protocol):
    """A codec with access to its continuous latents, before the quantizer.

    Latents are not normalized, and channels differ in scale. A model of latents, such as a diffusion model,
    should normalize each channel by its mean and standard deviation over the training data. The decoder was
    trained on quantized latents, so latents close to a codeword decode best.
    """

    @property
    def latent_dim(self) -> int:
        """Latent dimension D."""

    def encode_latents(
        self, wav: Tensor, sample_rate: int | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """Encode audio `[B, C, S]` to latents before quantization, float32 `[B, D, T]`.

        The arguments are the same as for `encode`. Padding frames are 0. No gradient is computed.
        """

    def decode_latents(
        self, latents: Tensor, num_samples: int | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """Decode latents `[B, D, T]`, quantized or not, to audio, float32 `[B, C, num_samples]`.

        The other arguments are the same as for `decode`. No gradient is computed.
        """


class SavableCodec(AudioCodec, Protocol):
    """A codec that can be saved to a folder and loaded with `codecvq.load`."""

    def save(self, folder: str | Path) -> Path:
        """Save the codec to `folder` and return the folder."""
