"""`Codec`: encoder, quantizer and decoder as one model that can be saved, loaded and asked for codes and
audio.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import codecvq
from codecvq.codec_config import CONFIG, FORMAT, check_plugin_files, missing_plugin, read_config
from codecvq.errors import CodecError, OptionError, ShapeError, UnknownName
from codecvq.files import write_atomically
from codecvq.networks.build import build_network
from codecvq.networks.interface import WithLosses
from codecvq.plugins import registry
from codecvq.pretrained import codec_offer, spec_of, unknown_codec
from codecvq.quantizer import Quantized, build_quantizer
from codecvq.quantizer.build import plain_offer

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
            _named("network", network),
            _named("quantizer", quantizer),
        )
        built = build_network(sample_rate=sample_rate, channels=channels, **self.network_config)
        options = dict(self.quantizer_config)
        self.encoder, self.decoder = built.encoder, built.decoder
        self.quantizer = build_quantizer(options.pop("name"), dim=built.dim, **options)
        self.hop_length = built.hop_length
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
        """Of all weights: with equal ones codes and audio are identical."""
        return self._kept_hash("weights", self.state_dict())

    @property
    def codebooks_sha256(self) -> str:
        """Of the encoder, the quantizer and its options: what gives codes their meaning. Another decoder may
        be trained for them.
        """
        parts = {
            name: tensor for name, tensor in self.state_dict().items() if not name.startswith("decoder.")
        }
        return self._kept_hash("codebooks", parts, json.dumps(self.quantizer_config, sort_keys=True))

    def _kept_hash(self, what: str, tensors: Mapping[str, Tensor], text: str = "") -> str:
        """The hash; in eval mode kept until a tensor changes, since every file that is written asks for it.
        In training not: fused optimizers change tensors without counting up their version.
        """
        version = tuple((tensor.data_ptr(), tensor._version) for tensor in tensors.values())
        if self.training or self._hashes.get(what, (None, ""))[0] != version:
            self._hashes[what] = (version, _hash_of(tensors, text))
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
        real ones.
        """
        wav, lengths = self._at_own_rate(self._check_wav(wav), sample_rate, lengths)
        if lengths is not None and bool((lengths > wav.shape[2]).any()):
            raise ShapeError(f"lengths go up to {int(lengths.max())}, the audio has {wav.shape[2]} samples")
        if lengths is not None:  # what stands behind an end must be silence, whatever the caller left there
            wav = torch.where(
                torch.arange(wav.shape[2], device=wav.device) < lengths[:, None, None], wav, 0.0
            )
        wav = self._whole_frames(wav)
        mask = self.frame_mask(lengths, wav.shape[2])
        # networks are not asked for nothing: many convolutions refuse an empty signal
        empty = torch.zeros(len(wav), self.quantizer.dim, 0, device=self.device)
        latents = self.encoder(wav.to(self.device), mask) if wav.shape[2] else empty
        codes = self.quantizer.encode(latents, num_codebooks)
        return codes if mask is None else codes * mask[:, None, :]

    @torch.no_grad()
    def decode(self, codes: Tensor, num_samples: int | None = None, lengths: Tensor | None = None) -> Tensor:
        """Audio of codes: `[B, n, T]` -> float32 `[B, C, num_samples]`, by default T * hop samples.

        `lengths` `[B]` are the real samples of each item of a padded batch; what follows them is 0.
        """
        codes = codes.to(self.device)
        most = codes.shape[-1] * self.hop_length
        if num_samples is not None and not 0 <= num_samples <= most:
            raise ShapeError(
                f"num_samples is {num_samples}; {codes.shape[-1]} frames of {self.hop_length} samples hold 0 "
                f"to {most}. "
                f"Codes are missing, or they were made with another hop."
            )
        mask = self.frame_mask(lengths, most)
        latents = self.quantizer.decode(codes)
        empty = torch.zeros(len(codes), self.channels, 0, device=self.device)
        wav = self.decoder(latents, mask).float() if most else empty
        if lengths is not None:
            wav = torch.where(
                torch.arange(most, device=wav.device) < lengths.to(wav.device)[:, None, None], wav, 0.0
            )
        return wav[:, :, : most if num_samples is None else num_samples]

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

    def _check_wav(self, wav: Tensor) -> Tensor:
        if wav.ndim != 3 or wav.shape[1] != self.channels or not wav.is_floating_point():
            raise ShapeError(
                f"wav is {wav.dtype} {list(wav.shape)}; needed are floats [B, C, S] with C={self.channels}. "
                f"A mono signal [S] is wav[None, None]; average channels first where there are more."
            )
        return wav.float()

    def _at_own_rate(
        self, wav: Tensor, sample_rate: int | None, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if sample_rate is None or sample_rate == self.sample_rate:
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
        from safetensors.torch import save as to_bytes

        saved, narrow = (self, set[str]()) if dtype is None else self._rounded(dtype)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            name: tensor.detach().to("cpu", dtype if name in narrow else tensor.dtype).contiguous()
            for name, tensor in saved.state_dict().items()
        }
        write_atomically(folder / WEIGHTS, to_bytes(weights, metadata={"format": FORMAT}))
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
        network = registry().find("networks", self.network_config["name"])
        plugins = {
            "network": network.identity,
            "quantizer": plain_offer(self.quantizer_config["name"]).identity,
        }
        estimator = getattr(self.quantizer, "estimator", "ste")
        return plugins | {"estimator": registry().find("estimators", estimator).identity}


def load(source: str | Path, device: str | torch.device = "cpu") -> Codec:
    """The codec in a folder that `Codec.save` wrote, in a run folder, or registered by a plugin under a name
    ("speech-16k"), in eval mode. A folder that is there goes before a name.

    Raises CodecError when nothing is there or registered, when the folder is incomplete or damaged, or when
    a plugin is missing, and then says which one.
    """
    offer = codec_offer(source)
    if offer is None:
        if Path(source).exists():
            return load_folder(source, device)
        raise unknown_codec(source)
    if spec_of(offer).foreign:
        raise CodecError(
            f"{source} is a codec of others: it has no codes, so it cannot be loaded. Measure it with: "
            f"codecvq compare {source}"
        )
    return offer.load()(device=device)


def load_folder(source: str | Path, device: str | torch.device = "cpu") -> Codec:
    """The codec in a folder that `Codec.save` wrote or in a run folder, in eval mode; see `load`."""
    folder = Path(source)
    if (folder / "codec" / CONFIG).is_file():
        folder = folder / "codec"
    config = read_config(folder)
    check_plugin_files(config)
    try:
        codec = Codec(
            sample_rate=config["sample_rate"],
            network=config["network"],
            quantizer=config["quantizer"],
            channels=config["channels"],
            name=config["name"],
        )
    except UnknownName as error:
        raise CodecError(f"{folder}: {missing_plugin(config)} ({error})") from error
    _load_weights(codec, folder / WEIGHTS)
    if codec.weights_sha256 != config["weights_sha256"]:
        raise CodecError(
            f"{folder / WEIGHTS} is not the file that {CONFIG} beside it describes (hashes differ). Copy "
            "both again."
        )
    return codec.to(device).eval()


def _load_weights(codec: Codec, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
        codec.load_state_dict(weights)
    except (OSError, SafetensorError) as error:
        raise CodecError(
            f"{path} cannot be read ({error}). The copy is incomplete: copy it again."
        ) from error
    except RuntimeError as error:  # names or shapes do not fit
        raise CodecError(f"{path} does not fit {CONFIG} beside it: {error}") from error


def _hash_of(tensors: Mapping[str, Tensor], text: str = "") -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _named(part: str, options: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(options.get("name"), str):
        raise OptionError(
            f"{part} has no name; given is {dict(options)}. Set {part}.name, as 'fsq' or 'spectral'."
        )
    for key, value in options.items():
        try:
            json.dumps(value)
        except TypeError as error:
            raise OptionError(
                f"{part}.{key} of a codec is a {type(value).__name__}, which config.json cannot hold "
                f"({error}). Give what JSON can: of a class its name, 'plugin:Name'."
            ) from error
    return dict(options)
