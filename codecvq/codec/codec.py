"""`Codec`: encoder, quantizer and decoder as one trainable model that can be saved and loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import codecvq
from codecvq.api.hookspecs import EstimatorSpec, NetworkSpec
from codecvq.api.reach import Reach
from codecvq.arguments import checked_latents
from codecvq.codec.compatibility import short_runs
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
from codecvq.errors import CodecError, OptionError
from codecvq.networks.build import build_network
from codecvq.networks.interface import AudioWithLosses
from codecvq.numerics import plain_float32, trainable_float32
from codecvq.plugins import registry
from codecvq.quantizer import CodeTables, Quantized, build_quantizer
from codecvq.quantizer.build import plain_registration, quantizer_registrations, shorten_config
from codecvq.quantizer.streaming import decode_stream, encode_stream, frames_per_block, latency_frames
from codecvq.streaming import Chain, StreamingModule

if TYPE_CHECKING:
    from codecvq.api.codec import LatentCodec, SavableCodec


@dataclass(frozen=True)
class Reconstruction:
    """Output of a forward pass of `Codec`, for training."""

    wav: Tensor  # [B, C, S]
    latents: Tensor  # [B, D, T] before the quantizer
    quantized: Quantized
    losses: dict[str, Tensor]  # of the quantizer and of the decoder, 0-d each


class Codec(FramedCodec, nn.Module):
    """A codec built from a registered network and quantizer.

    Args:
        sample_rate: Sample rate in Hz.
        network: Registered `name` and options of the network.
        quantizer: Registered `name` and options of the quantizer. The network determines its `dim`.
        channels: Number of audio channels C.
        name: Name in reports and token datasets.

    Raises UnknownName for an unknown network or quantizer, OptionError for invalid options.
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
        #: Tables of `set_code_tables`
        self.own_code_tables: CodeTables | None = None
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

    # properties

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(chain(self.parameters(), self.buffers())).device

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Size K of each codebook."""
        return self.quantizer.codebook_sizes

    @property
    def strides(self) -> tuple[int, ...]:
        """Frames per code of each codebook."""
        return self.quantizer.strides

    @property
    def prefix_decodable(self) -> bool:
        """Whether the first n codebooks decode without the others."""
        return self.quantizer.prefix_decodable

    @property
    def variable_depth(self) -> bool:
        """Whether the number of codes per frame varies."""
        return self.quantizer.variable_depth

    def code_tables(self) -> CodeTables | None:
        """Return the learned code frequencies for the entropy coder of `.cvq` files, or None.

        These are the tables of `set_code_tables`, which are saved with the codec, or those of the quantizer.
        """
        return self.quantizer.code_tables() if self.own_code_tables is None else self.own_code_tables

    def set_code_tables(self, tables: CodeTables | None) -> None:
        """Set the tables that `code_tables` returns and `save` stores; None removes them.

        Codes, samples and hashes of the codec do not change. Raises OptionError if the tables do not match
        the codebooks, or if the quantizer provides tables itself.
        """
        if tables is not None:
            if tables.codebook_sizes != self.codebook_sizes:
                raise OptionError(
                    f"the tables have codebooks of {short_runs(tables.codebook_sizes)} entries, but codec "
                    f"{self.name!r} has {short_runs(self.codebook_sizes)}. Learn tables from its codes."
                )
            if self.quantizer.code_tables() is not None:
                raise OptionError(
                    f"the quantizer {self.quantizer_config['name']!r} of codec {self.name!r} provides code "
                    "tables, which are part of its weights. It needs no others."
                )
        self.own_code_tables = tables

    @property
    def latent_dim(self) -> int:
        """Latent dimension D."""
        return self.quantizer.dim

    @property
    def weights_sha256(self) -> str:
        """Hash of everything that affects codes or samples; equal hashes mean equal codes and samples."""
        return self._cached_hash("weights", lambda tensors: weights_hash(tensors, self._build_arguments))

    @property
    def codebooks_sha256(self) -> str:
        """Hash of the encoder, the quantizer and their options, which define the meaning of codes.

        The decoder is excluded: another decoder can be trained for the same codes.
        """
        return self._cached_hash(
            "codebooks",
            lambda tensors: codebooks_hash(tensors, self._build_arguments, self.network.decoder_options),
        )

    @property
    def earlier_weights_sha256(self) -> str:
        """Hash as defined by codec format 1; see `codecvq.codec.identity`."""
        return self._cached_hash("earlier weights", earlier_weights_hash)

    @property
    def earlier_codebooks_sha256(self) -> str:
        """Hash as defined by codec format 1; see `codecvq.codec.identity`."""
        return self._cached_hash(
            "earlier codebooks", lambda tensors: earlier_codebooks_hash(tensors, self.quantizer_config)
        )

    def matches_codebooks(self, digest: str) -> bool:
        """Whether its codebooks hash starts with `digest`. Hashes of codec format 1 also match."""
        return self.codebooks_sha256.startswith(digest) or self.earlier_codebooks_sha256.startswith(digest)

    def matches_weights(self, digest: str) -> bool:
        """Whether its weights hash starts with `digest`. Hashes of codec format 1 also match."""
        return self.weights_sha256.startswith(digest) or self.earlier_weights_sha256.startswith(digest)

    @property
    def _build_arguments(self) -> dict[str, Any]:
        """Constructor arguments, without the name."""
        return {
            "sample_rate": self.sample_rate,
            "channels": self.channels,
            "network": self.network_config,
            "quantizer": self.quantizer_config,
        }

    def _cached_hash(self, what: str, compute: Callable[[Mapping[str, Tensor]], str]) -> str:
        """Return the hash `what`, cached in eval mode.

        In training mode nothing is cached: fused optimizers change tensors without incrementing their
        version.
        """
        if self.training:
            self._hashes.clear()
        tensors = self.state_dict()
        return self._hashes.get(what, tensors, lambda: compute(tensors))

    def train(self, mode: bool = True) -> Codec:
        """Set training or eval mode, clear cached hashes, and return the codec."""
        self._hashes.clear()
        return super().train(mode)

    @property
    def quantizer_info(self) -> dict[str, Any]:
        """Quantizer metadata that datasets record: name, plugin, version, api."""
        registration = plain_registration(self.quantizer_config["name"])
        return {**registration.identity, "name": self.quantizer_config["name"], "api": registration.spec.api}

    # encoding and decoding

    def _encode_padded(self, wav: Tensor, mask: Tensor | None, num_codebooks: int | None) -> Tensor:
        with self._exact_float32():
            return self.quantizer.encode(self._encode_latents(wav, mask), num_codebooks, mask)

    def _decode_padded(self, codes: Tensor, mask: Tensor | None) -> Tensor:
        with self._exact_float32():
            return self._decode_latents(self.quantizer.decode(codes, mask), mask)

    @torch.no_grad()
    def encode_latents(
        self, wav: Tensor, sample_rate: int | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """Encode audio `[B, C, S]` to latents before quantization, float32 `[B, D, T]`, T = ceil(S / hop).

        The arguments are the same as for `encode`; padding frames are 0. `quantizer.encode(latents)` returns
        the codes of `encode`, and `quantizer.decode` of these codes returns the quantized latents. Latents
        are not normalized: see `codecvq.api.codec.LatentCodec`.
        """
        wav, mask = self._pad_to_frames(wav, sample_rate, lengths)
        with self._exact_float32():
            latents = self._encode_latents(wav, mask)
        return latents if mask is None else torch.where(mask[:, None, :], latents, 0.0)

    @torch.no_grad()
    def decode_latents(
        self, latents: Tensor, num_samples: int | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """Decode latents `[B, D, T]` of any float type, quantized or not, to audio `[B, C, num_samples]`.

        The audio is float32. The other arguments are the same as for `decode`. Raises ShapeError for
        arguments of the wrong type, shape or range, NonFiniteError for NaN or infinity in the latents.
        """
        latents = checked_latents(latents, self.latent_dim).to(self.device)
        length = self._output_length(len(latents), latents.shape[2], num_samples, lengths)
        with self._exact_float32():
            return length.trim(self._decode_latents(latents, length.mask))

    # streams

    def _survey(self, recording: Callable[[], Iterable[Tensor]]) -> Tensor | None:
        with self._exact_float32():
            return self.network.survey(recording)

    def _encoder_stream(self, num_codebooks: int, survey: Tensor | None) -> StreamingModule:
        self._check_float32()
        return Chain([self.network.encoder_stream(survey), encode_stream(self.quantizer, num_codebooks)])

    def _decoder_stream(self) -> StreamingModule:
        self._check_float32()
        return Chain([decode_stream(self.quantizer), self.network.decoder_stream()])

    @property
    def decoder_reach(self) -> Reach | None:
        """Frames before and after a frame whose codes affect its audio; None if the network declares none."""
        decoder, quantizer = self.network.decoder_reach, self.quantizer.block_reach
        if decoder is None:
            return None
        future = latency_frames(self.quantizer, decoder.future) - 1
        if decoder.past is None or quantizer.past is None:
            return Reach(None, future)
        return Reach(decoder.past + frames_per_block(self.quantizer) - 1 + quantizer.past, future)

    @property
    def latency_samples(self) -> int | None:
        """Algorithmic latency in samples: the hop, and the lookahead of encoder, quantizer and decoder.

        Decoded audio up to sample s depends on no sample from s + latency on. None if the network declares no
        reach.
        """
        encoder, decoder = self.network.encoder_reach, self.network.decoder_reach
        if encoder is None or decoder is None:
            return None
        return encoder.future + self.hop_length * latency_frames(self.quantizer, decoder.future)

    def _encode_latents(self, wav: Tensor, mask: Tensor | None) -> Tensor:
        if not wav.shape[2]:  # many convolutions raise for empty input
            return torch.zeros(len(wav), self.latent_dim, 0, device=self.device)
        latents: Tensor = self.encoder(wav, mask)
        return latents

    def _decode_latents(self, latents: Tensor, mask: Tensor | None) -> Tensor:
        if not latents.shape[2]:
            return torch.zeros(len(latents), self.channels, 0, device=self.device)
        wav: Tensor = self.decoder(latents, mask)
        return wav.float()

    def _exact_float32(self) -> AbstractContextManager[None]:
        """Context manager for exact float32 computation. Raises CodecError if weights are not float32."""
        self._check_float32()
        return plain_float32(self.device)

    def _check_float32(self) -> None:
        """Raise CodecError if weights are not float32."""
        for name, weight in self.named_parameters():
            if weight.dtype != torch.float32:
                raise CodecError(
                    f"weight {name} of codec {self.name!r} is {weight.dtype}, but only float32 weights give "
                    "the codes and samples of the saved codec. Call codec.float(), or load it again."
                )

    def forward(
        self, wav: Tensor, mask: Tensor | None = None, num_codebooks: int | None = None, parts: bool = False
    ) -> Reconstruction:
        """Run the whole codec on audio `[B, C, S]`, S a multiple of the hop, with mask `[B, T]`.

        With `parts`, `quantized` of the result contains the contribution of each codebook.
        """
        latents = self.encoder(wav, mask)
        quantized = self.quantizer(latents, mask, num_codebooks, parts=parts)
        target = (wav,) if self.training and getattr(self.decoder, "uses_target_audio", False) else ()
        decoded = self.decoder(quantized.latents, mask, *target)
        if not isinstance(decoded, AudioWithLosses):
            return Reconstruction(decoded, latents, quantized, quantized.losses)
        decoder_losses = {f"decoder/{name}": loss for name, loss in decoded.losses.items()}
        return Reconstruction(decoded.wav, latents, quantized, quantized.losses | decoder_losses)

    # files

    @property
    def config(self) -> dict[str, Any]:
        """Content of config.json: the constructor arguments, and metadata of codes and plugins."""
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
        """Write config.json and model.safetensors to `folder`, and return the folder. Nothing is pickled.

        Tables of `set_code_tables` are written to code_tables.json. Without them, a code_tables.json of the
        same codebooks stays in the folder, and one of other codebooks is deleted.

        With `dtype` (`torch.float16` or `torch.bfloat16`) the weights of encoder and decoder are rounded to
        it and take half the bytes. The quantizer and all buffers are stored exactly. `load` converts the
        weights to float32, and the hashes in config.json are those of the loaded codec. The codec in memory
        does not change, so its codes can differ from those of the rounded codec.

        Raises OptionError for another dtype, CodecError if a weight is out of its range.
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


if TYPE_CHECKING:  # static check: `Codec` implements the protocols
    _latents: type[LatentCodec] = Codec
    _savable: type[SavableCodec] = Codec
