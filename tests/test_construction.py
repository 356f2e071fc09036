"""Construction from untrusted options stops at limits on memory, tensors and modules."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from codecvq.codec import Codec, load
from codecvq.construction import Limits, construction_limits
from codecvq.errors import CodecvqError, OptionError

SMALL = Limits(weights_bytes=1 << 20, tensors=10, modules=10, tensor_bytes=1 << 20)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: nn.Linear(1000, 1000), "a tensor of more than"),
        (lambda: nn.Sequential(nn.Linear(400, 400), nn.Linear(400, 400)), "bytes of weights"),
        (lambda: nn.ModuleList(nn.Linear(1, 1) for _ in range(10**9)), "parameters and buffers"),
        (lambda: nn.ModuleList(nn.Identity() for _ in range(100)), "more than 10 modules"),
        (lambda: torch.hann_window(10**12), "a tensor of more than"),
        (lambda: torch.arange(10**12), "a tensor of more than"),
        (lambda: torch.ones(1000, 1) * torch.ones(1, 1000), "a tensor of more than"),
        (lambda: bytearray(10**15), "memory of this machine"),
    ],
    ids=["layer", "layers", "endless", "modules", "window", "range", "product", "memory"],
)
def test_a_construction_stops_at_its_limits(build: Any, says: str) -> None:
    with (
        pytest.raises(OptionError, match=f"the thing is too large to be built: .*{says}"),
        construction_limits(SMALL, "the thing"),
    ):
        build()


def test_construction_within_the_limits_is_unchanged() -> None:
    torch.manual_seed(0)
    plain = nn.Linear(10, 10)
    torch.manual_seed(0)
    with construction_limits(SMALL, "the thing"):
        built = nn.Linear(10, 10)
    assert torch.equal(plain.weight, built.weight)
    nn.Linear(1000, 1000)  # the limits end with the block


NETWORK: dict[str, Any] = {
    "name": "spectral", "hop_length": 80, "window_length": 320, "num_mels": 20, "dim": 8,
    "encoder_width": 16, "encoder_blocks": 1, "decoder_width": 16, "decoder_blocks": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("part", "options"),
    [
        ("network", {"encoder_blocks": 10**9}),
        ("network", {"encoder_width": 10**9}),
        ("network", {"encoder_width": 10**5}),
        ("network", {"num_mels": 10**9}),
        ("network", {"window_length": 10**12}),
        ("network", {"detail_window_length": 10**10}),
        ("network", {"dim": 10**9}),
        ("network", {"refiner_blocks": 10**9, "phase": "source"}),
        ("quantizer", {"num_codebooks": 10**9}),
        ("quantizer", {"levels": [10**9] * 4}),
        ("quantizer", {"levels": [2] * 10**4}),
        ("quantizer", {"name": "residual_vq", "levels": None, "codebook_size": 10**9, "num_codebooks": 2}),
    ],
    ids=str,
)
def test_options_of_a_folder_cannot_build_more_than_its_weights(
    tmp_path: Path, part: str, options: dict[str, Any]
) -> None:
    Codec(sample_rate=8000, network=NETWORK, quantizer={"name": "fsq", "levels": [5] * 4}).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config[part] |= options
    config[part] = {key: value for key, value in config[part].items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    start = time.process_time()
    with pytest.raises(CodecvqError):
        load(tmp_path)
    assert time.process_time() - start < 2
