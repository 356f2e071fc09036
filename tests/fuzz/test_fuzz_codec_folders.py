"""Hostile codec folders: loading gives a codec with the original codes, or a documented error."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from limits import run_limited
from mutations import mutated_bytes, mutated_tree

from codecvq.codec import Codec, load
from codecvq.errors import CodecvqError

CASES = 4000
SMALL = {
    "name": "spectral", "hop_length": 80, "window_length": 320, "num_mels": 20, "dim": 8,
    "encoder_width": 16, "encoder_blocks": 1, "decoder_width": 16, "decoder_blocks": 1,
}  # fmt: skip
CODECS = {
    "fsq": (SMALL, {"name": "fsq", "levels": [5, 5, 5, 5], "num_codebooks": 2}),
    "residual": (SMALL, {"name": "residual_vq", "codebook_size": 16, "num_codebooks": 3, "dropout": 0.5}),
    "source": (
        {**SMALL, "phase": "source", "synthesis_hop_length": 40},
        {"name": "grouped_lfq", "bits": 4, "num_codebooks": 2},
    ),
    "seanet": (
        {"name": "seanet", "filters": 2, "ratios": [5, 4, 4], "dim": 8, "lstm_layers": 1},
        {"name": "simvq", "codebook_size": 32},
    ),
}


def wav() -> torch.Tensor:
    return 0.1 * torch.randn(1, 1, 1000, generator=torch.Generator().manual_seed(1))


@pytest.mark.slow
@pytest.mark.parametrize("name", CODECS)
def test_a_hostile_folder_gives_the_same_codec_or_an_error(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, quantizer = CODECS[name]
    codec = Codec(sample_rate=8000, network=network, quantizer=quantizer).eval()
    config = json.loads((codec.save(tmp_path / "base") / "config.json").read_text())
    text, weights = (tmp_path / "base" / "config.json").read_bytes(), tmp_path / "base" / "model.safetensors"
    whole, expected = weights.read_bytes(), load(tmp_path / "base").encode(wav())
    folder = tmp_path / "folder"

    def case(seed: int) -> None:
        rng = random.Random(seed)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        target, kind = folder / "config.json", rng.random()
        changed = whole
        if kind < 0.6:
            target.write_text(json.dumps(mutated_tree(config, rng, rng.choice([1, 1, 2, 5]))))
        elif kind < 0.75:
            target.write_bytes(mutated_bytes(text, rng, rng.choice([1, 1, 3])))
        else:
            target.write_bytes(text)
            changed = mutated_bytes(whole, rng, rng.choice([1, 3]))
        (folder / "model.safetensors").write_bytes(changed)
        try:
            loaded = load(folder)
        except CodecvqError:
            return
        assert torch.equal(loaded.encode(wav()), expected), "a changed codec was loaded as the original"

    problems = run_limited(case, CASES // len(CODECS) + 1, seconds=4)
    assert not problems, "\n".join(problems[:20])
