"""Weights files: tied weights, mismatched modules and invalid files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from codecvq.errors import CodecError
from codecvq.weights import open_weights, weights_bytes


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("view", self.first.weight.detach()[:2])


def test_tied_weights_remain_tied_after_loading(tmp_path: Path) -> None:
    module, other = Tied(), Tied()
    (tmp_path / "w.safetensors").write_bytes(weights_bytes(module.state_dict()))
    with open_weights(tmp_path / "w.safetensors") as weights:
        weights.load_into(other)
    assert torch.equal(other.first.weight, module.first.weight)
    assert other.second.weight is other.first.weight
    with torch.no_grad():
        other.first.weight.add_(1)
    assert torch.equal(other.second.weight, module.first.weight + 1)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Linear(4, 5), r"weight is \[4, 4\], but \[5, 4\] is needed"),
        (nn.Linear(4, 4, bias=False), "bias is unexpected"),
        (nn.Sequential(nn.Linear(4, 4)), r"0\.bias is missing"),
    ],
    ids=["shape", "left over", "missing"],
)
def test_mismatched_weights_raise_and_change_nothing(tmp_path: Path, module: nn.Module, message: str) -> None:
    (tmp_path / "w").write_bytes(weights_bytes(nn.Linear(4, 4).state_dict()))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(CodecError, match=message), open_weights(tmp_path / "w") as weights:
        weights.load_into(module)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "device", "empty", "text"])
def test_invalid_weights_files_raise(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "w"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind in ("empty", "text"):
        path.write_text("" if kind == "empty" else "no weights at all")
    with pytest.raises(CodecError, match=r"cannot be read|not a regular file"), open_weights(path):
        pass
