"""The conformance checks of codecs: correct codecs pass, and every fault is found."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_codecs import LevelCodec
from torch import Tensor

import codecvq
from codecvq.errors import CodecError
from codecvq.testing import Check, codec_checks, parametrize_codec, run_checks


class OneFrameTooMany(LevelCodec):
    def encode(self, wav: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        return torch.nn.functional.pad(super().encode(wav, *arguments, **keywords), (0, 1))


class AsLongAsItsFrames(LevelCodec):
    def decode(self, codes: Tensor, num_samples: int | None = None, lengths: Tensor | None = None) -> Tensor:
        return super().decode(codes, None, lengths)


class DependsOnPadding(LevelCodec):
    def encode(self, wav: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        return super().encode(wav, *arguments, **{**keywords, "lengths": None})


class Rolls(LevelCodec):
    def encode_frames(self, wav: Tensor) -> Tensor:
        return super().encode_frames(wav + 0.1 * torch.randn(()))


class ComparesItems(LevelCodec):
    def encode(self, wav: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        return super().encode(wav + wav[:1].mean().nan_to_num(), *arguments, **keywords)


class NotAPrefix(LevelCodec):
    def encode(
        self, wav: Tensor, *arguments: Any, num_codebooks: int | None = None, **keywords: Any
    ) -> Tensor:
        codes = super().encode(wav, *arguments, **keywords)
        return codes if num_codebooks is None else codes[:, -num_codebooks:]


class AnotherRate(LevelCodec):
    @property
    def bitrate(self) -> float:
        return 1.0


class NeverResamples(LevelCodec):
    def encode(self, wav: Tensor, sample_rate: int | None = None, **keywords: Any) -> Tensor:
        return super().encode(wav, **keywords)


class TakesAnyCode(LevelCodec):
    def decode(self, codes: Tensor, num_samples: int | None = None, lengths: Tensor | None = None) -> Tensor:
        return super().decode(codes.clamp(0, 255), num_samples, lengths)


class CodesFromTheHash(LevelCodec):
    def matches_codebooks(self, digest: str) -> bool:
        return True


FAULTY: dict[type[LevelCodec], set[str]] = {
    OneFrameTooMany: {"shapes"},
    AsLongAsItsFrames: {"decode_length"},
    DependsOnPadding: {"padding"},
    Rolls: {"deterministic"},
    ComparesItems: {"items_are_independent"},
    NotAPrefix: {"prefix"},
    AnotherRate: {"attributes"},
    NeverResamples: {"other_sample_rate"},
    TakesAnyCode: {"wrong_input"},
    CodesFromTheHash: {"attributes"},
}


def failures_of(codec: Any) -> dict[str, str]:  # Any: an AudioCodec
    outcomes = list(run_checks(codec_checks(codec)))
    return {o.check.short_name: f"{o.found}\n{o.place}" for o in outcomes if o.found}


def test_a_correct_implementation_passes_every_check() -> None:
    assert failures_of(LevelCodec()) == {}
    assert failures_of(LevelCodec((16, 16), channels=2)) == {}


def test_strided_codebooks_pass_every_check() -> None:
    assert failures_of(LevelCodec((16, 16, 16), strides=(4, 2, 1))) == {}


@pytest.mark.parametrize("faulty", FAULTY, ids=lambda faulty: faulty.__name__)
def test_each_fault_is_found(faulty: type[LevelCodec]) -> None:
    found = failures_of(faulty())
    assert set(found) >= FAULTY[faulty]
    for check in FAULTY[faulty]:
        assert "codec" in found[check]


@pytest.mark.parametrize(
    "quantizer",
    [
        {"name": "residual_fsq", "levels": [5] * 4, "num_codebooks": 3},
        {"name": "lfq", "bits": 6},
        {"name": "multiscale_vq", "codebook_size": 16, "strides": [4, 2, 1]},
    ],
    ids=["residual_fsq", "lfq", "multiscale_vq"],
)
def test_a_new_codec_passes_every_check(quantizer: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = {"name": "seanet", "filters": 4, "ratios": [8, 5], "dim": 8}
    codec = codecvq.Codec(sample_rate=16_000, network=network, quantizer=quantizer).eval()
    assert failures_of(codec) == {}


@pytest.mark.slow
@parametrize_codec("speech-16k")
def test_the_bundled_codec_passes_every_check(check: Check) -> None:
    check.run()


def test_external_codecs_without_codes_cannot_be_checked() -> None:
    with pytest.raises(CodecError, match="no codes"):
        list(codec_checks("opus-16"))
