"""Faults 16 to 27 and 32 of vector-quantize-pytorch 1.32.0, with a test for each. See test_faults.py."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from small_quantizers import (
    DIM,
    PROJECTED,
    STACKS,
    assert_same,
    assert_same_state,
    make,
    normal,
    state,
    trained,
)

from codecvq.errors import NonFiniteError, ShapeError
from codecvq.quantizer import nearest_codes

# Non-finite and very large numbers: faults 16 to 18


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("name", ["vq", "rotation_vq", "residual_vq", "grouped_vq"])
def test_a_non_finite_frame_does_not_change_codebooks(name: str, bad: float) -> None:
    """Fault 16: one NaN frame made a codebook NaN permanently."""
    forms = {"num_codebooks": 2} if name.startswith(("residual", "grouped")) else {}
    quantizer = trained(name, codebook_size=16, **forms)
    before, latents = state(quantizer), normal(2, DIM, 20)
    latents[1, 3, 7] = bad
    quantizer(latents)
    assert_same_state(quantizer, before)
    out = quantizer.eval()(normal(2, DIM, 20))
    assert bool(out.latents.isfinite().all())
    assert len(out.codes.unique()) > 4


@pytest.mark.parametrize("name", ["lfq", "bsq", "residual_lfq"])
def test_the_entropy_loss_has_a_gradient_for_latents_of_any_size(name: str) -> None:
    """A fixed fault of codecvq: a code of probability 0 in float32 made the gradient of the entropy NaN."""
    quantizer = make(name, bits=DIM, **({"num_codebooks": 2} if name == "residual_lfq" else {}))
    for scale in (0.0, 1e-6, 1.0, 100.0, 1e6):
        latents = (scale * normal(2, DIM, 40)).requires_grad_()
        torch.stack([*quantizer(latents).losses.values()]).sum().backward()
        assert bool(latents.grad.isfinite().all()), scale


@pytest.mark.parametrize("name", PROJECTED)
def test_a_non_finite_frame_has_no_valid_code(name: str) -> None:
    """Fault 17: NaN was assigned code -2147483648 (fsq) or a valid code (lfq)."""
    quantizer, latents = trained(name, **PROJECTED[name]), normal(2, DIM, 20)
    latents[1, 3, 7] = math.nan
    with pytest.raises(NonFiniteError, match=r"item 1 .* frame 7"):
        quantizer.encode(latents)
    for mode in (True, False):
        out = quantizer.train(mode)(latents)
        assert bool(out.latents[1, :, 7].isnan().all())
        assert int(out.codes.min()) >= 0


@pytest.mark.parametrize("levels", [[16] * 7, [5] * 11, [8] * 10, [16] * 8, [1200, 3], [100_003]], ids=str)
def test_fsq_codes_of_large_codebooks_are_exact(levels: list[int]) -> None:
    """Fault 18: float32 sums gave up to 98 % wrong codes, and codes for L > 1001 were out of range."""
    quantizer = make("fsq", dim=len(levels), levels=levels).eval()
    latents = 2 * normal(1, len(levels), 300)
    out = quantizer(latents)
    level = torch.tensor(levels, dtype=torch.float64)
    position = (latents[0].T.tanh().double() + 1) * (level - 1) / 2 + 0.5
    # unless rounding of float32 decides, levels equal those of float64; the code is the integer of the levels
    clear = ((position - position.round()).abs() > (level - 1) * 2**-23).all(dim=1)
    radix = [math.prod(levels[:i]) for i in range(len(levels))]
    digits = ((out.latents[0].T.double() + 1) * (level - 1) / 2).round().long()
    needed = [sum(d * r for d, r in zip(row, radix, strict=True)) for row in digits.tolist()]
    assert out.codes.flatten().tolist() == needed
    assert torch.equal(digits[clear], position.floor().long()[clear])
    assert float(clear.float().mean()) > 0.9
    assert torch.equal(quantizer.decode(out.codes), out.latents)
    limits = torch.tensor([[-30.0], [30.0]]).expand(2, len(levels))[
        :, :, None
    ]  # every channel at its lowest or highest level
    assert quantizer.encode(limits).flatten().tolist() == [0, math.prod(levels) - 1]


# Precision: faults 19 and 20


@pytest.mark.parametrize("convert", ["bfloat16", "half", "double"])
@pytest.mark.parametrize("name", PROJECTED)
def test_converting_the_module_does_not_change_codes(name: str, convert: str) -> None:
    """Fault 19: bfloat16 modules raised an error, or gave other codes from the third stage on."""
    quantizer, latents = trained(name, **PROJECTED[name]).eval(), normal(2, DIM, 20).bfloat16()
    codes = quantizer.encode(latents)
    decoded = quantizer.decode(codes)
    getattr(quantizer, convert)()
    assert torch.equal(quantizer.encode(latents), codes)
    assert torch.equal(quantizer.decode(codes), decoded)
    assert quantizer(latents).latents.dtype == torch.bfloat16
    model = torch.nn.Sequential(torch.nn.Conv1d(3, DIM, 1), quantizer).to(torch.bfloat16)
    assert model[0].weight.dtype == torch.bfloat16
    assert torch.equal(model[1].encode(latents), codes)


@pytest.mark.parametrize("name", PROJECTED)
def test_autocast_does_not_change_codes(name: str) -> None:
    """Fault 20: inside CPU autocast, up to 0.7 % of the codes differed."""
    latents = normal(2, DIM, 200)
    plain = trained(name, **PROJECTED[name])(latents)
    quantizer = trained(name, **PROJECTED[name])
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(quantizer(latents), plain)


# Dropout, ranges and learning: faults 21 to 25


@pytest.mark.parametrize("name", [name for name in STACKS if not name.startswith("grouped_")])
def test_quantizer_dropout_is_per_item_with_and_without_gradients(name: str) -> None:
    """Fault 21: dropout drew one depth per batch, and only some quantizers dropped without gradients."""
    options = {**STACKS[name], "num_codebooks": 4, "dropout": 1.0}
    codes = []
    for grad in (True, False):
        quantizer = make(name, **options)
        quantizer.generator = torch.Generator().manual_seed(4)
        with torch.set_grad_enabled(grad):
            codes.append(quantizer(10 + normal(32, DIM, 3)).codes)
    assert torch.equal(*codes)
    dropped = (codes[0][:, -1] == 0).all(dim=1)  # items without the last stage
    assert 0 < int(dropped.sum()) < 32
    quantizer = make(name, **options)
    full = quantizer.train().encode(normal(8, DIM, 3))
    assert torch.equal(quantizer.eval()(normal(8, DIM, 3)).codes, full)


@pytest.mark.parametrize(
    ("name", "size"), [("residual_fsq", {"levels": [3] * DIM}), ("residual_lfq", {"bits": DIM})]
)
def test_items_of_a_batch_have_different_dropout_depths(name: str, size: dict[str, Any]) -> None:
    """A fixed fault of codecvq: an all-padding item changed the dropout depths of the others."""
    quantizer = make(name, num_codebooks=4, dropout=0.7, **size)
    latents, drawn = 10 * torch.ones(32, DIM, 3), []
    for real in (32, 20):
        quantizer.generator = torch.Generator().manual_seed(4)
        mask = (torch.arange(32) < real)[:, None].expand(-1, 3)
        drawn.append((quantizer(latents, mask).codes[:20] > 0).sum(dim=1))  # depth of each frame
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[0][:, :1].expand(-1, 3))
    assert drawn[0].unique().tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("name", PROJECTED)
@pytest.mark.parametrize("wrong", [-1, "K", 2**40])
def test_a_code_out_of_range_is_an_error(name: str, wrong: Any) -> None:
    """Fault 22: codes -1 and K were decoded without an error."""
    quantizer = make(name, **PROJECTED[name]).eval()
    codes = torch.zeros(2, quantizer.num_codebooks, 3, dtype=torch.int64)
    codes[1, -1, 2] = quantizer.codebook_sizes[-1] if wrong == "K" else wrong
    with pytest.raises(ShapeError, match=r"item 1, codebook .* frame 2"):
        quantizer.decode(codes)


@pytest.mark.parametrize("name", PROJECTED)
def test_losses_in_eval_mode_have_no_gradient(name: str) -> None:
    """Fault 23: losses in eval mode required a gradient after training."""
    quantizer = trained(name, **PROJECTED[name]).eval()
    for loss in quantizer(normal(2, DIM, 20).requires_grad_()).losses.values():
        assert not loss.requires_grad


@pytest.mark.parametrize("learn", ["ema", "gradient"])
def test_a_shared_codebook_learns(learn: str) -> None:
    """Fault 24: a codebook that stages share was never updated."""
    quantizer = make(
        "residual_vq", codebook_size=16, num_codebooks=3, shared=True, learn=learn, dead_code_threshold=0.0
    )
    latents = normal(4, DIM, 50)
    quantizer(latents)
    start, first = quantizer.stage(0).codebook.detach().clone(), quantizer.stage(0).usage.sum()
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=0.5) if learn == "gradient" else None
    errors = []
    for _ in range(30):
        out = quantizer(latents)
        errors.append(float((out.latents - latents).square().mean()))
        if optimizer is not None:
            optimizer.zero_grad()
            torch.stack(list(out.losses.values())).sum().backward()
            optimizer.step()
    assert not torch.allclose(quantizer.stage(0).codebook, start)
    assert errors[-1] < errors[0]
    # one update per step with the vectors of all three stages, not three updates
    if learn == "ema":
        expected = 600 + (float(first) - 600) * 0.99**30
        assert float(quantizer.stage(0).usage.sum()) == pytest.approx(expected, rel=1e-3)


def test_replacement_of_dead_codewords_is_rate_limited_and_converges() -> None:
    """Fault 25: with 512 vectors for 1024 codewords, all codewords were replaced at every step."""
    quantizer = make("vq", codebook_size=256, init="random", learn="gradient", decay=0.9)
    seen, moved = torch.zeros(256), []
    for step in range(300):
        before = quantizer.codebook.detach().clone()
        out = quantizer(5 + normal(1, DIM, 128, seed=step))
        moved.append(int((quantizer.codebook.detach() != before).any(dim=1).sum()))
        if step >= 200:
            seen += torch.bincount(out.codes.flatten(), minlength=256)
    assert max(moved) <= 0.02 * 256
    assert max(moved) > 0
    assert int((seen > 0).sum()) > 0.9 * 256


# Search and bookkeeping: faults 26, 27 and 32


@pytest.mark.parametrize("offset", [0.0, 100.0, 1000.0])
def test_nearest_codewords_are_exact_far_from_the_origin(offset: float) -> None:
    """Fault 26: at a distance of 1000 from the origin, 85 % of the codes were wrong."""
    vectors, codebook = normal(500, 64) + offset, normal(1024, 64, seed=2) + offset
    exact = torch.cdist(vectors.double(), codebook.double(), compute_mode="donot_use_mm_for_euclid_dist")
    assert torch.equal(nearest_codes(vectors, codebook), exact.argmin(dim=1))


def test_codewords_that_nearly_coincide_are_distinguished() -> None:
    """Fault 27: distances below 1e-8 were treated as equal."""
    for gap in (2e-5, 1e-7):
        codebook = gap * torch.arange(8.0)[:, None] * torch.ones(1, 4)
        assert nearest_codes(codebook, codebook).tolist() == list(range(8))


@pytest.mark.parametrize("name", PROJECTED)
def test_codes_of_a_training_step_decode_to_its_values(name: str) -> None:
    """Fault 32: codes of a training step decoded to other values, with an error of 1.15."""
    quantizer = trained(name, **PROJECTED[name])
    before = copy.deepcopy(quantizer).eval()
    out = quantizer(normal(2, DIM, 30, seed=9))
    torch.testing.assert_close(out.latents, before.decode(out.codes), rtol=1e-5, atol=1e-5)
