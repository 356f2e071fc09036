"""A training step does not synchronize with the GPU: it reads no value from the device.

Synchronizations are counted on the CPU with two modes. A function mode counts Python conversions. A dispatch
mode counts operators that return a Python number or whose output shape depends on the data.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import codecvq.networks.voice.best_path
import codecvq.quantizer.engine
from codecvq.training.average import WeightAverage
from codecvq.training.learner import Learner
from codecvq.training.recipe import Recipe, load_recipe
from codecvq.training.smoke import smoke_recipe
from codecvq.training.usage import CodebookUsage

CONVERSIONS = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "__array__")
MADE_FROM_NUMBERS = ("tensor", "as_tensor", "new_tensor", "from_numpy")  # a synchronous copy to the device
OPERATORS = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "bincount",
    "unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "equal",
    "is_nonzero",
    "repeat_interleave.Tensor",
)
ASYNCHRONOUS = "codecvq/transfer.py"  # functions of this file copy without synchronization
ON_THE_CPU = (
    "draw_depths",
    "rows_by_codebook",
    "code_metrics",
)  # build tensors on the CPU and copy them asynchronously


class Synchronizations(TorchFunctionMode):
    """Collects source lines that read from the device or copy to it synchronously."""

    def __init__(self) -> None:
        super().__init__()
        self.locations: list[str] = []

    def add(self, operation: str) -> None:
        frames = [frame for frame in traceback.extract_stack() if "site-packages" not in frame.filename]
        of_library = [frame for frame in frames if "/tests/" not in frame.filename]
        if any(ASYNCHRONOUS in frame.filename or frame.name in ON_THE_CPU for frame in frames):
            return
        location = of_library[-1] if of_library else frames[-1]
        self.locations.append(f"{operation} at {Path(location.filename).name}:{location.lineno}")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in CONVERSIONS or name in MADE_FROM_NUMBERS:
            self.add(name)
        if name in ("__getitem__", "__setitem__") and _has_list(args[1]):
            self.add(f"{name} with a list")
        return func(*args, **(kwargs or {}))


def _has_list(index: Any) -> bool:
    return any(isinstance(each, list) for each in (index if isinstance(index, tuple) else (index,)))


class Operators(TorchDispatchMode):
    def __init__(self, synchronizations: Synchronizations) -> None:
        super().__init__()
        self.synchronizations = synchronizations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::")
        by_mask = name.startswith(("index.Tensor", "index_put")) and any(
            isinstance(each, torch.Tensor) and each.dtype == torch.bool for each in args[1]
        )
        if name in OPERATORS or name.split(".")[0] in OPERATORS or by_mask:
            self.synchronizations.add(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def count_synchronizations() -> Iterator[list[str]]:
    synchronizations = Synchronizations()
    with synchronizations, Operators(synchronizations):
        yield synchronizations.locations


@pytest.fixture(autouse=True)
def simulate_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that branches on free reads takes the GPU branch."""
    for module in (codecvq.quantizer.engine, codecvq.networks.voice.best_path):
        monkeypatch.setattr(module, "reads_without_sync", lambda device: False)


def learner(recipe: Recipe) -> tuple[Learner, torch.Tensor]:
    torch.manual_seed(0)
    AcceleratorState._reset_state()  # discard the precision of earlier trainings in this process
    made = Learner(recipe, "codec", Accelerator(cpu=True))
    samples = round(recipe.corpus.segment_s * recipe.sample_rate)
    return made, 0.1 * torch.randn(recipe.training.batch_size, recipe.channels, samples)


LARGE = (
    "tts-24k-residual-fsq",
    "tts-24k-rotation-vq",
    "tts-24k-simvq",
    "tts-24k-lfq",
    "tts-24k-fsq",
    "tts-22k",
    "tts-44k",
)
OTHERS = ("speech-16k", "encodec-24k", "stream-24k", "lm-16k-single", *LARGE[4:])
RECIPES = [
    *("quickstart", "speech-16k-natural", "semantic-16k", *LARGE[:4]),
    *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS),
]


@pytest.mark.parametrize("name", RECIPES)
def test_a_training_step_does_not_synchronize(name: str) -> None:
    made, wav = learner(smoke_recipe(load_recipe(name, ["network.preset=tiny"] if name in LARGE else [])))
    for step in range(3):  # codebooks start in the first step, discriminators in the second
        made.step(step, wav)
    with count_synchronizations() as locations:
        for step in range(3, 5):
            made.step(step, wav)
    assert locations == []
    with count_synchronizations() as locations:
        made.step_metrics.take_means()
    assert len(locations) == 1, "one transfer for all metrics since the last report"


@pytest.mark.parametrize("name", RECIPES)
def test_a_training_step_runs_on_the_meta_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Meta tensors have shapes but no values. Reading a value raises, and so does mixing devices."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())  # meta has no autocast
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    made, wav = learner(smoke_recipe(load_recipe(name, ["network.preset=tiny"] if name in LARGE else [])))
    made.step(0, wav)
    made.step(1, wav)
    accelerator, meta = made.accelerator, torch.device("meta")
    monkeypatch.setattr(type(accelerator), "device", meta)
    of_adversary = [made.adversary.networks] if made.adversary else []
    for module in (made.codec, *made.losses.modules.values(), *of_adversary):
        module.to(meta)
    for module in made.codec.modules():
        if hasattr(module, "_started_cache"):
            monkeypatch.setattr(module._started_cache, "get", lambda make, *sources: True)
    for part in (made, made.adversary) if made.adversary else (made,):
        monkeypatch.setattr(
            part.optimizer.optimizer, "step", lambda: None
        )  # no meta kernel for fused optimizers
    learned = [*made.codec.named_parameters()]
    for loss in made.losses.modules.values():
        learned += loss.named_parameters()
    made.parameters = {name: each for name, each in learned if each.requires_grad}
    if made.adversary:
        made.adversary.parameters = dict(made.adversary.networks.named_parameters())
    made.usage = CodebookUsage(made.codec.codebook_sizes, meta)
    made.average = WeightAverage(made.codec, 0.9)
    made.step(2, wav.to(meta))
    with pytest.raises((RuntimeError, NotImplementedError)):
        made.step_metrics.take_means()


def test_synchronizations_are_counted() -> None:
    values = torch.arange(4.0)
    with count_synchronizations() as locations:
        assert bool(values[1] > 0)
        float(values.sum())
        values.nonzero()
        values[values > 1]
        values[[0, 1]]
        values.new_tensor(1.0)
        torch.bincount(values.long())
    assert len(locations) >= 7, locations
