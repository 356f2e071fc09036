"""Transformers teachers with small random networks in folders, and untrusted folders."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from codecvq.errors import MissingExtra, OptionError
from codecvq.losses import Teacher, build_teacher
from codecvq.training import loop
from codecvq.training.checkpoint import last_checkpoint
from codecvq.training.recipe import load_recipe
from recipes import write_recipe

try:
    import transformers
except ImportError:
    transformers = None

needs_transformers = pytest.mark.skipif(transformers is None, reason="needs transformers (extra hf)")
LAYERS = 3
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
WHISPER = {
    "d_model": 16,
    "encoder_layers": LAYERS,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "vocab_size": 50,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
KINDS = {"hubert": "Hubert", "wavlm": "WavLM", "wav2vec2": "Wav2Vec2", "whisper": "Whisper"}


def network(kind: str) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{KINDS[kind]}Config")(**(WHISPER if kind == "whisper" else SMALL))
    return getattr(transformers, f"{KINDS[kind]}Model")(config).eval()


def saved(folder: Path, kind: str = "hubert") -> Path:
    network(kind).save_pretrained(folder)
    return folder


def teacher_of(folder: Path, sample_rate: int = 16000, **options: Any) -> Teacher:
    return build_teacher({"name": "transformers", "model": str(folder), **options}, sample_rate=sample_rate)


def wav_of(seconds: float = 1.0, sample_rate: int = 16000) -> torch.Tensor:
    samples = round(seconds * sample_rate)
    return 0.1 * torch.randn(2, 1, samples, generator=torch.Generator().manual_seed(1))


@needs_transformers
@pytest.mark.parametrize("kind", ["hubert", "wavlm", "wav2vec2"])
def test_features_equal_the_hidden_states_of_the_network(tmp_path: Path, kind: str) -> None:
    folder, wav = saved(tmp_path / kind, kind), wav_of()
    mono = wav[:, 0]
    normalized = (mono - mono.mean(dim=1, keepdim=True)) / (
        mono.var(dim=1, keepdim=True, correction=0) + 1e-7
    ).sqrt()
    with torch.no_grad():
        states = network(kind)(normalized, output_hidden_states=True).hidden_states
    mean, last = teacher_of(folder), teacher_of(folder, layers=[-1])
    assert (mean.dim, mean.frame_rate, mean.first_s) == (16, 50, Fraction(400, 2 * 16000))
    torch.testing.assert_close(mean.features(wav).mT, torch.stack(states).mean(dim=0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(last.features(wav).mT, states[-1], atol=1e-5, rtol=1e-4)
    (folder / "preprocessor_config.json").write_text('{"do_normalize": false, "sampling_rate": 16000}')
    with torch.no_grad():
        plain = network(kind)(mono).last_hidden_state
    features = teacher_of(folder, layers=[LAYERS]).features(wav)
    torch.testing.assert_close(features.mT, plain, atol=1e-5, rtol=1e-4)


@needs_transformers
def test_whisper_features_equal_the_encoder_states_for_any_length(tmp_path: Path) -> None:
    teacher, wav = teacher_of(saved(tmp_path / "whisper", "whisper")), wav_of(30.0)
    inputs = transformers.WhisperFeatureExtractor(feature_size=80)(
        [item.numpy() for item in wav[:, 0]], sampling_rate=16000, return_tensors="pt"
    )
    with torch.no_grad():
        states = network("whisper").encoder(inputs["input_features"], output_hidden_states=True).hidden_states
    features = teacher.features(wav)
    torch.testing.assert_close(features.mT, torch.stack(states).mean(dim=0), atol=1e-4, rtol=1e-3)
    assert teacher.features(wav[..., :16000]).shape == (2, 16, 50)
    torch.testing.assert_close(teacher.features(wav), features), "the positions of all frames are restored"
    with pytest.raises(OptionError, match=r"Whisper supports 0.02 to 30 s, but segments have 31 s"):
        teacher.features(wav_of(31.0))


@needs_transformers
def test_audio_is_resampled_differentiably(tmp_path: Path) -> None:
    teacher = teacher_of(saved(tmp_path / "hubert"), sample_rate=24000)
    wav = wav_of(1.0, 24000).requires_grad_()
    features = teacher.features(wav)
    assert features.shape == (2, 16, 49)
    features.square().mean().backward()
    assert wav.grad is not None
    assert bool((wav.grad.abs().sum(dim=2) > 0).all())
    assert not any(weight.requires_grad for weight in teacher.parameters())
    assert not any(module.training for module in teacher.modules())
    with pytest.raises(OptionError, match=r"the model needs 400 samples at 16 kHz"):
        teacher.features(wav_of(0.01, 24000))


@needs_transformers
def test_training_with_a_teacher_resumes_and_does_not_save_its_weights(tmp_path: Path) -> None:
    teacher = {"name": "transformers", "model": str(saved(tmp_path / "hubert")), "layers": [-1]}
    losses = {
        "distillation": {"weight": 1.0, "teacher": teacher, "distance": "cosine_over_time"},
        "feature_reconstruction": {"weight": 1.0, "teacher": teacher},
    }
    vq = {"name": "residual_vq", "codebook_size": 16, "num_codebooks": 2}
    training = {"steps": 2, "checkpoint_every": 2, "validation_clips": 0, "batch_size": 2}
    recipe = load_recipe(write_recipe(tmp_path / "tiny.yaml", losses=losses, quantizer=vq, training=training))
    loop.train(recipe, tmp_path / "run")
    longer = recipe.model_copy(update={"training": recipe.training.model_copy(update={"steps": 4})})
    assert loop.train(longer, tmp_path / "run").resumed_at == 2
    checkpoint = last_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.step == 4
    names = {"distillation.projection.weight", "distillation.projection.bias"}
    assert checkpoint.state["losses"].keys() == names
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["loss/distillation"] > 0
    assert last["loss/feature_reconstruction"] > 0


@needs_transformers
class TestUntrustedFolders:
    def test_pickled_weights_are_rejected_and_not_read(self, tmp_path: Path) -> None:
        folder = saved(tmp_path / "hubert")
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(pickle_that_writes(tmp_path / "it-ran"))
        with pytest.raises(OptionError, match="no safetensors weights; pickled weights can run code"):
            teacher_of(folder)
        (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "pytorch_model.bin"}}')
        (folder / "other.safetensors").write_bytes(b"")
        with pytest.raises(OptionError):
            teacher_of(folder)
        assert not (tmp_path / "it-ran").exists()

    def test_code_in_the_folder_is_not_run(self, tmp_path: Path) -> None:
        folder = saved(tmp_path / "hubert")
        (folder / "modeling_evil.py").write_text(f"open({str(tmp_path / 'it-ran')!r}, 'w')\n")
        change(folder, auto_map={"AutoModel": "modeling_evil.Evil", "AutoConfig": "modeling_evil.Evil"})
        assert teacher_of(folder).dim == 16
        assert not (tmp_path / "it-ran").exists()
        change(folder, model_type="evil")
        with pytest.raises(OptionError, match="model_type is 'evil'; supported are hubert, wavlm"):
            teacher_of(folder)

    def test_kernels_and_adapters_named_by_the_folder_are_not_loaded(self, tmp_path: Path) -> None:
        folder = saved(tmp_path / "hubert")
        change(folder, attn_implementation="evil/kernels", _attn_implementation="evil/kernels")
        assert teacher_of(folder).network.config._attn_implementation == "sdpa"
        (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/model"}')
        with pytest.raises(OptionError, match="has an adapter or quantized weights"):
            teacher_of(folder)

    def test_missing_weights_raise(self, tmp_path: Path) -> None:
        from safetensors.torch import load_file, save_file

        folder = saved(tmp_path / "hubert")
        weights = load_file(folder / "model.safetensors")
        name = "encoder.layers.0.attention.q_proj.weight"
        del weights[name]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(OptionError, match=rf"lacks 1 weights of the model, such as {name}"):
            teacher_of(folder)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"hidden_size": 10**7}, "too large to be built|could not be loaded"),
            ({"num_hidden_layers": 10**6}, "too large to be built|could not be loaded"),
            ({"conv_stride": "x"}, "could not be loaded|cannot be built"),
        ],
        ids=str,
    )
    def test_an_invalid_configuration_raises(
        self, tmp_path: Path, changes: dict[str, Any], message: str
    ) -> None:
        from codecvq.construction import construction_limits
        from codecvq.training.builders import LIMITS

        folder = saved(tmp_path / "hubert")
        change(folder, **changes)
        with pytest.raises(OptionError, match=message), construction_limits(LIMITS, "the loss"):
            teacher_of(folder)

    def test_layers_out_of_range_raise(self, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match=r"layers is \[9\]; the model has the hidden states 0 to 3"):
            teacher_of(saved(tmp_path / "hubert"), layers=[9])


@needs_transformers
def test_a_model_that_cannot_be_downloaded_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OptionError, match=r"model 'no/such-model' is not a folder and cannot be downloaded"):
        teacher_of(Path("no/such-model"))


def test_missing_transformers_raise_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"pip install 'codecvq\[hf\]'"):
        teacher_of(Path("."))


def change(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def pickle_that_writes(file: Path) -> bytes:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return open, (str(file), "w")

    return pickle.dumps(Evil())
