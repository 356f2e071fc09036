"""The contract of quantizers: a test for each line of docs/reference/quantizer-contract.md."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codecvq.codec import Codec
from codecvq.errors import OptionError, ShapeError
from codecvq.quantizer import (
    ConditionalQuantizer,
    Grouped,
    Progress,
    Quantizer,
    Reach,
    Residual,
    SequenceQuantizer,
    Split,
    Terms,
    build_quantizer,
    join_codes,
    nearest_codes,
    split_codes,
)
from codecvq.quantizer.build import quantizer_registrations, shorten_config

PAGE = Path(__file__).resolve().parent.parent / "docs/reference/quantizer-contract.md"
DIM = 6


def test_every_line_of_the_page_names_an_existing_test() -> None:
    lines = re.findall(
        r"\| `(?:(test_\w+\.py)::)?(test_\w+)` \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(lines) >= 25
    here = Path(__file__)
    for file, name in lines:
        assert f"def {name}(" in (here.parent / (file or here.name)).read_text(encoding="utf-8"), name
    own = {name for name in globals() if name.startswith("test_") and not name.startswith("test_every_line")}
    assert {name for file, name in lines if not file} == own


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Recorder(Quantizer):
    """Nearest codewords. Records its calls."""

    def __init__(self, dim: int, size: int = 8, **more: Any) -> None:
        super().__init__(dim, [size], **more)
        self.codebook = nn.Parameter(normal(size, self.code_dim, seed=3))
        self.calls: list[tuple[str, Tensor, bool]] = []

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        self.calls.append(("quantize", vectors.detach().clone(), self.training))
        codes = nearest_codes(vectors.detach(), self.codebook.detach())[:, None]
        return self.dequantize(codes), codes

    def dequantize(self, codes: Tensor) -> Tensor:
        return F.embedding(codes[:, 0], self.codebook)

    def update(self, vectors: Tensor, codes: Tensor) -> None:
        self.calls.append(("update", vectors.clone(), self.training))

    def named(self, what: str) -> list[Tensor]:
        return [vectors for name, vectors, _ in self.calls if name == what]


class Soft(Quantizer):
    """Values that carry their own gradient: one-hot forward, softmax backward."""

    own_gradient = True

    def __init__(self, dim: int, size: int = 8, **more: Any) -> None:
        super().__init__(dim, [size], **more)
        self.codebook = nn.Parameter(normal(size, self.code_dim, seed=5))

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        return soft_choice(vectors, self.codebook)

    def dequantize(self, codes: Tensor) -> Tensor:
        return F.embedding(codes[:, 0], self.codebook)


def soft_choice(vectors: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    logits = vectors @ codebook.T
    codes, soft = logits.argmax(dim=1), logits.softmax(dim=1)
    hard = F.one_hot(codes, len(codebook)).float()
    return (hard + (soft - soft.detach())) @ codebook, codes[:, None]


class Noisy(Recorder):
    """Uniform noise in place of the error, in training."""

    training_values_differ = True

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        values, codes = super().quantize(vectors)
        return (vectors + 10.0 if self.training else values), codes


# inputs


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_vectors_are_the_real_frames_in_float32(dtype: torch.dtype) -> None:
    quantizer, latents = Recorder(DIM), normal(3, DIM, 5).to(dtype)
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]).bool()
    latents[~mask[:, None].expand_as(latents)] = torch.nan
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = quantizer(latents, mask)
    (seen,) = quantizer.named("quantize")
    assert seen.dtype == torch.float32
    assert torch.equal(seen, latents.transpose(1, 2)[mask].float())
    assert out.latents.dtype == dtype
    quantizer(latents, torch.zeros_like(mask))
    assert quantizer.named("quantize")[-1].shape == (0, DIM)


def test_vectors_are_finite_and_a_broken_frame_comes_out_as_nan() -> None:
    quantizer, latents = Recorder(DIM), normal(2, DIM, 4)
    latents[0, 2, 1] = torch.inf
    out = quantizer(latents)
    assert bool(quantizer.named("quantize")[0].isfinite().all())
    assert bool(out.latents[0, :, 1].isnan().all())
    assert int(out.latents.isnan().sum()) == DIM


# state


def test_update_is_called_once_for_each_forward_pass_in_training() -> None:
    quantizer, latents = Recorder(DIM), normal(2, DIM, 4)
    quantizer(latents)
    quantizer(latents)
    assert [len(each) for each in quantizer.named("update")] == [8, 8]
    broken = latents.clone()
    broken[0, 0, 0] = torch.nan
    quantizer(broken)  # no update for a batch with NaN
    quantizer.encode(latents)
    quantizer.eval()(latents)
    quantizer.train().freeze()
    quantizer(latents)
    assert len(quantizer.named("update")) == 2


def test_a_shared_stage_is_updated_once_with_all_its_vectors() -> None:
    stage = Recorder(DIM)
    Residual(DIM, [stage], num_codebooks=3)(normal(2, DIM, 4))
    assert [len(each) for each in stage.named("update")] == [24]


def test_encode_runs_in_eval_mode_also_during_training() -> None:
    quantizer = Residual(DIM, [Recorder(DIM), Recorder(DIM)], dropout=1.0)
    quantizer.encode(normal(2, DIM, 4))
    for stage in quantizer.stages:
        assert isinstance(stage, Recorder)
        assert [training for _, _, training in stage.calls] == [False]
    assert quantizer.training


def test_quantizers_stay_in_float32_after_half_and_bfloat16() -> None:
    quantizer = Grouped([Soft(2), Soft(4)]).half()
    assert {each.dtype for each in quantizer.parameters()} == {torch.float32}


def test_all_stages_share_one_generator() -> None:
    quantizer = Split(Soft(DIM), Residual(DIM, [Recorder(DIM), Recorder(DIM)]))
    quantizer.generator = torch.Generator().manual_seed(1)
    assert {member.generator for member in quantizer.quantizers()} == {quantizer.generator}


# progress


class Annealed(Soft):
    uses_progress = True


def test_progress_is_the_same_in_all_stages_and_saved_with_the_weights() -> None:
    quantizer = Residual(DIM, [Annealed(DIM), Annealed(DIM)], dropout=1.0)
    assert quantizer.progress == Progress(0, None)
    assert quantizer.progress.fraction == 0.0
    quantizer.set_progress(30, 120)
    assert {member.progress for member in quantizer.quantizers()} == {Progress(30, 120)}
    assert quantizer.stage(1).progress.fraction == 0.25
    state = quantizer.state_dict()
    assert state["stages.1.progress"].tolist() == [30, 120]
    other = Residual(DIM, [Annealed(DIM), Annealed(DIM)])
    other.load_state_dict(state)
    assert other.stage(1).progress == Progress(30, 120)
    assert "progress" not in str(Residual(DIM, [Soft(DIM)]).state_dict().keys())
    with pytest.raises(RuntimeError, match=r"stages\.0\.progress"):
        other.load_state_dict({name: each for name, each in state.items() if name != "stages.0.progress"})


# gradients


def gradients(quantizer: Quantizer, latents: Tensor, mask: Tensor | None = None) -> list[Tensor]:
    latents = latents.clone().requires_grad_()
    out = quantizer(latents, mask)
    return list(
        torch.autograd.grad((out.latents * normal(*latents.shape, seed=9)).sum(),
                            [latents, *quantizer.parameters()])
    )  # fmt: skip


def needed_gradients(latents: Tensor, parameters: list[Tensor], values: Any) -> list[Tensor]:
    latents = latents.clone().requires_grad_()
    vectors = latents.transpose(1, 2).flatten(0, 1)
    out = values(vectors).unflatten(0, (len(latents), -1)).transpose(1, 2)
    upstream = normal(*latents.shape, seed=9)
    return list(torch.autograd.grad((out * upstream).sum(), [latents, *parameters]))


@pytest.mark.parametrize("mode", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("code_dim", [None, 3], ids=["plain", "projected"])
def test_own_gradients_arrive_in_plain_residual_grouped_and_split_forms(
    code_dim: int | None, mode: bool
) -> None:
    latents = normal(2, DIM, 7)

    def stage(dim: int = DIM) -> Soft:
        return Soft(dim, code_dim=code_dim)

    def chosen(each: Soft, vectors: Tensor) -> Tensor:
        return each.project_out(soft_choice(each.project_in(vectors), each.codebook)[0])

    plain, stack = stage(), Residual(DIM, [stage(), stage(), stage()])
    groups, split = Grouped([stage(4), stage(2)]), Split(stage(), stage())

    def residual(vectors: Tensor) -> Tensor:  # differentiates the same computation through every stage
        total, rest = torch.zeros_like(vectors), vectors
        for each in stack.stages:
            part = chosen(each, rest)
            total, rest = total + part, rest - part
        return total

    cases: list[tuple[Quantizer, Any]] = [
        (plain, lambda vectors: chosen(plain, vectors)),
        (stack, residual),
        (
            groups,
            lambda vectors: torch.cat(
                [
                    chosen(each, part)
                    for each, part in zip(groups.groups, vectors.split([4, 2], dim=1), strict=True)
                ],
                dim=1,
            ),
        ),
        (split, lambda vectors: chosen(split.semantic, vectors) + chosen(split.acoustic, vectors)),
    ]
    for quantizer, values in cases:
        needed = needed_gradients(latents, list(quantizer.parameters()), values)
        for got, want in zip(gradients(quantizer.train(mode), latents), needed, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
        assert all(bool(each.any()) for each in needed)


def test_own_gradients_arrive_in_stages_that_dropout_leaves_active() -> None:
    quantizer = Residual(DIM, [Soft(DIM), Soft(DIM)], dropout=1.0, dropout_depths=[1])
    quantizer(normal(3, DIM, 4)).latents.square().sum().backward()
    first, second = quantizer.stages
    assert bool(first.codebook.grad.any())
    assert second.codebook.grad is None or not bool(second.codebook.grad.any())


def test_an_estimator_without_effect_is_an_error() -> None:
    with pytest.raises(OptionError, match=r"estimator is 'rotation', but the values of Soft carry their own"):
        Soft(DIM, estimator="rotation")
    assert Soft(DIM).estimator is None
    stage = type("Listing", (Soft,), {"candidates": lambda self, vectors, count: None})(DIM)
    with pytest.raises(OptionError, match=r"beam is 2, .* own gradient"):
        Residual(DIM, [stage], beam=2)


# training values


def test_training_values_are_used_for_the_last_stage_and_codes_equal_those_of_encode() -> None:
    quantizer = Residual(DIM, [Noisy(DIM), Noisy(DIM), Noisy(DIM)])
    latents = normal(2, DIM, 7)
    out = quantizer(latents)
    assert quantizer.training_values_differ
    assert torch.equal(out.codes, quantizer.encode(latents))
    before = quantizer.decode(out.codes[:, :2])  # earlier stages give decoded values
    torch.testing.assert_close(out.latents, before + (latents - before) + 10.0)
    assert torch.equal(quantizer.eval()(latents).latents, quantizer.decode(out.codes))


def test_training_values_are_used_for_the_last_active_stage_of_an_item() -> None:
    quantizer = Residual(DIM, [Noisy(DIM), Noisy(DIM)], dropout=1.0)
    quantizer.generator = torch.Generator().manual_seed(0)
    latents = normal(8, DIM, 3)
    out = quantizer(latents)
    assert out.active is not None
    assert set(out.active.sum(dim=1).flatten().tolist()) == {1, 2}
    torch.testing.assert_close(out.latents, latents + 10.0)


# partial sums


class Shifting(ConditionalQuantizer):
    """Codewords that depend on the partial sum."""

    def __init__(self, dim: int, size: int = 8, **more: Any) -> None:
        super().__init__(dim, [size], **more)
        self.codebook = nn.Parameter(normal(size, dim, seed=6))
        self.sums: list[Tensor] = []

    def quantize_given(self, vectors: Tensor, partial_sum: Tensor) -> tuple[Tensor, Tensor]:
        self.sums.append(partial_sum.detach().clone())
        with torch.no_grad():
            codes = nearest_codes(vectors - 0.1 * partial_sum, self.codebook)[:, None]
        return self.dequantize_given(codes, partial_sum), codes

    def dequantize_given(self, codes: Tensor, partial_sum: Tensor) -> Tensor:
        return F.embedding(codes[:, 0], self.codebook) + 0.1 * partial_sum

    def candidates_given(self, vectors: Tensor, partial_sum: Tensor, count: int) -> Tensor:
        return (
            torch.cdist(vectors - 0.1 * partial_sum, self.codebook).topk(count, dim=1, largest=False).indices
        )


def test_a_conditional_stage_receives_the_sum_of_earlier_stages() -> None:
    quantizer = Residual(DIM, [Shifting(DIM), Shifting(DIM), Shifting(DIM)]).eval()
    latents = normal(2, DIM, 7)
    codes = quantizer.encode(latents)
    for n, stage in enumerate(quantizer.stages):
        assert isinstance(stage, Shifting)
        needed = quantizer.decode(codes[:, :n]) if n else torch.zeros(2, DIM, 7)
        torch.testing.assert_close(stage.sums[-1], needed.transpose(1, 2).flatten(0, 1))
    assert torch.equal(quantizer(latents, num_codebooks=2).latents, quantizer.decode(codes[:, :2]))
    plain = Shifting(DIM).eval()
    plain.encode(latents)
    assert not bool(plain.sums[-1].any())


def test_beam_search_of_conditional_stages_does_not_increase_the_error() -> None:
    stages = [Shifting(DIM), Shifting(DIM)]
    latents = normal(2, DIM, 20)
    errors = []
    for beam in (1, 8):
        quantizer = Residual(DIM, copy.deepcopy(stages), beam=beam).eval()
        errors.append((quantizer(latents).latents - latents).square().sum(dim=1))
    assert float(errors[1].sum()) < float(errors[0].sum())


# sequences


class Running(SequenceQuantizer):
    """Steps of ±1 from the previous decoded frame."""

    reach = Reach(past=None, future=0)

    def __init__(self, dim: int, **more: Any) -> None:
        super().__init__(dim, [2], **more)

    def quantize_items(self, latents: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        codes, last = torch.zeros_like(mask, dtype=torch.int64), latents.new_zeros(len(latents))
        for t in range(latents.shape[2]):
            codes[:, t] = (latents[:, :, t].mean(dim=1) > last).long()
            last = last + (2 * codes[:, t] - 1) * mask[:, t]
        return self.dequantize_items(codes[:, None], mask), codes[:, None]

    def dequantize_items(self, codes: Tensor, mask: Tensor) -> Tensor:
        steps = (2 * codes - 1).float() * mask[:, None]
        return steps.cumsum(dim=2).expand(-1, self.code_dim, -1)


@pytest.mark.parametrize("form", ["plain", "residual", "grouped"])
def test_a_sequence_quantizer_receives_items_and_masks(form: str) -> None:
    quantizer: Quantizer = {
        "plain": lambda: Running(DIM),
        "residual": lambda: Residual(DIM, [Running(DIM), Running(DIM)], dropout=0.5),
        "grouped": lambda: Grouped([Running(2), Running(4)]),
    }[form]()
    assert quantizer.reach == Reach(None, 0)
    lengths = (9, 4, 0, 7)
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    latents = torch.where(mask[:, None], 3 * normal(4, DIM, 9), torch.nan)
    codes = quantizer.encode(latents, mask=mask)
    values = quantizer.decode(codes, mask)
    assert torch.equal(quantizer.eval()(latents, mask).latents, values)
    for b, length in enumerate(lengths):
        alone = quantizer.encode(latents[b : b + 1, :, :length])
        assert torch.equal(codes[b : b + 1, :, :length], alone)
        assert torch.equal(values[b : b + 1, :, :length], quantizer.decode(alone))
        assert not bool(codes[b, :, length:].any())


def test_strides_repeat_codes_over_blocks() -> None:
    quantizer = build_quantizer(
        "multiscale", dim=DIM, of={"name": "simvq", "codebook_size": 16}, strides=[4, 1]
    ).eval()
    assert quantizer.strides == (4, 1)
    assert quantizer.bits_per_frame == 4 / 4 + 4
    latents = normal(2, DIM, 11)
    codes = quantizer.encode(latents)
    parts = split_codes(codes, quantizer.strides)
    assert [part.shape[-1] for part in parts] == [3, 11]
    assert torch.equal(join_codes(parts, quantizer.strides, 11), codes)
    first = quantizer.stage(0)
    blocks = torch.stack(
        [part.mean(dim=2) for part in latents.split(4, dim=2)], dim=2
    )  # the last has 3 frames
    assert torch.equal(parts[0], first.encode(blocks)[:, 0])
    wrong = codes.clone()
    wrong[0, 0, 1] = (wrong[0, 0, 1] + 1) % 16
    with pytest.raises(ShapeError, match=r"codebook 0 change at frame 1"):
        quantizer.decode(wrong)


# compositions


@pytest.mark.parametrize(
    ("nested", "short"),
    [
        (
            {"name": "residual", "of": {"name": "simvq", "codebook_size": 16}, "num_codebooks": 3},
            {"name": "residual_simvq", "codebook_size": 16, "num_codebooks": 3},
        ),
        ({"name": "grouped", "of": "vq", "num_groups": 2}, {"name": "grouped_vq", "num_codebooks": 2}),
        (
            {"name": "grouped", "of": {"name": "residual", "of": "vq", "num_codebooks": 3}, "num_groups": 2},
            {"name": "grouped_residual_vq", "num_codebooks": 3, "num_groups": 2},
        ),
        (
            {"name": "multiscale", "of": "lfq", "strides": [2, 1], "dropout": 0.5}
            | {"of": {"name": "lfq", "bits": 4}},
            {"name": "multiscale_lfq", "bits": 4, "strides": [2, 1], "dropout": 0.5},
        ),
    ],
    ids=lambda config: config["name"],
)
def test_the_nested_form_and_the_short_name_give_the_same_codec(nested: Any, short: Any) -> None:
    assert shorten_config(nested) == short
    assert shorten_config(short) == short
    network = {"name": "spectral", "hop_length": 160, "window_length": 320, "num_mels": 16, "dim": 6}
    network |= dict.fromkeys(("encoder_width", "decoder_width"), 8) | {
        "encoder_blocks": 1,
        "decoder_blocks": 1,
    }
    codecs = []
    for quantizer in (nested, short):
        torch.manual_seed(0)
        codecs.append(Codec(sample_rate=16_000, network=network, quantizer=quantizer))
    assert codecs[0].codebooks_sha256 == codecs[1].codebooks_sha256


def test_stages_and_groups_may_differ_in_kind() -> None:
    stages = ["vq", {"name": "simvq", "codebook_size": 16}]
    stack = build_quantizer("residual", dim=DIM, of=stages)
    assert stack.codebook_sizes == (1024, 16)
    groups = build_quantizer("grouped", dim=DIM, of=[{"name": "fsq", "levels": [3, 3]}, "vq"], dims=[2, 4])
    assert groups.codebook_sizes == (9, 1024)
    split = build_quantizer("split", dim=DIM, semantic="vq", acoustic={"name": "residual", "of": stages})
    assert split.codebook_sizes == (1024, 1024, 16)
    assert list(quantizer_registrations(split.config)) == [
        "quantizer", "quantizer.semantic", "quantizer.acoustic", "quantizer.acoustic.of.0",
        "quantizer.acoustic.of.1",
    ]  # fmt: skip


def test_both_parts_of_a_split_receive_the_latents_and_the_semantic_codebook_is_first() -> None:
    split = Split(Recorder(DIM), Residual(DIM, [Recorder(DIM), Recorder(DIM)], dropout=1.0))
    latents = normal(5, DIM, 4)
    out = split(latents)
    assert out.active is not None
    assert bool(out.active[:, :2].all())
    split.eval()
    codes = split.encode(latents)
    semantic, acoustic = split.semantic.decode(codes[:, :1]), split.acoustic.decode(codes[:, 1:])
    assert torch.equal(split.decode(codes), semantic + acoustic)
    assert torch.equal(split.decode(codes[:, :1]), semantic)
    assert torch.equal(split.acoustic.encode(latents), codes[:, 1:])


@pytest.mark.parametrize("name", ["residual_vq", "residual_lfq", "residual_fsq", "grouped_vq"])
def test_parts_sum_up_to_the_latents_and_have_a_gradient(name: str) -> None:
    own = {"fsq": {"levels": [5, 5]}, "lfq": {"bits": 4}}.get(name.partition("_")[2], {"codebook_size": 8})
    torch.manual_seed(0)
    quantizer = build_quantizer(name, dim=DIM, num_codebooks=2, **own)
    latents = normal(2, DIM, 5).requires_grad_()
    quantizer(latents)
    out = quantizer(latents, parts=True)
    assert out.parts is not None
    torch.testing.assert_close(sum(out.parts), out.latents)
    for part in out.parts:
        (pull,) = torch.autograd.grad(part.square().sum(), latents, retain_graph=True)
        assert bool(pull.any())
    assert quantizer(latents).parts is None


class Deep(Quantizer):
    """Two codebooks. The second is used only for vectors with a large error after the first."""

    variable_depth = True

    def __init__(self, dim: int) -> None:
        super().__init__(dim, [4, 4])

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        codes = (vectors[:, :2] > 0).long()
        codes[vectors[:, 0] > 0, 1] = -1
        return self.dequantize(codes), codes

    def dequantize(self, codes: Tensor) -> Tensor:
        return codes.clamp(min=0).float().sum(dim=1, keepdim=True).expand(-1, self.code_dim)


def test_absent_codes_are_a_suffix_and_compositions_reject_them() -> None:
    quantizer = Deep(DIM)
    codes = quantizer.encode(normal(2, DIM, 9))
    assert {-1} < set(codes[:, 1].flatten().tolist())
    quantizer.decode(codes)
    gap = torch.tensor([[[-1], [0]]])
    with pytest.raises(ShapeError, match=r"codebook 0 of item 0 is absent \(-1\) at frame 0"):
        quantizer.decode(gap)
    with pytest.raises(OptionError, match="varies from frame to frame"):
        Grouped([Deep(DIM), Deep(DIM)])
    metrics = quantizer(normal(2, DIM, 9)).metrics
    assert float(metrics["usage/1"]) <= 0.5


def test_losses_of_stages_are_means() -> None:
    class Costly(Recorder):
        def terms(self, vectors: Tensor, values: Tensor, codes: Tensor) -> Terms:
            return Terms({"cost": values.new_tensor(float(self.codebook_sizes[0]))})

    stack = Residual(DIM, [Costly(DIM, 2), Costly(DIM, 4)])
    assert float(stack(normal(1, DIM, 3)).losses["cost"]) == 3.0
    assert float(Split(Costly(DIM, 2), stack)(normal(1, DIM, 3)).losses["cost"]) == pytest.approx(8 / 3)
