"""`Codec`: encoder, quantizer and decoder as one model that can be saved, loaded and asked for codes and
audio.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import codecvq
from codecvq.api.hookspecs import EstimatorSpec, NetworkSpec
from codecvq.arguments import checked_latents
from codecvq.codec.config import FORMAT, named_options
from codecvq.codec.framed import FramedCodec
from codecvq.codec.identity import (
    HashCache,
    codebooks_hash,
    earlier_codebooks_hash,
    earlier_weights_hash,
    weights_hash,
)
from codecvq.codec.saving import save_codec
from codecvq.errors import CodecError
from codecvq.networks.build import build_network
from codecvq.networks.interface import AudioWithLosses
from codecvq.numerics import plain_float32, trainable_float32
from codecvq.plugins import registry
from codecvq.quantizer import CodeTables, Quantized, build_quantizer
from codecvq.quantizer.build import plain_registration, quantizer_registrations, shorten_config

if TYPE_CHECKING:
    from codecvq.api.codec import LatentCodec, SavableCodec


@dataclass(frozen=True)
class Reconstruction:
    """What a codec makes of audio in one pass: for training."""

    wav: Tensor  # [B, C, S]
    latents: Tensor  # [B, D, T] before the quantizer
    quantized: Quantized
    losses: dict[str, Tensor]  # of the quantizer and of the decoder, 0-d each


class Codec(FramedCodec, nn.Module):
    """A codec made of registered parts.

    Args: `sample_rate` in Hz; `network` and `quantizer` mappings with `name` and the options of that network
    and quantizer (`dim` of the quantizer is the network's); `name` what reports and token datasets call it.
    """

    def __init__(
        self,
        *,
        sample_rate: int,
        network: Mapping[str, Any],
        quantizer: Mapping[str, Any],
        channels: int = 1,
        name: str = "codec",
    ) -> None:
        super().__init__()
        self._hashes = HashCache()
        self.name, self.sample_rate, self.channels = name, sample_rate, channels
        self.network_config, self.quantizer_config = (
            named_options("network", network),
            shorten_config(named_options("quantizer", quantizer)),
        )
        with trainable_float32():
            built = build_network(sample_rate=sample_rate, channels=channels, **self.network_config)
            options = dict(self.quantizer_config)
            self.encoder, self.decoder = built.encoder, built.decoder
            self.quantizer = build_quantizer(options.pop("name"), dim=built.dim, **options)
        self.network, self.hop_length = built, built.hop_length
        if built.check is not None:
            built.check(self.quantizer)

    # what it is

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(iter(self.state_dict().values())).device

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """K of each codebook."""
        return self.quantizer.codebook_sizes

    @property
    def strides(self) -> tuple[int, ...]:
        """How many frames one code of each codebook stands for."""
        return self.quantizer.strides

    @property
    def prefix_decodable(self) -> bool:
        """Whether the first n codebooks decode without the others."""
        return self.quantizer.prefix_decodable

    @property
    def variable_depth(self) -> bool:
        """Whether the number of codes may differ from frame to frame."""
        return self.quantizer.variable_depth

    def code_tables(self) -> CodeTables | None:
        """The learned frequencies of its codes, for the entropy coder of `.cvq` files; None: it has none."""
        return self.quantizer.code_tables()

    @property
    def latent_dim(self) -> int:
        """D."""
        return self.quantizer.dim

    @property
    def weights_sha256(self) -> str:
        """Of all that changes codes or samples: with equal ones both are identical."""
        return self._cached_hash("weights", lambda tensors: weights_hash(tensors, self._build_arguments))

    @property
    def codebooks_sha256(self) -> str:
        """Of the encoder, the quantizer and their options: what gives codes their meaning. Another decoder
        may be trained for them.
        """
        return self._cached_hash(
            "codebooks",
            lambda tensors: codebooks_hash(tensors, self._build_arguments, self.network.decoder_options),
        )

    @property
    def earlier_weights_sha256(self) -> str:
        """As codec format 1 had it; see `codecvq.codec.identity`."""
        return self._cached_hash("earlier weights", earlier_weights_hash)

    @property
    def earlier_codebooks_sha256(self) -> str:
        """As codec format 1 had it; see `codecvq.codec.identity`."""
        return self._cached_hash(
            "earlier codebooks", lambda tensors: earlier_codebooks_hash(tensors, self.quantizer_config)
        )

    def matches_codebooks(self, digest: str) -> bool:
        """Whether it decodes codes recorded under this codebooks hash or beginning of one, of codec format 1
        too.
        """
        return self.codebooks_sha256.startswith(digest) or self.earlier_codebooks_sha256.startswith(digest)

    def matches_weights(self, digest: str) -> bool:
        """Whether it gives the samples recorded under this weights hash or beginning of one, of codec format
        1 too.
        """
        return self.weights_sha256.startswith(digest) or self.earlier_weights_sha256.startswith(digest)

    @property
    def _build_arguments(self) -> dict[str, Any]:
        """What the codec is built with, apart from its name."""
        return {
            "sample_rate": self.sample_rate,
            "channels": self.channels,
            "network": self.network_config,
            "quantizer": self.quantizer_config,
        }

    def _cached_hash(self, what: str, compute: Callable[[Mapping[str, Tensor]], str]) -> str:
        """The hash, kept in eval mode. In training nothing is kept: fused optimizers change tensors without
        counting up their version.
        """
        if self.training:
            self._hashes.clear()
        tensors = self.state_dict()
        return self._hashes.get(what, tensors, lambda: compute(tensors))

    def train(self, mode: bool = True) -> Codec:
        """Itself in training or eval mode; what was kept of its weights is dropped."""
        self._hashes.clear()
        return super().train(mode)

    @property
    def quantizer_info(self) -> dict[str, Any]:
        """Name, plugin, version and API of the quantizer, for datasets."""
        registration = plain_registration(self.quantizer_config["name"])
        return {**registration.identity, "name": self.quantizer_config["name"], "api": registration.spec.api}

    # audio to codes to audio

    def _encode_padded(self, wav: Tensor, mask: Tensor | None, num_codebooks: int | None) -> Tensor:
        with self._saved_numerics():
            return self.quantizer.encode(self._latents_of(wav, mask), num_codebooks, mask)

    def _decode_padded(self, codes: Tensor, mask: Tensor | None) -> Tensor:
        with self._saved_numerics():
            return self._wav_of_latents(self.quantizer.decode(codes, mask), mask)

    @torch.no_grad()
    def encode_latents(
        self, wav: Tensor, sample_rate: int | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """Latents of audio in front of the quantizer: `[B, C, S]` -> float32 `[B, D, T]`, T = ceil(S / hop).

        The arguments are those of `encode`; frames of padding are 0. `quantizer.encode(latents)` gives the
        codes that `encode` gives, `quantizer.decode` of these the quantized latents. Their mean is not 0 and
        their variance is not 1: see `codecvq.api.codec.LatentCodec`.
        """
        wav, mask = self._whole_frames(wav, sample_rate, lengths)
        with self._saved_numerics():
            latents = self._latents_of(wav, mask)
        return latents if mask is None else torch.where(mask[:, None, :], latents, 0.0)

    @torch.no_grad()
    def decode_latents(
        self, latents: Tensor, num_samples: int | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """Audio of latents, quantized or not: `[B, D, T]` of any float type -> float32 `[B, C, num_samples]`.

        The other arguments are those of `decode`. Raises ShapeError for arguments of another type, shape or
        range, NonFiniteError for NaN or infinity in the latents.
        """
        latents = checked_latents(latents, self.latent_dim).to(self.device)
        end = self._output_length(len(latents), latents.shape[2], num_samples, lengths)
        with self._saved_numerics():
            return end.trim(self._wav_of_latents(latents, end.mask))

    def _latents_of(self, wav: Tensor, mask: Tensor | None) -> Tensor:
        if not wav.shape[2]:  # many convolutions refuse an empty signal
            return torch.zeros(len(wav), self.latent_dim, 0, device=self.device)
        latents: Tensor = self.encoder(wav, mask)
        return latents

    def _wav_of_latents(self, latents: Tensor, mask: Tensor | None) -> Tensor:
        if not latents.shape[2]:
            return torch.zeros(len(latents), self.channels, 0, device=self.device)
        wav: Tensor = self.decoder(latents, mask)
        return wav.float()

    def _saved_numerics(self) -> AbstractContextManager[None]:
        """A block that computes as the codec was saved. Raises CodecError for weights of another type."""
        for name, weight in self.named_parameters():
            if weight.dtype != torch.float32:
                raise CodecError(
                    f"weight {name} of codec {self.name!r} is {weight.dtype}, but only float32 weights give "
                    "the codes and samples that it was saved with. Call codec.float(), or load it again."
                )
        return plain_float32(self.device)

    def forward(
        self, wav: Tensor, mask: Tensor | None = None, num_codebooks: int | None = None, parts: bool = False
    ) -> Reconstruction:
        """Audio through the whole codec: `[B, C, S]` with S a multiple of the hop, mask `[B, T]` ->
        `Reconstruction`. With `parts` its `quantized` has what each codebook adds.
        """
        latents = self.encoder(wav, mask)
        quantized = self.quantizer(latents, mask, num_codebooks, parts=parts)
        guide = (wav,) if self.training and getattr(self.decoder, "uses_target_audio", False) else ()
        decoded = self.decoder(quantized.latents, mask, *guide)
        if not isinstance(decoded, AudioWithLosses):
            return Reconstruction(decoded, latents, quantized, quantized.losses)
        own = {f"decoder/{name}": loss for name, loss in decoded.losses.items()}
        return Reconstruction(decoded.wav, latents, quantized, quantized.losses | own)

    # files

    @property
    def config(self) -> dict[str, Any]:
        """What config.json holds: enough to build it again, and to say what its codes are."""
        return {
            "format": FORMAT,
            "name": self.name,
            "codecvq": codecvq.__version__,
            "sample_rate": self.sample_rate,
            "channels": self.channels,
            "network": self.network_config,
            "quantizer": self.quantizer_config,
            "plugins": self._plugins(),
            "hop_length": self.hop_length,
            "frame_rate": [self.frame_rate.numerator, self.frame_rate.denominator],
            "codebook_sizes": list(self.codebook_sizes),
            "weights_sha256": self.weights_sha256,
            "codebooks_sha256": self.codebooks_sha256,
        }

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> Path:
        """The folder, now with config.json and model.safetensors; nothing in it is pickled.

        With `dtype` (`torch.float16`) the weights of encoder and decoder are rounded to it and take half the
        bytes; the quantizer's and all buffers stay as they are, so that codebooks are exact. `load` makes
        float32 of them again, and the hashes in config.json are those of what it gives. Itself is not
        changed: codes of the rounded codec may differ from its own.
        """
        return save_codec(self, Path(folder), dtype)

    def _plugins(self) -> dict[str, dict[str, str]]:
        network = registry().find(NetworkSpec, self.network_config["name"])
        plugins = {"network": network.identity}
        plugins |= {
            part: registration.identity
            for part, registration in quantizer_registrations(self.quantizer_config).items()
        }
        estimators = [member.estimator for member in self.quantizer.quantizers() if member.estimator]
        for n, name in enumerate(dict.fromkeys(estimators)):
            part = f"estimator.{n}" if n else "estimator"
            plugins[part] = registry().find(EstimatorSpec, name).identity
        return plugins


if TYPE_CHECKING:  # `Codec` has all that the protocols ask for
    _latents: type[LatentCodec] = Codec
    _savable: type[SavableCodec] = Codec
