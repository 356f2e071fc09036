"""Teachers of the transformers library: HuBERT, WavLM, wav2vec 2.0, and the encoder of Whisper.

A recipe names a folder or a model of the Hugging Face hub, and both may be a stranger's: nothing of theirs is
run. Of a hub only config.json, preprocessor_config.json and weights in safetensors are downloaded, the class
is one of the four here, and pickled weights, adapters and quantized weights are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codecvq.errors import MissingExtra, OptionError
from codecvq.json_file import read_json
from codecvq.losses.teacher import Teacher
from codecvq.networks.fourier import mel_filters

CLASSES = {
    "hubert": "HubertModel",
    "wavlm": "WavLMModel",
    "wav2vec2": "Wav2Vec2Model",
    "whisper": "WhisperModel",
}
FILES = ["config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json"]
SAMPLE_RATE = 16000  # of all these models
OPTIONAL_WEIGHTS = ("masked_spec_embed",)  # a weight of training with masks, which some folders lack


class TransformersTeacher(Teacher):
    """Hidden states of a network, mean over `layers`, at the rate of the audio given.

    Args: `layers` numbers of hidden states, 0 what enters the first layer and -1 what leaves the last; None
    for the mean of all, as SpeechTokenizer takes.
    """

    def __init__(
        self, sample_rate: int, network: nn.Module, layers: Sequence[int] | None, count: int
    ) -> None:
        super().__init__()
        import torchaudio

        self.network: Any = network  # Any: a class of an optional library
        known = range(-count - 1, count + 1)
        if layers is not None and (not layers or any(layer not in known for layer in layers)):
            raise OptionError(
                f"teacher transformers: layers is {list(layers)}; the model has the hidden states 0 to "
                f"{count}, or from its end -1 to {-count - 1}."
            )
        self.layers = layers
        self.resample: nn.Module = nn.Identity()
        if sample_rate != SAMPLE_RATE:
            self.resample = torchaudio.transforms.Resample(sample_rate, SAMPLE_RATE)

    def features(self, wav: Tensor) -> Tensor:
        """Features of audio: `[B, C, S]` -> `[B, dim, frames]`; channels are averaged."""
        states = self.hidden_states(self.resample(wav.mean(dim=1)))
        chosen = states if self.layers is None else [states[layer] for layer in self.layers]
        return torch.stack(list(chosen)).mean(dim=0).float().mT

    def hidden_states(self, wav: Tensor) -> Sequence[Tensor]:
        """What enters the first layer and what leaves each: mono `[B, S]` -> `[B, frames, dim]` each."""
        raise NotImplementedError(f"{type(self).__name__} must define hidden_states(wav)")


class Wav2Vec2Teacher(TransformersTeacher):
    """HuBERT, WavLM or wav2vec 2.0: convolutions over samples, then transformer layers."""

    def __init__(
        self,
        sample_rate: int,
        network: nn.Module,
        layers: Sequence[int] | None,
        config: Any,
        normalized: bool,
    ) -> None:
        super().__init__(sample_rate, network, layers, config.num_hidden_layers)
        self.dim, self.normalized = config.hidden_size, normalized
        strides, kernels = list(config.conv_stride), list(config.conv_kernel)
        receptive_field = 1 + sum((kernel - 1) * prod(strides[:n]) for n, kernel in enumerate(kernels))
        self.shortest = receptive_field  # samples that a frame is made of
        self.frame_rate = Fraction(SAMPLE_RATE, prod(strides))
        self.first_s = Fraction(receptive_field, 2 * SAMPLE_RATE)

    def hidden_states(self, wav: Tensor) -> Sequence[Tensor]:
        """What enters the first layer and what leaves each: `[B, S]` -> `[B, frames, dim]` each."""
        if wav.shape[1] < self.shortest:
            raise OptionError(
                f"teacher transformers: the model needs {self.shortest} samples at 16 kHz, and segments have "
                f"{wav.shape[1]}. Set a longer corpus.segment_s."
            )
        if self.normalized:
            centered = wav - wav.mean(dim=1, keepdim=True)
            wav = centered / (centered.square().mean(dim=1, keepdim=True) + 1e-7).sqrt()
        return self.network(wav, output_hidden_states=True).hidden_states


class WhisperTeacher(TransformersTeacher):
    """The encoder of Whisper, of the segment itself: it is not padded to 30 s."""

    filters: Tensor  # [201, mels]
    window: Tensor  # [400]
    positions: Tensor  # [1500, dim]
    WINDOW, HOP = 400, 160

    def __init__(
        self, sample_rate: int, network: nn.Module, layers: Sequence[int] | None, config: Any
    ) -> None:
        super().__init__(sample_rate, network, layers, config.encoder_layers)
        self.dim = config.d_model
        self.frame_rate, self.first_s = Fraction(SAMPLE_RATE, 2 * self.HOP), Fraction(0)
        filters = mel_filters(SAMPLE_RATE, self.WINDOW, config.num_mel_bins, norm="slaney")
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("window", torch.hann_window(self.WINDOW), persistent=False)
        self.register_buffer("positions", self.network.embed_positions.weight.detach(), persistent=False)

    def hidden_states(self, wav: Tensor) -> Sequence[Tensor]:
        """What enters the first layer and what leaves each: `[B, S]` -> `[B, frames, dim]` each."""
        mel = self.log_mel(wav)
        frames = mel.shape[2] // 2
        if not 1 <= frames <= len(self.positions):
            raise OptionError(
                f"teacher transformers: Whisper takes 0.02 to {len(self.positions) / 50:g} s, and segments "
                f"have {wav.shape[1] / SAMPLE_RATE:g} s. Change corpus.segment_s."
            )
        encoder = self.network
        if encoder.embed_positions.num_embeddings != frames:  # it takes as many frames as it has positions
            encoder.embed_positions = nn.Embedding.from_pretrained(self.positions[:frames], freeze=True)
            encoder.config.max_source_positions = frames
        return encoder(mel[:, :, : 2 * frames], output_hidden_states=True).hidden_states

    def log_mel(self, wav: Tensor) -> Tensor:
        """Whisper's features of audio: `[B, S]` -> `[B, mels, frames]`."""
        spectra = torch.stft(wav, self.WINDOW, self.HOP, window=self.window, return_complex=True)
        powers = spectra[..., :-1].real.square() + spectra[..., :-1].imag.square()
        levels = (self.filters.mT @ powers).clamp(min=1e-10).log10()
        loudest = levels.amax(dim=(1, 2), keepdim=True)
        return (torch.maximum(levels, loudest - 8.0) + 4.0) / 4.0


def build_transformers_teacher(
    sample_rate: int, model: str, layers: list[int] | None = None, revision: str | None = None
) -> TransformersTeacher:
    """The teacher of a folder that `save_pretrained` wrote, or of a model of the hub.

    Args: `model` a folder, or the name of a model on the hub; `layers` see `TransformersTeacher`; `revision`
    the commit on the hub. Raises MissingExtra where transformers is not installed, and OptionError.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingExtra("teacher transformers", "transformers", "hf") from error
    folder = _model_folder(model, revision)
    config = _read_config(folder)
    kind = config.get("model_type")
    if kind not in CLASSES:
        raise OptionError(f"{folder}: model_type is {kind!r}; needed is one of {', '.join(CLASSES)}.")
    network_class = getattr(transformers, CLASSES[kind])
    try:
        network, loading_info = network_class.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            attn_implementation="eager" if kind == "wavlm" else "sdpa",  # never a kernel that a folder names
        )
    except (OSError, ValueError, TypeError, RuntimeError, KeyError) as error:  # whatever a bad folder gives
        raise OptionError(f"{folder} could not be loaded: {type(error).__name__}: {error}") from error
    encoder = network.float().encoder if kind == "whisper" else network.float()
    _check_complete(
        folder, [key for key in loading_info["missing_keys"] if kind != "whisper" or "encoder" in key]
    )
    if kind == "whisper":
        return WhisperTeacher(sample_rate, encoder, layers, network.config)
    normalized = _read_json(folder / "preprocessor_config.json").get("do_normalize", True)
    return Wav2Vec2Teacher(sample_rate, encoder, layers, network.config, bool(normalized))


def _model_folder(model: str, revision: str | None) -> Path:
    """The folder of a model: it is one, or the hub's files of it were downloaded."""
    if Path(model).is_dir():
        return Path(model)
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtra("teacher transformers", "huggingface_hub", "hf") from error
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=FILES))
    except (OSError, ValueError) as error:  # no such name, no network: the hub's errors are both
        reason = str(error).splitlines()[0][:200]
        raise OptionError(
            f"teacher transformers: model {model!r} is no folder, and the hub did not give it ({reason}). "
            "Give the folder that save_pretrained wrote, or a name as microsoft/wavlm-base-plus."
        ) from error


def _read_config(folder: Path) -> Mapping[str, Any]:
    """The configuration in a folder. Raises OptionError where the folder holds what is not loaded."""
    config = _read_json(folder / "config.json")
    if not config:
        raise OptionError(f"{folder} has no config.json. Give a folder that save_pretrained wrote.")
    if not list(folder.glob("*.safetensors")):
        raise OptionError(
            f"{folder} has no weights in safetensors; pickled ones can run code and are not read. Convert "
            "them where you trust them: model.save_pretrained(FOLDER) of transformers writes safetensors."
        )
    if (folder / "adapter_config.json").exists() or config.get("quantization_config"):
        raise OptionError(f"{folder} holds an adapter or quantized weights; needed are plain weights.")
    return config


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none."""
    if not path.is_file():
        return {}
    return read_json(path, error=OptionError)


def _check_complete(folder: Path, missing: Sequence[str]) -> None:
    """Raise OptionError where weights are missing: they would be random numbers."""
    lacking = sorted(key for key in missing if not key.endswith(OPTIONAL_WEIGHTS))
    if lacking:
        raise OptionError(
            f"{folder} lacks {len(lacking)} weights of the model, as {lacking[0]}: it is incomplete, or of "
            "another model."
        )
