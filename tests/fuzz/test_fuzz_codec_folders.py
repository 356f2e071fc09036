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
from codecvq.codec.tables_file import TABLES
from codecvq.errors import CodecvqError
from codecvq.quantizer import CodeTables

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
    tables = CodeTables.uniform(codec.codebook_sizes, contexts=("previous",))
    codec.set_code_tables(tables if tables.entries < 10_000 else CodeTables.uniform(codec.codebook_sizes))
    config = json.loads((codec.save(tmp_path / "base") / "config.json").read_text())
    text, weights = (tmp_path / "base" / "config.json").read_bytes(), tmp_path / "base" / "model.safetensors"
    tables_text = (tmp_path / "base" / TABLES).read_bytes()
    tables_tree, tables_sha256 = json.loads(tables_text), codec.code_tables().sha256
    whole, expected = weights.read_bytes(), load(tmp_path / "base").encode(wav())
    folder = tmp_path / "folder"

    def case(seed: int) -> None:
        rng = random.Random(seed)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        target, kind = folder / "config.json", rng.random()
        changed, changed_tables = whole, tables_text
        if kind < 0.2:
            changed_tables = mutated_bytes(tables_text, rng, rng.choice([1, 1, 3]))
            if rng.random() < 0.7:
                tree = mutated_tree(tables_tree, rng, rng.choice([1, 1, 2, 5]))
                changed_tables = json.dumps(tree).encode()
            target.write_bytes(text)
        elif kind < 0.6:
            target.write_text(json.dumps(mutated_tree(config, rng, rng.choice([1, 1, 2, 5]))))
        elif kind < 0.75:
            target.write_bytes(mutated_bytes(text, rng, rng.choice([1, 1, 3])))
        else:
            target.write_bytes(text)
            changed = mutated_bytes(whole, rng, rng.choice([1, 3]))
        (folder / "model.safetensors").write_bytes(changed)
        (folder / TABLES).write_bytes(changed_tables)
        try:
            loaded = load(folder)
        except CodecvqError:
            return
        assert torch.equal(loaded.encode(wav()), expected), "a changed codec was loaded as the original"
        assert loaded.code_tables().sha256 == tables_sha256, "changed tables were loaded as the original"

    problems = run_limited(case, CASES // len(CODECS) + 1, seconds=4)
    assert not problems, "\n".join(problems[:20])
