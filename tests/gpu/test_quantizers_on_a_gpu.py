"""Every quantizer, in every form, gives the same results on a GPU as on the CPU."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import codecvq
import codecvq.quantizer.engine
from codecvq.quantizer import Quantizer
from codecvq.quantizer.build import quantizer_names

DIM = 8
OPTIONS: dict[str, dict[str, Any]] = {
    "vq": {"codebook_size": 64, "codebook_dim": 4},
    "rotation_vq": {"codebook_size": 64},
    "simvq": {"codebook_size": 64},
    "fsq": {"levels": [5, 4]},
    "residual_fsq": {"levels": [5, 4], "num_codebooks": 3},
    "lfq": {"bits": 4},
    "bsq": {"bits": 4},
}
FORMS = [name for name in quantizer_names() if name.endswith(tuple(OPTIONS))]
EMA = [name for name in FORMS if name.endswith("vq") and not name.endswith("simvq")]
SAME = 0.999  # share of equal codes; rounding decides between equally near codewords


def make(name: str, dropout: float = 0.0) -> Quantizer:
    torch.manual_seed(0)
    plain = next(known for known in sorted(OPTIONS, key=len, reverse=True) if name.endswith(known))
    options = {"dim": DIM, **OPTIONS[plain]}
    if name.startswith("grouped_"):
        options["num_groups"] = 2
    if "residual_" in name:
        options["num_codebooks"] = 3
        options["dropout"] = dropout
    if "multiscale_" in name:
        options["strides"] = [3, 1]
    return codecvq.build_quantizer(name, **options)


def normal(seed: int, items: int = 4, frames: int = 200) -> torch.Tensor:
    return torch.randn(items, DIM, frames, generator=torch.Generator().manual_seed(seed))


def trained(name: str, device: torch.device, steps: int = 2, dropout: float = 0.0) -> Quantizer:
    quantizer = make(name, dropout).to(device)
    for step in range(steps):
        torch.manual_seed(step)
        quantizer(normal(step).to(device))
    return quantizer


@pytest.mark.parametrize("name", FORMS)
def test_codes_and_values_equal_those_of_the_cpu(name: str, device: torch.device) -> None:
    quantizer = trained(name, torch.device("cpu")).eval()
    twin, latents = copy.deepcopy(quantizer).to(device), normal(9)
    codes = quantizer.encode(latents)
    found = twin.encode(latents.to(device))
    assert found.device.type == device.type
    assert float((found.cpu() == codes).float().mean()) >= SAME
    torch.testing.assert_close(
        twin.decode(codes.to(device)).cpu(), quantizer.decode(codes), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", FORMS)
def test_a_masked_training_step_equals_that_of_the_cpu(name: str, device: torch.device) -> None:
    mask = torch.arange(200)[None] < torch.tensor([[200], [150], [1], [90]])
    results = []
    for where in (torch.device("cpu"), device):
        quantizer, latents = copy.deepcopy(trained(name, torch.device("cpu"))).to(where), normal(5)
        latents[~mask[:, None].expand_as(latents)] = torch.nan
        latents = latents.nan_to_num(7.0).to(where).requires_grad_()
        torch.manual_seed(0)
        out = quantizer(latents, mask.to(where))
        torch.stack([out.latents.square().mean(), *out.losses.values()]).sum().backward()
        results.append((out, latents.grad))
    (cpu, gradient), (gpu, theirs) = results
    assert float((cpu.codes == gpu.codes.cpu()).float().mean()) >= SAME
    assert not bool(gpu.codes.cpu()[~mask[:, None].expand_as(cpu.codes)].any())
    for loss, value in cpu.losses.items():
        torch.testing.assert_close(gpu.losses[loss].detach().cpu(), value.detach(), rtol=1e-2, atol=1e-4)
    assert gradient is not None
    assert theirs is not None
    far = (gradient - theirs.cpu()).abs() > 1e-3 * (1 + gradient.abs())
    assert float(far.float().mean()) < 0.01


@pytest.mark.parametrize("name", EMA)
@pytest.mark.parametrize("dropout", [0.0, 0.7])
def test_ema_codebooks_learn_as_on_the_cpu(name: str, dropout: float, device: torch.device) -> None:
    ours, theirs = (trained(name, where, 6, dropout).state_dict() for where in (torch.device("cpu"), device))
    for key, tensor in ours.items():
        apart = (theirs[key].cpu().float() - tensor.float()).abs()
        assert float((apart > 1e-3 * (1 + tensor.float().abs())).float().mean()) < 0.02, key


@pytest.mark.parametrize("name", EMA)
def test_a_batch_with_nan_changes_no_state_without_synchronization(
    name: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codecvq.quantizer.engine, "reads_without_sync", lambda device: False)
    for started in (True, False):
        quantizer = trained(name, device, 2 if started else 0)
        before = {key: tensor.clone() for key, tensor in quantizer.state_dict().items()}
        latents = normal(3).to(device)
        latents[1, 2, 3] = torch.nan
        out = quantizer(latents)
        assert bool(out.latents[1, :, 3].isnan().all())
        assert all(torch.equal(tensor, before[key]) for key, tensor in quantizer.state_dict().items())
        quantizer(normal(4).to(device))
        assert any(not torch.equal(tensor, before[key]) for key, tensor in quantizer.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FORMS)
def test_autocast_does_not_change_codes(name: str, dtype: torch.dtype, device: torch.device) -> None:
    quantizer, latents = trained(name, torch.device("cpu")).to(device).eval(), normal(7).to(device)
    with torch.autocast(device.type, dtype=dtype):
        inside = quantizer(latents)
    outside = quantizer(latents)
    assert torch.equal(inside.codes, outside.codes)
    assert torch.equal(inside.latents, outside.latents)


@pytest.mark.parametrize("name", ["vq", "simvq", "fsq", "lfq", "residual_vq"])
def test_invalid_inputs_raise_the_same_errors_as_on_the_cpu(name: str, device: torch.device) -> None:
    quantizer = trained(name, torch.device("cpu")).to(device).eval()
    latents = normal(1).to(device)
    latents[0, 0, 0] = torch.inf
    with pytest.raises(codecvq.errors.NonFiniteError, match="item 0 are NaN or infinite at frame 0"):
        quantizer.encode(latents)
    with pytest.raises(codecvq.errors.ShapeError, match="is not in 0"):
        quantizer.decode(torch.full((1, quantizer.num_codebooks, 3), 10**6, device=device))
