"""One of two processes that train together on one card: RECIPE RUN DEVICE, with torchrun's variables set."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist

from codecvq.training import loop
from codecvq.training.recipe import load_recipe


def main() -> None:
    path, run, device = sys.argv[1:]
    dist.init_process_group("gloo")
    if device == "cuda":
        torch.cuda.set_device(0)
    loop.train(load_recipe(path), run)


if __name__ == "__main__":
    main()
