"""One of two processes that train together on one card: RECIPE RUN DEVICE, with torchrun's variables set."""

from __future__ import annotations

import sys
from functools import partial

from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from codecvq.training import loop
from codecvq.training.recipe import load_recipe


def main() -> None:
    path, run, device = sys.argv[1:]
    handlers = [InitProcessGroupKwargs(backend="gloo")] if device == "cuda" else []  # gloo is a CPU's own
    loop.Accelerator = partial(Accelerator, kwargs_handlers=handlers)  # type: ignore[misc, assignment]
    loop.train(load_recipe(path), run)


if __name__ == "__main__":
    main()
