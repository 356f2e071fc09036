"""Teachers from the transformers library: HuBERT, WavLM, wav2vec 2.0, and the encoder of Whisper.

A recipe names a folder or a model on the Hugging Face hub. Both are untrusted, and none of their code runs:
only config.json, preprocessor_config.json and safetensors weights are downloaded, the class is one of the
four below, and pickled weights, adapters and quantized weights raise an error.
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
SAMPLE_RATE = 16000  # Hz, of all these models
OPTIONAL_WEIGHTS = ("masked_spec_embed",)  # only used for masked pretraining; missing in some folders


class TransformersTeacher(Teacher):
    """Mean of hidden states of a network, for audio of any sample rate.

    Args:
        layers: indices of hidden states; 0 is the input of the first layer, -1 the output of the last. None:
            the mean of all, as in SpeechTokenizer.
        count: number of layers of the network.
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
                f"{count}, or from the end -1 to {-count - 1}."
            )
        self.layers = layers
        self.resample: nn.Module = nn.Identity()
        if sample_rate != SAMPLE_RATE:
            self.resample = torchaudio.transforms.Resample(sample_rate, SAMPLE_RATE)

    def features(self, wav: Tensor) -> Tensor:
        """Return features of audio: `[B, C, S]` -> `[B, dim, frames]`; averages the channels."""
        states = self.hidden_states(self.resample(wav.mean(dim=1)))
        chosen = states if self.layers is None else [states[layer] for layer in self.layers]
        return torch.stack(list(chosen)).mean(dim=0).float().mT

    def hidden_states(self, wav: Tensor) -> Sequence[Tensor]:
        """Return the input of the first layer and the output of each: mono `[B, S]` -> `[B, frames, dim]`."""
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
        self.min_samples = receptive_field  # minimum number of samples: the receptive field of one frame
        self.frame_rate = Fraction(SAMPLE_RATE, prod(strides))
        self.first_s = Fraction(receptive_field, 2 * SAMPLE_RATE)

    def hidden_states(self, wav: Tensor) -> Sequence[Tensor]:
        """Return the input of the first layer and the output of each: `[B, S]` -> `[B, frames, dim]`."""
        if wav.shape[1] < self.min_samples:
            raise OptionError(
                f"teacher transformers: the model needs {self.min_samples} samples at 16 kHz, but segments "
                f"have {wav.shape[1]}. Increase corpus.segment_s."
            )
        if self.normalized:
            centered = wav - wav.mean(dim=1, keepdim=True)
            wav = centered / (centered.square().mean(dim=1, keepdim=True) + 1e-7).sqrt()
        return self.network(wav, output_hidden_states=True).hidden_states


class WhisperTeacher(TransformersTeacher):
    """The encoder of Whisper, applied to the segment without padding it to 30 s."""

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
        """Return the input of the first layer and the output of each: `[B, S]` -> `[B, frames, dim]`."""
        mel = self.log_mel(wav)
        frames = mel.shape[2] // 2
        if not 1 <= frames <= len(self.positions):
            raise OptionError(
                f"teacher transformers: Whisper supports 0.02 to {len(self.positions) / 50:g} s, but "
                f"segments have {wav.shape[1] / SAMPLE_RATE:g} s. Change corpus.segment_s."
            )
        encoder = self.network
        if encoder.embed_positions.num_embeddings != frames:  # it requires as many frames as positions
            encoder.embed_positions = nn.Embedding.from_pretrained(self.positions[:frames], freeze=True)
            encoder.config.max_source_positions = frames
        return encoder(mel[:, :, : 2 * frames], output_hidden_states=True).hidden_states

    def log_mel(self, wav: Tensor) -> Tensor:
        """Return Whisper's input features: `[B, S]` -> `[B, mels, frames]`."""
        spectra = torch.stft(wav, self.WINDOW, self.HOP, window=self.window, return_complex=True)
        powers = spectra[..., :-1].real.square() + spectra[..., :-1].imag.square()
        levels = (self.filters.mT @ powers).clamp(min=1e-10).log10()
        loudest = levels.amax(dim=(1, 2), keepdim=True)
        return (torch.maximum(levels, loudest - 8.0) + 4.0) / 4.0


def build_transformers_teacher(
    sample_rate: int, model: str, layers: list[int] | None = None, revision: str | None = None
) -> TransformersTeacher:
    """Load a teacher from a folder that `save_pretrained` wrote, or from the Hugging Face hub.

    Args:
        sample_rate: of the audio, in Hz.
        model: a folder, or the name of a model on the hub.
        layers: see `TransformersTeacher`.
        revision: the commit on the hub.

    Raises MissingExtra if transformers is not installed, and OptionError if the model cannot be loaded.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingExtra("teacher transformers", "transformers", "hf") from error
    folder = _model_folder(model, revision)
    config = _read_config(folder)
    kind = config.get("model_type")
    if kind not in CLASSES:
        raise OptionError(f"{folder}: model_type is {kind!r}; supported are {', '.join(CLASSES)}.")
    network_class = getattr(transformers, CLASSES[kind])
    try:
        network, loading_info = network_class.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            attn_implementation="eager"
            if kind == "wavlm"
            else "sdpa",  # never a kernel that the folder selects
        )
    except (
        OSError,
        ValueError,
        TypeError,
        RuntimeError,
        KeyError,
    ) as error:  # all that an invalid folder can raise
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
    """Return the folder of a model, downloading it from the hub if `model` is not a folder."""
    if Path(model).is_dir():
        return Path(model)
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtra("teacher transformers", "huggingface_hub", "hf") from error
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=FILES))
    except (OSError, ValueError) as error:  # unknown name or no network: errors of the hub have both types
        reason = str(error).splitlines()[0][:200]
        raise OptionError(
            f"teacher transformers: model {model!r} is not a folder and cannot be downloaded ({reason}). "
            "Give a folder that save_pretrained wrote, or a name such as microsoft/wavlm-base-plus."
        ) from error


def _read_config(folder: Path) -> Mapping[str, Any]:
    """Read the configuration of a model folder. Raises OptionError if the folder is not supported."""
    config = _read_json(folder / "config.json")
    if not config:
        raise OptionError(f"{folder} has no config.json. Give a folder that save_pretrained wrote.")
    if not list(folder.glob("*.safetensors")):
        raise OptionError(
            f"{folder} has no safetensors weights; pickled weights can run code and are not loaded. If you "
            "trust them, convert them: model.save_pretrained(FOLDER) of transformers writes safetensors."
        )
    if (folder / "adapter_config.json").exists() or config.get("quantization_config"):
        raise OptionError(f"{folder} has an adapter or quantized weights; plain weights are needed.")
    return config


def _read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file; empty if the file does not exist."""
    if not path.is_file():
        return {}
    return read_json(path, error=OptionError)


def _check_complete(folder: Path, missing: Sequence[str]) -> None:
    """Raise OptionError if weights are missing: they would be initialized randomly."""
    missing_weights = sorted(key for key in missing if not key.endswith(OPTIONAL_WEIGHTS))
    if missing_weights:
        raise OptionError(
            f"{folder} lacks {len(missing_weights)} weights of the model, such as {missing_weights[0]}: "
            "it is incomplete, or belongs to another model."
        )
