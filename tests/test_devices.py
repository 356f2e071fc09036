"""Unusable devices give a one-line error."""

from __future__ import annotations

import pytest
import torch

from codecvq.codec import load
from codecvq.errors import OptionError
from codecvq.transfer import usable_device


@pytest.mark.parametrize(
    "name", ["bogus", "", "cuda:x", "cpu:0:1", "9" * 400, "\0", "meta", "cuda:99", "xla"]
)
def test_an_unusable_device_is_an_error(name: str) -> None:
    with pytest.raises(OptionError, match="device"):
        usable_device(name)
    with pytest.raises(OptionError, match="device"):
        load("speech-16k", name)


def test_the_cpu_is_always_usable() -> None:
    assert usable_device("cpu") == usable_device(torch.device("cpu")) == torch.device("cpu")
