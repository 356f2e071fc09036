"""Scenarios that test_ranks.py runs in two processes: `python two_ranks.py RANK FOLDER` for each rank.

A scenario is a function of a `Share`, which selects the part of a batch that this process has. With `whole`,
the same function is the same training in one process. Results of rank n are saved to FOLDER/n.pt.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import codecvq
from codecvq.quantizer import Quantizer

WORLD = 2
DIM, ITEMS, FRAMES = 4, 8, 24
TIMEOUT_S = 20

#: maps a batch to the part of this process
Share = Callable[[Tensor], Tensor]
Scenario = Callable[[Share], Any]


def whole(batch: Tensor) -> Tensor:
    """The whole batch, for a single process."""
    return batch


def share_of(rank: int, first: int) -> Share:
    """The first `first` items for rank 0, the others for rank 1."""
    return lambda batch: batch[:first] if rank == 0 else batch[first:]


def make(name: str, **options: Any) -> Quantizer:
    torch.manual_seed(0)
    quantizer = codecvq.build_quantizer(name, dim=DIM, **options)
    quantizer.generator = torch.Generator().manual_seed(0)
    return quantizer


def latents(seed: int) -> Tensor:
    return torch.randn(ITEMS, DIM, FRAMES, generator=torch.Generator().manual_seed(seed))


def state(quantizer: Quantizer) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in quantizer.state_dict().items()}


def learned(quantizer: Quantizer, share: Share, steps: int = 4) -> dict[str, Tensor]:
    for step in range(steps):
        quantizer(share(latents(step)))
    return state(quantizer)


# 100 codewords for 192 vectors, so that some codewords are dead and are replaced
EMA: dict[str, tuple[str, dict[str, Any]]] = {
    "vq": ("vq", {"codebook_size": 100, "dead_code_threshold": 0.8, "decay": 0.8}),
    "cosine": ("vq", {"codebook_size": 100, "distance": "cosine", "dead_code_threshold": 0.8}),
    "random": ("rotation_vq", {"codebook_size": 100, "init": "random", "dead_code_threshold": 0.8}),
    "residual": ("residual_vq", {"codebook_size": 16, "num_codebooks": 3}),
    "shared": ("residual_vq", {"codebook_size": 16, "num_codebooks": 3, "shared": True}),
    "heads": (
        "grouped_vq",
        {"codebook_size": 16, "num_codebooks": 2},
    ),  # several codebooks are initialized at once
}
SIGNS: dict[str, tuple[str, dict[str, Any]]] = {
    "lfq": ("lfq", {"bits": 4, "diversity_weight": 2.0}),
    "bsq": ("bsq", {"bits": 4, "commitment_weight": 0.5}),
    "residual_lfq": ("residual_lfq", {"bits": 4, "num_codebooks": 3}),
    "grouped_lfq": ("grouped_lfq", {"bits": 2, "num_codebooks": 2}),
}


def ema(share: Share) -> Any:
    return {kind: learned(make(name, **options), share) for kind, (name, options) in EMA.items()}


def signs(share: Share, mask: Tensor | None = None) -> Any:
    """Losses of sign quantizers and the gradient of the latents of this process."""
    found = {}
    for kind, (name, options) in SIGNS.items():
        batch = share(latents(3)).requires_grad_()
        out = make(name, **options)(batch, mask)
        torch.stack([out.losses[loss] for loss in sorted(out.losses) if "entropy" in loss]).sum().backward()
        found[kind] = {"losses": {n: v.detach() for n, v in out.losses.items()}, "gradient": batch.grad}
    return found


def one_rank_all_padding(share: Share) -> Any:
    """From the first step on, the batch of rank 1 is all padding."""
    quantizers = {kind: make(name, **options) for kind, (name, options) in EMA.items()}
    real = not dist.is_initialized() or dist.get_rank() == 0
    for step in range(3):
        batch = share(latents(step))
        mask = torch.full((len(batch), FRAMES), real)
        for quantizer in quantizers.values():
            quantizer(batch, mask)
    batch = share(latents(3))
    masked = signs(share, torch.full((len(batch), FRAMES), real))
    return {kind: state(quantizer) for kind, quantizer in quantizers.items()}, masked


def broken_frame_on_one_rank(share: Share) -> Any:
    """Rank 1 has NaN in the first step and in a later one. Both ranks skip these updates."""
    states = {}
    for kind, (name, options) in EMA.items():
        quantizer = make(name, **options)
        for step in range(4):
            batch = share(latents(step))
            if step in (0, 2) and dist.get_rank() == 1:
                batch[0, 1, 2] = torch.nan
            before = state(quantizer)
            quantizer(batch)
            if step in (0, 2):
                assert all(torch.equal(t, before[n]) for n, t in state(quantizer).items()), kind
        states[kind] = state(quantizer)
    return states


def dropout(share: Share) -> Any:
    """One item per rank, each with its own dropout depth, so a stage may be active in one rank only."""
    found: dict[str, Any] = {}
    for kind, (name, options) in {**EMA, **SIGNS}.items():
        if not name.startswith("residual_"):
            continue
        quantizer = make(name, dropout=1.0, **options)
        for step in range(12):
            quantizer.generator.manual_seed(100 * step + dist.get_rank())
            batch = share(latents(step))[:1].requires_grad_()
            out = quantizer(batch)
            losses = torch.stack([out.losses[loss] for loss in sorted(out.losses)]).sum()
            (out.latents.sum() + losses).backward()
            assert batch.grad is not None
            assert bool(batch.grad.isfinite().all())
        found[kind] = state(quantizer)
    return found


def one_rank_evaluates(share: Share) -> Any:
    """Only rank 0 evaluates. Eval mode does not synchronize ranks."""
    for kind, (name, options) in {**EMA, **SIGNS}.items():
        quantizer = make(name, **options).eval()
        if dist.get_rank() == 0:
            assert quantizer(share(latents(0))).codes.shape[0] > 0, kind
    return None


def data_parallel(share: Share) -> Any:
    """A model in DistributedDataParallel on uneven batches, with other initial weights in each rank."""
    found = {}
    for name, options in {
        "residual_vq": {"codebook_size": 16, "num_codebooks": 2, "codebook_dim": 2, "dropout": 0.5},
        "lfq": {"bits": 6},
        "simvq": {"codebook_size": 32},
    }.items():
        torch.manual_seed(dist.get_rank())
        quantizer = codecvq.build_quantizer(name, dim=DIM, **options)
        model = torch.nn.Sequential(torch.nn.Conv1d(3, DIM, 1), quantizer)
        parallel = torch.nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(3):
            out = parallel(share(latents(step)[:, :3]))
            optimizer.zero_grad()
            torch.stack([out.latents.square().mean(), *out.losses.values()]).sum().backward()
            optimizer.step()
        found[name] = state(model)
    return found


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    # before the process group exists
    early = {kind: make(name, **options) for kind, (name, options) in EMA.items()}
    store = f"file://{folder.resolve() / 'store'}"
    limit = datetime.timedelta(seconds=TIMEOUT_S)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD, timeout=limit)
    even, uneven, sparse = share_of(rank, ITEMS // 2), share_of(rank, 5), share_of(rank, ITEMS - 1)
    found = {
        "ema": ema(even),
        "ema, uneven": ema(uneven),
        "ema, built before": {kind: learned(quantizer, even) for kind, quantizer in early.items()},
        "ema, nothing": ema(share_of(rank, ITEMS)),  # rank 1 has B = 0
        "signs": signs(even),
        "signs, uneven": signs(sparse),
        "all padding": one_rank_all_padding(uneven),
        "broken": broken_frame_on_one_rank(even),
        "dropout": dropout(uneven),
        "evaluates": one_rank_evaluates(even),
        "data parallel": data_parallel(uneven),
    }
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
