"""`Codec`: encoder, quantizer and decoder as one model that can be saved, loaded and asked for codes and
audio.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import codecvq
from codecvq.api.hookspecs import EstimatorSpec, NetworkSpec
from codecvq.arguments import (
    checked_codes,
    checked_lengths,
    checked_num_samples,
    checked_sample_rate,
    checked_wav,
)
from codecvq.codec.config import (
    CONFIG,
    FORMAT,
    check_described,
    check_plugin_files,
    missing_plugin,
    named_options,
    read_config,
)
from codecvq.codec.identity import codebooks_hash, earlier_codebooks_hash, earlier_weights_hash, weights_hash
from codecvq.codec.pretrained import codec_factory, codec_offer, unknown_codec
from codecvq.construction import limited
from codecvq.errors import CodecError, OptionError, UnknownName
from codecvq.files import write_atomically
from codecvq.networks.build import build_network
from codecvq.networks.interface import WithLosses
from codecvq.numerics import ordinary_tensors, plain_float32
from codecvq.plugins import registry
from codecvq.plugins.strangers import contained
from codecvq.quantizer import Quantized, build_quantizer
from codecvq.quantizer.build import plain_offer
from codecvq.transfer import usable_device
from codecvq.weights import open_weights, weights_bytes

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Reconstruction:
    """What a codec makes of audio in one pass: for training."""

    wav: Tensor  # [B, C, S]
    quantized: Quantized
    losses: dict[str, Tensor]  # of the quantizer and of the decoder, 0-d each


class Codec(nn.Module):
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
        self._hashes: dict[str, tuple[object, str]] = {}  # what -> versions of the tensors, hash
        self.name, self.sample_rate, self.channels = name, sample_rate, channels
        self.network_config, self.quantizer_config = (
            named_options("network", network),
            named_options("quantizer", quantizer),
        )
        with ordinary_tensors():
            built = build_network(sample_rate=sample_rate, channels=channels, **self.network_config)
            options = dict(self.quantizer_config)
            self.encoder, self.decoder = built.encoder, built.decoder
            self.quantizer = build_quantizer(options.pop("name"), dim=built.dim, **options)
        self.hop_length = built.hop_length
        self._decoder_options = tuple(built.decoder_options)
        if built.check is not None:
            built.check(self.quantizer)

    # what it is

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(iter(self.state_dict().values())).device

    @property
    def frame_rate(self) -> Fraction:
        """Frames a second, exactly."""
        return Fraction(self.sample_rate, self.hop_length)

    @property
    def num_codebooks(self) -> int:
        """N."""
        return self.quantizer.num_codebooks

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """K of each codebook."""
        return self.quantizer.codebook_sizes

    @property
    def bitrate(self) -> float:
        """Nominal bits a second: frame rate times the sum of log2 K."""
        return float(self.frame_rate) * self.quantizer.bits_per_frame

    @property
    def weights_sha256(self) -> str:
        """Of all that changes codes or samples: with equal ones both are identical."""
        return self._kept_hash("weights", lambda tensors: weights_hash(tensors, self._build))

    @property
    def codebooks_sha256(self) -> str:
        """Of the encoder, the quantizer and their options: what gives codes their meaning. Another decoder
        may be trained for them.
        """
        return self._kept_hash(
            "codebooks", lambda tensors: codebooks_hash(tensors, self._build, self._decoder_options)
        )

    @property
    def earlier_weights_sha256(self) -> str:
        """As codec format 1 had it; see `codecvq.codec.identity`."""
        return self._kept_hash("earlier weights", earlier_weights_hash)

    @property
    def earlier_codebooks_sha256(self) -> str:
        """As codec format 1 had it; see `codecvq.codec.identity`."""
        return self._kept_hash(
            "earlier codebooks", lambda tensors: earlier_codebooks_hash(tensors, self.quantizer_config)
        )

    @property
    def _build(self) -> dict[str, Any]:
        """What the codec is built with, apart from its name."""
        return {
            "sample_rate": self.sample_rate,
            "channels": self.channels,
            "network": self.network_config,
            "quantizer": self.quantizer_config,
        }

    def _kept_hash(self, what: str, compute: Callable[[Mapping[str, Tensor]], str]) -> str:
        """The hash, cached in eval mode until a tensor changes, since every file that is written needs it. It
        is not cached in training: fused optimizers change tensors without counting up their version.
        """
        tensors = self.state_dict()
        version = tuple((tensor.data_ptr(), tensor._version) for tensor in tensors.values())
        if self.training or self._hashes.get(what, (None, ""))[0] != version:
            self._hashes[what] = (version, compute(tensors))
        return self._hashes[what][1]

    def train(self, mode: bool = True) -> Codec:
        """Itself in training or eval mode; what was kept of its weights is dropped."""
        self._hashes.clear()
        return super().train(mode)

    @property
    def quantizer_info(self) -> dict[str, Any]:
        """Name, plugin, version and API of the quantizer, for datasets."""
        offer = plain_offer(self.quantizer_config["name"])
        return {**offer.identity, "name": self.quantizer_config["name"], "api": offer.spec.api}

    # audio to codes to audio

    @torch.no_grad()
    def encode(
        self,
        wav: Tensor,
        sample_rate: int | None = None,
        lengths: Tensor | None = None,
        num_codebooks: int | None = None,
    ) -> Tensor:
        """Codes of audio: `[B, C, S]` -> int64 `[B, N, T]`, T = ceil(S / hop).

        Audio at another `sample_rate` (Hz) is resampled. `lengths` `[B]` are the samples of each item that
        are real, of audio as given; frames beyond ceil(length / hop) are padding and 0, and change nothing at
        real ones. Computes in float32, whatever torch's global settings are. Raises ShapeError for arguments
        of another type, shape or range, NonFiniteError for NaN or infinity in the audio.
        """
        wav, rate = checked_wav(wav, self.channels), checked_sample_rate(sample_rate, self.sample_rate)
        lengths = checked_lengths(lengths, len(wav), wav.shape[2], "the audio is no longer")
        wav, lengths = self._at_own_rate(wav, rate, lengths)
        if lengths is not None:  # what is behind an end must be silence, whatever the caller left there
            wav = torch.where(
                torch.arange(wav.shape[2], device=wav.device) < lengths.to(wav.device)[:, None, None],
                wav,
                0.0,
            )
        wav = self._whole_frames(wav)
        mask = self.frame_mask(lengths, wav.shape[2])
        with self._as_saved():
            # many convolutions refuse an empty signal
            empty = torch.zeros(len(wav), self.quantizer.dim, 0, device=self.device)
            latents = self.encoder(wav.to(self.device), mask) if wav.shape[2] else empty
            codes = self.quantizer.encode(latents, num_codebooks)
        return codes if mask is None else codes * mask[:, None, :]

    @torch.no_grad()
    def decode(self, codes: Tensor, num_samples: int | None = None, lengths: Tensor | None = None) -> Tensor:
        """Audio of codes: integers `[B, n, T]` of any type -> float32 `[B, C, num_samples]`, by default T *
        hop samples.

        `lengths` `[B]` are the real samples of each item of a padded batch; what follows them is 0. Computes
        in float32, whatever torch's global settings are. Raises ShapeError for arguments of another type,
        shape or range.
        """
        codes = checked_codes(codes, self.num_codebooks).to(self.device)
        most = codes.shape[2] * self.hop_length
        num_samples = checked_num_samples(num_samples, codes.shape[2], self.hop_length)
        lengths = checked_lengths(lengths, len(codes), most, f"{codes.shape[2]} frames hold no more")
        mask = self.frame_mask(lengths, most)
        with self._as_saved():
            latents = self.quantizer.decode(codes)
            empty = torch.zeros(len(codes), self.channels, 0, device=self.device)
            wav = self.decoder(latents, mask).float() if most else empty
        if lengths is not None:
            wav = torch.where(
                torch.arange(most, device=wav.device) < lengths.to(wav.device)[:, None, None], wav, 0.0
            )
        return wav[:, :, :num_samples]

    def _as_saved(self) -> AbstractContextManager[None]:
        """A block that computes as the codec was saved. Raises CodecError for weights of another type."""
        for name, weight in self.named_parameters():
            if weight.dtype != torch.float32:
                raise CodecError(
                    f"weight {name} of codec {self.name!r} is {weight.dtype}, but only float32 weights give "
                    "the codes and samples that it was saved with. Call codec.float(), or load it again."
                )
        return plain_float32(self.device)

    def forward(
        self, wav: Tensor, mask: Tensor | None = None, num_codebooks: int | None = None
    ) -> Reconstruction:
        """Audio through the whole codec: `[B, C, S]` with S a multiple of the hop, mask `[B, T]` ->
        `Reconstruction`.
        """
        quantized = self.quantizer(self.encoder(wav, mask), mask, num_codebooks)
        guide = (wav,) if self.training and getattr(self.decoder, "takes_recording", False) else ()
        decoded = self.decoder(quantized.latents, mask, *guide)
        if not isinstance(decoded, WithLosses):
            return Reconstruction(decoded, quantized, quantized.losses)
        own = {f"decoder/{name}": loss for name, loss in decoded.losses.items()}
        return Reconstruction(decoded.wav, quantized, quantized.losses | own)

    def frame_mask(self, lengths: Tensor | None, num_samples: int) -> Tensor | None:
        """True at frames that hold a real sample: lengths `[B]` -> `[B, T]`; None for None."""
        if lengths is None:
            return None
        frames = -(-lengths.to(self.device) // self.hop_length)
        return torch.arange(num_samples // self.hop_length, device=self.device) < frames[:, None]

    def _at_own_rate(
        self, wav: Tensor, sample_rate: int, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if sample_rate == self.sample_rate:
            return wav, lengths
        from codecvq.audio import resample

        resampled = torch.from_numpy(resample(wav.cpu().numpy(), sample_rate, self.sample_rate)).to(
            wav.device
        )
        if lengths is not None:
            lengths = -(-lengths * self.sample_rate // sample_rate)
        return resampled, lengths

    def _whole_frames(self, wav: Tensor) -> Tensor:
        return nn.functional.pad(wav, (0, -wav.shape[2] % self.hop_length))

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
        saved, narrow = (self, set[str]()) if dtype is None else self._rounded(dtype)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            name: tensor.detach().to("cpu", dtype if name in narrow else tensor.dtype)
            for name, tensor in saved.state_dict().items()
        }
        write_atomically(folder / WEIGHTS, weights_bytes(weights, {"format": FORMAT}))
        write_atomically(folder / CONFIG, json.dumps(saved.config, indent=2).encode() + b"\n")
        return folder

    def _rounded(self, dtype: torch.dtype) -> tuple[Codec, set[str]]:
        """A copy whose networks hold only values that `dtype` has, and the names of those weights."""
        if dtype not in (torch.float16, torch.bfloat16):
            raise OptionError(
                f"dtype is {dtype}; weights are saved as torch.float16, as torch.bfloat16, or unchanged."
            )
        rounded = copy.deepcopy(self)
        names = set()
        for name, weight in rounded.named_parameters():
            if weight.dtype != torch.float32 or not name.startswith(("encoder.", "decoder.")):
                continue
            narrow = weight.detach().to(dtype)
            if not narrow.isfinite().all():
                raise CodecError(
                    f"weight {name} goes up to {weight.abs().max():.3g}, more than {dtype} holds. Save with "
                    "torch.bfloat16, or without dtype."
                )
            weight.data = narrow.to(weight.dtype)
            names.add(name)
        rounded._hashes.clear()
        return rounded, names

    def _plugins(self) -> dict[str, dict[str, str]]:
        network = registry().find(NetworkSpec, self.network_config["name"])
        plugins = {
            "network": network.identity,
            "quantizer": plain_offer(self.quantizer_config["name"]).identity,
        }
        estimator = getattr(self.quantizer, "estimator", "ste")
        return plugins | {"estimator": registry().find(EstimatorSpec, estimator).identity}


def load(source: str | Path, device: str | torch.device = "cpu") -> Codec:
    """The codec in a folder that `Codec.save` wrote, in a run folder, or registered by a plugin under a name
    ("speech-16k"), in eval mode. A folder that is there goes before a name.

    Raises CodecError when nothing is there or registered, when the folder is incomplete or damaged, or when
    a plugin is missing, and then says which one; OptionError for a device that cannot be used.
    """
    device = usable_device(device)
    offer = codec_offer(source)
    if offer is None:
        if os.path.exists(source):
            return load_folder(source, device)
        raise unknown_codec(source)
    if offer.spec.foreign:
        raise CodecError(
            f"{source} is a codec of others: it has no codes, so it cannot be loaded. Measure it with: "
            f"codecvq compare {source}"
        )
    make = codec_factory(offer)
    with contained():  # a stranger's function
        loaded: Codec = make(device=device)
    return loaded


def load_folder(source: str | Path, device: str | torch.device = "cpu") -> Codec:
    """The codec in a folder that `Codec.save` wrote or in a run folder, in eval mode; see `load`."""
    folder, device = Path(source), usable_device(device)
    if (folder / "codec" / CONFIG).is_file():
        folder = folder / "codec"
    config = read_config(folder)
    check_plugin_files(config)
    with open_weights(folder / WEIGHTS) as weights, ordinary_tensors():
        try:
            with limited(weights.limits, f"the codec in {folder}"):
                codec = Codec(**config.arguments)
        except UnknownName as error:
            raise CodecError(f"{folder}: {missing_plugin(config) or error}") from error
        weights.load_into(codec)
        check_described(config, codec, folder)
        return codec.to(device).eval()
