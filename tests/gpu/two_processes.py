"""One of two processes that train on one GPU: RECIPE RUN DEVICE, with the variables of torchrun set."""

from __future__ import annotations

import sys
from functools import partial

from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from codecvq.training import loop
from codecvq.training.recipe import load_recipe


def main() -> None:
    path, run, device = sys.argv[1:]
    handlers = (
        [InitProcessGroupKwargs(backend="gloo")] if device == "cuda" else []
    )  # on the CPU, gloo is the default
    loop.Accelerator = partial(Accelerator, kwargs_handlers=handlers)  # type: ignore[misc, assignment]
    loop.train(load_recipe(path), run)


if __name__ == "__main__":
    main()
