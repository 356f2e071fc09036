"""Feature losses: teachers, the alignment of their frames with codec frames, and training."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from codecvq.data.corpus import open_corpus
from codecvq.errors import OptionError, UnknownName
from codecvq.losses import LossInputs, Teacher, build_loss, build_teacher
from codecvq.losses.alignment import Alignment
from codecvq.losses.feature_distance import feature_distance
from codecvq.training import loop
from codecvq.training.builders import build_codec
from codecvq.training.checkpoint import last_checkpoint
from codecvq.training.learner import Learner
from codecvq.training.recipe import load_recipe
from recipes import write_recipe

VQ = {"name": "residual_vq", "codebook_size": 16, "codebook_dim": 4, "num_codebooks": 2, "dropout": 0.5}


class Times(Teacher):
    """A teacher whose feature is the time of each frame in seconds."""

    dim = 1

    def __init__(self, frame_rate: Fraction, first_s: Fraction) -> None:
        super().__init__()
        self.frame_rate, self.first_s = frame_rate, first_s

    def features(self, wav: Tensor) -> Tensor:
        count = int(wav.shape[2] / 16000 * self.frame_rate)
        return (torch.arange(count) / float(self.frame_rate) + float(self.first_s)).expand(len(wav), 1, count)


def speech(count: int = 2, seconds: float = 1.0) -> Tensor:
    """Real speech: `[B, 1, S]` at 16 kHz."""
    clips = [c for c in open_corpus("prompts").clips if (c.duration_s or 0) > seconds + 0.3][:count]
    samples = [clip.read(16000)[2000 : 2000 + round(seconds * 16000)] for clip in clips]
    return torch.from_numpy(np.stack(samples))[:, None]


@pytest.mark.parametrize("hop", [160, 320, 333, 1280])
@pytest.mark.parametrize("rate", [Fraction(50), Fraction(100), Fraction(16000, 333)], ids=str)
def test_aligned_features_have_the_times_of_the_codec_frames(rate: Fraction, hop: int) -> None:
    teacher = Times(rate, 1 / rate / 2)
    features = teacher.features(torch.zeros(2, 1, 32000))
    frames = 32000 // hop
    aligned = Alignment(teacher, 16000, hop)(features, frames)
    times = (torch.arange(frames) + 0.5) * hop / 16000
    wide = float(max(1 / rate, Fraction(hop, 16000)))
    inner = (times > wide) & (times < float(features[0, 0, -1]) - wide)
    assert int(inner.sum()) > frames // 2
    exact = hop / 16000 <= float(1 / rate)  # interpolation is exact, a mean over frames is not
    atol = 1e-5 if exact else float(1 / rate) / 2
    torch.testing.assert_close(aligned[0, 0, inner], times[inner], atol=atol, rtol=0)


def test_equal_frame_rates_need_no_interpolation_and_ends_are_repeated() -> None:
    teacher = Times(Fraction(50), Fraction(1, 100))  # the frame centers of a hop of 320 at 16 kHz
    features = torch.randn(1, 3, 49)
    aligned = Alignment(teacher, 16000, 320)(features, 50)
    torch.testing.assert_close(aligned[..., :49], features)
    torch.testing.assert_close(aligned[..., 49], features[..., 48])


def test_alignment_preserves_constants() -> None:
    weights = Alignment(Times(Fraction(50), Fraction(1, 80)), 24000, 1920).weights(149, 38)  # 12.5 Hz
    torch.testing.assert_close(weights.sum(dim=0), torch.ones(38))
    assert int((weights > 0).sum(dim=0).max()) == 8, "two codec frames of four teacher frames, as in Mimi"


class TestDistances:
    def test_distances_match_their_definitions(self) -> None:
        a, s = torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(2, 3, 5, dtype=torch.float64)
        weights = torch.tensor([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1]], dtype=torch.float64)
        for b in range(2):
            on = weights[b].bool()
            x, y = a[b][:, on], s[b][:, on]
            per_frame = [
                1 - float(x[:, t] @ y[:, t] / x[:, t].norm() / y[:, t].norm()) for t in range(on.sum())
            ]
            per_channel = [float(x[d] @ y[d] / x[d].norm() / y[d].norm()) for d in range(3)]
            wanted = {
                "cosine": sum(per_frame) / len(per_frame),
                "cosine_over_time": sum(math.log1p(math.exp(-c)) for c in per_channel) / 3,
                "l1": float((x - y).abs().mean()),
            }
            for kind, value in wanted.items():
                found = feature_distance(kind, a, s, weights)  # type: ignore[arg-type]
                assert float(found[b]) == pytest.approx(value), kind

    @pytest.mark.parametrize("kind", ["cosine", "cosine_over_time", "l1"])
    def test_an_item_without_frames_has_distance_zero(self, kind: Any) -> None:
        weights = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
        found = feature_distance(kind, torch.randn(2, 3, 2), torch.randn(2, 3, 2), weights)
        assert float(found[0]) == 0
        assert float(found[1]) > 0


class TestTeachers:
    @pytest.mark.parametrize("name", ["log_mel", "mfcc"])
    def test_teachers_have_the_declared_shapes(self, name: str) -> None:
        teacher = build_teacher(name, sample_rate=16000)
        wav = speech().requires_grad_()
        features = teacher.features(wav)
        assert features.shape == (2, teacher.dim, 101)
        assert teacher.frame_rate == 100
        torch.testing.assert_close(features.mean(dim=2), torch.zeros(2, teacher.dim), atol=1e-4, rtol=0)
        torch.testing.assert_close(
            features.square().mean(dim=2), torch.ones(2, teacher.dim), atol=0.01, rtol=0
        )
        features.abs().mean().backward()
        assert wav.grad is not None
        assert bool(wav.grad.isfinite().all())
        assert not teacher.training
        assert not teacher.train().training
        assert not any(weight.requires_grad for weight in teacher.parameters())

    def test_cepstra_correlate_with_those_of_librosa(self) -> None:
        librosa = pytest.importorskip("librosa")
        wav = speech(1)
        ours = build_teacher({"name": "mfcc", "coefficients": 13, "bands": 40}, sample_rate=16000)
        theirs = librosa.feature.mfcc(
            y=wav[0, 0].numpy(), sr=16000, n_mfcc=13, n_mels=40, n_fft=400, hop_length=160, norm="ortho"
        )
        mine, other = ours.features(wav)[0, :13].numpy(), torch.from_numpy(theirs)
        other = (
            (other - other.mean(dim=1, keepdim=True)) / other.std(dim=1, keepdim=True, correction=0)
        ).numpy()
        similar = [float(np.corrcoef(mine[k], other[k])[0, 1]) for k in range(13)]
        assert min(similar[1:]) > 0.9, similar

    def test_silence_has_finite_features_and_gradients(self) -> None:
        for name in ("log_mel", "mfcc"):
            wav = torch.zeros(1, 1, 16000, requires_grad=True)
            build_teacher(name, sample_rate=16000).features(wav).abs().mean().backward()
            assert wav.grad is not None
            assert bool(wav.grad.isfinite().all())

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"bands": 3}, "needed is a name, such as mfcc"),
            ("hubert", "no teacher named 'hubert'"),
            ({"name": "mfcc", "bend": 3}, "teacher 'mfcc' has no option 'bend'.*Did you mean 'bands'"),
            ({"name": "mfcc", "coefficients": 100}, "coefficients is 100; it must be 1 to"),
            ({"name": "log_mel", "bands": 10**6}, "bands is 1000000; it must be 1 to"),
        ],
        ids=str,
    )
    def test_a_wrong_teacher_is_an_error(self, options: Any, says: str) -> None:
        with pytest.raises((OptionError, UnknownName), match=says):
            build_teacher(options, sample_rate=16000)


class TestDistillation:
    def test_gradients_reach_encoder_and_projection_but_not_the_teacher(self, tmp_path: Path) -> None:
        losses = {"mel": 0, "distillation": {"weight": 1.0, "teacher": "mfcc"}}
        recipe = load_recipe(write_recipe(tmp_path / "tiny.yaml", quantizer=VQ, losses=losses))
        learner = Learner(recipe, "codec", Accelerator(cpu=True))
        learner.step(0, speech(4, 0.5))
        assert all(
            each.grad is not None and bool(each.grad.abs().sum() > 0)
            for each in (*learner.codec.encoder.parameters(), *learner.losses.parameters.values())
        )
        assert set(learner.losses.parameters) == {
            "losses.distillation.projection.weight",
            "losses.distillation.projection.bias",
        }

    def test_only_the_first_codebook_is_distilled(self, tmp_path: Path) -> None:
        recipe = load_recipe(write_recipe(tmp_path / "tiny.yaml", quantizer=VQ))
        codec, wav = build_codec(recipe), speech(2, 0.5)
        parts = tuple(torch.randn(2, 8, 50, requires_grad=True) for _ in range(2))
        loss = build_loss("distillation", sample_rate=16000, teacher="mfcc")
        loss.setup(codec)
        assert loss.uses_parts
        inputs = LossInputs(decoded=wav, reference=wav, quantized=parts[0] + parts[1], parts=parts)
        loss(inputs).backward()
        assert parts[0].grad is not None
        assert parts[1].grad is None
        both = build_loss("distillation", sample_rate=16000, teacher="mfcc", codebook=None)
        both.setup(codec)
        assert not both.uses_parts
        both(inputs).backward()
        assert parts[1].grad is not None

    def test_padding_and_dropped_codebooks_do_not_change_the_loss(self, tmp_path: Path) -> None:
        recipe = load_recipe(write_recipe(tmp_path / "tiny.yaml", quantizer=VQ))
        codec, wav = build_codec(recipe), speech(2, 0.5)
        loss = build_loss("distillation", sample_rate=16000, teacher="mfcc", codebook=1, distance="l1")
        loss.setup(codec)
        parts = tuple(torch.randn(2, 8, 50) for _ in range(2))
        mask = torch.arange(50).expand(2, 50) < 30
        active = torch.tensor([[True, True], [True, False]])[:, :, None].expand(2, 2, 50)
        first = loss(LossInputs(decoded=wav, reference=wav, parts=parts, mask=mask, active=active))
        parts[1][0, :, 30:] = 7.0
        parts[1][1] = 7.0
        again = loss(LossInputs(decoded=wav, reference=wav, parts=parts, mask=mask, active=active))
        assert torch.equal(first, again)
        assert first.item() > 0

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"codebook": 2}, "codebook is 2, but the codec has 2 codebooks"),
            ({"codebook": -1}, "codebook is -1; it must be 0 or more"),
            ({"distance": "l2"}, "'cosine', 'cosine_over_time' or 'l1'"),
        ],
    )
    def test_invalid_options_are_an_error(self, tmp_path: Path, options: dict[str, Any], says: str) -> None:
        codec = build_codec(load_recipe(write_recipe(tmp_path / "tiny.yaml", quantizer=VQ)))
        with pytest.raises(OptionError, match=says):
            build_loss("distillation", sample_rate=16000, teacher="mfcc", **options).setup(codec)

    def test_a_quantizer_that_is_not_additive_is_an_error_before_training(self, tmp_path: Path) -> None:
        losses = {"distillation": {"weight": 1.0, "teacher": "mfcc"}}
        path = write_recipe(tmp_path / "r.yaml", losses=losses)  # fsq with two codebooks
        with pytest.raises(OptionError, match=r"the codebooks of 'fsq' are not additive.*residual_vq"):
            loop.train(load_recipe(path), tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_training_moves_the_first_codebook_toward_the_teacher(self, tmp_path: Path) -> None:
        losses = {
            "mel": {"windows": [512], "bands": [40]},
            "distillation": {"weight": 20.0, "teacher": "mfcc"},
        }
        training = {"steps": 40, "validation_clips": 0}
        optimizer = {"warmup_steps": 5, "learning_rate": 1e-2}
        recipe = load_recipe(
            write_recipe(
                tmp_path / "r.yaml", quantizer=VQ, losses=losses, training=training, optimizer=optimizer
            )
        )
        loop.train(recipe, tmp_path / "run")
        rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        assert rows[-1]["loss/distillation"] < 0.85 * rows[0]["loss/distillation"]


def test_checkpoints_contain_no_teacher(tmp_path: Path) -> None:
    losses = {
        "distillation": {"weight": 1.0, "teacher": "mfcc", "codebook": None},
        "feature_reconstruction": {"weight": 1.0, "teacher": {"name": "log_mel", "bands": 20}},
    }
    recipe = load_recipe(
        write_recipe(tmp_path / "tiny.yaml", losses=losses, training={"steps": 2, "checkpoint_every": 1})
    )
    loop.train(recipe, tmp_path / "run")
    checkpoint = last_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    names = {"distillation.projection.weight", "distillation.projection.bias"}
    assert checkpoint.state["losses"].keys() == names


def test_feature_reconstruction_is_zero_for_the_reference_and_has_gradients_for_other_audio() -> None:
    loss = build_loss("feature_reconstruction", sample_rate=16000, teacher="log_mel")
    assert loss.of_audio
    wav = speech()
    assert float(loss(LossInputs(decoded=wav, reference=wav))) == 0
    other = (wav + 0.1 * torch.randn_like(wav)).requires_grad_()
    loss(LossInputs(decoded=other, reference=wav)).backward()
    assert other.grad is not None
    assert bool(other.grad.abs().sum() > 0)
