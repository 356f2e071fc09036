"""Statistics over all processes of distributed training.

Functions look up the process group when they are called: a module may be built before the group exists.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes that train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Return the sum of `tensor` over all processes, with gradient.

    Every rank must call it; a rank without data passes zeros. With one process, returns `tensor` itself.
    """
    if world_size() == 1:
        return tensor
    import torch.distributed.nn.functional as collectives

    return collectives.all_reduce(tensor) if tensor.requires_grad else _sum_without_gradient(tensor)


def counts_over_ranks(counts: list[int]) -> list[int]:
    """Return the sums of the numbers `counts` over all processes. Every rank must call it.

    With one process, returns `counts` itself.
    """
    if world_size() == 1 or not counts:
        return counts
    return _sum_without_gradient(torch.tensor(counts, device=_device_of_ranks())).tolist()


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate the rows of all processes, without gradient: `[M, D]` -> `[sum of all M, D]`.

    Every rank must call it.
    """
    world = world_size()
    if world == 1:
        return rows.detach()
    counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world)]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    most = max(int(count) for count in counts)
    padded = rows.new_zeros(most, *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    gathered = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(gathered, padded)
    return torch.cat([part[: int(count)] for part, count in zip(gathered, counts, strict=True)])


def from_first_rank(tensor: Tensor) -> Tensor:
    """Return the tensor of the first process on every process, for random draws that must be equal.

    Every rank must call it.
    """
    if world_size() == 1:
        return tensor
    first = tensor.detach().clone().to(_device_of_ranks(tensor))
    dist.broadcast(first, src=0)
    return first.to(tensor.device)


def _device_of_ranks(tensor: Tensor | None = None) -> torch.device:
    """Return the device from which a tensor can be sent; NCCL sends only from GPUs."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu") if tensor is None else tensor.device


def _sum_without_gradient(tensor: Tensor) -> Tensor:
    total = tensor.clone()
    dist.all_reduce(total)
    return total
