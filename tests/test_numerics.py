"""Codes and audio do not depend on torch's global settings."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch

from codecvq.codec import Codec, load
from codecvq.errors import CodecError
from codecvq.numerics import plain_float32

NETWORK = {
    "name": "spectral", "hop_length": 80, "window_length": 320, "num_mels": 20, "dim": 32,
    "encoder_width": 64, "encoder_blocks": 2, "decoder_width": 64, "decoder_blocks": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    codec = Codec(
        sample_rate=8000, network=NETWORK, quantizer={"name": "residual_vq", "num_codebooks": 4}
    ).eval()
    return codec.save(tmp_path_factory.mktemp("codec"))


def wav() -> torch.Tensor:
    return 0.1 * torch.randn(1, 1, 16000, generator=torch.Generator().manual_seed(1))


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
        assert torch.get_default_dtype() == dtype, "the caller's setting was not restored"
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    torch.set_float32_matmul_precision(precision)
    try:
        yield
        assert torch.get_float32_matmul_precision() == precision, "the caller's setting was not restored"
    finally:
        torch.set_float32_matmul_precision("highest")


GLOBAL_SETTINGS = {
    "inference mode": lambda: torch.inference_mode(),
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "medium": lambda: matmul_precision("medium"),
    "meta device": lambda: torch.device("meta"),
    "grad": lambda: torch.enable_grad(),
}


@pytest.fixture(params=GLOBAL_SETTINGS)
def global_setting(request: pytest.FixtureRequest) -> AbstractContextManager[object]:
    return GLOBAL_SETTINGS[request.param]()  # type: ignore[no-any-return]


def test_codes_and_samples_are_the_same_under_any_global_setting(
    saved: Path, global_setting: AbstractContextManager[object]
) -> None:
    codec, audio = load(saved), wav()
    codes = codec.encode(audio)
    samples = codec.decode(codes)
    with global_setting:
        codes_there = codec.encode(audio)
        samples_there = codec.decode(codes_there)
    assert torch.equal(codes_there, codes)
    assert torch.equal(samples_there, samples)
    assert samples_there.dtype == torch.float32


def test_codecs_load_and_train_under_any_global_setting(
    saved: Path, global_setting: AbstractContextManager[object]
) -> None:
    audio = wav()
    with global_setting:
        codec = load(saved)
    codes = load(saved).encode(audio)
    assert torch.equal(codec.encode(audio), codes)
    assert {weight.dtype for weight in codec.parameters()} == {torch.float32}
    codec.train()(audio).wav.square().mean().backward()


def test_half_precision_weights_raise(saved: Path) -> None:
    codec = load(saved).half()
    with pytest.raises(CodecError, match=r"is torch\.float16.*Call codec\.float\(\)"):
        codec.encode(wav())
    codec.float().encode(wav())


def test_global_settings_are_restored_when_the_last_thread_exits() -> None:
    with matmul_precision("medium"):
        inside, leave = threading.Event(), threading.Event()

        def other() -> None:
            with plain_float32():
                inside.set()
                leave.wait(10)

        thread = threading.Thread(target=other)
        with plain_float32():
            thread.start()
            inside.wait(10)
        product = torch.ones(64, 64) * 1.001
        exact = (product.double() @ product.double()).float()
        assert torch.allclose(product @ product, exact, rtol=1e-6), (
            "the other thread still needs full precision"
        )
        leave.set()
        thread.join()
