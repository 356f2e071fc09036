"""Weights to begin a training with: those of a finished codec or of another run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from codecvq.codec import Codec, load
from codecvq.errors import RunError
from codecvq.plugins import PROJECT
from codecvq.training.adversary import Adversary
from codecvq.training.checkpoint import last_checkpoint
from codecvq.training.recipe import Recipe
from codecvq.training.run import RunFolder

logger = logging.getLogger(PROJECT)


def begin_from(recipe: Recipe, codec: Codec, adversary: Adversary | None) -> None:
    """Give the codec, and the discriminators where the run has some, the weights of `training.init_from`;
    nothing where that is not set.

    Raises RunError, which lists what does not fit, unless `training.init_partial`.
    """
    source = recipe.training.init_from
    if source is None:
        return
    found, partial = load(source), recipe.training.init_partial
    if not isinstance(found, Codec):
        raise RunError(
            f"training.init_from is {source}, a {type(found).__name__}, whose weights fit no recipe. Give a "
            "run, or a codec that codecvq trained."
        )
    weights = found.state_dict()
    misfits = _others(codec, found) + _misfits(codec, weights)
    if found.sample_rate != codec.sample_rate:  # a filterbank of another rate has the same shape
        constants = _constants(found)
        weights = {name: tensor for name, tensor in weights.items() if name not in constants}
    _fill(codec, weights, f"the weights of {source}", misfits, partial)
    checkpoint = last_checkpoint(RunFolder(Path(source)).checkpoints) if adversary else None
    if adversary and checkpoint and "adversary" in checkpoint.state:
        weights = checkpoint.state["adversary"]["networks"]
        misfits = _misfits(adversary.networks, weights)
        without = f" To begin without them, give {source}/codec."
        _fill(adversary.networks, weights, f"the discriminators of {source}", misfits, partial, without)


def _others(codec: Codec, found: Codec) -> list[str]:
    """What is another in `found` than in `codec` and shows in no shape of a weight, a phrase each."""
    return [
        f"{name} is {getattr(found, name)} instead of {getattr(codec, name)}"
        for name in ("sample_rate", "channels", "hop_length")
        if getattr(found, name) != getattr(codec, name)
    ]


def _constants(codec: Codec) -> set[str]:
    """Names of what encoder and decoder hold and do not learn, as filterbanks."""
    return {
        f"{part}.{name}"
        for part in ("encoder", "decoder")
        for name, buffer in codec.get_submodule(part).named_buffers()
        if buffer.is_floating_point()
    }


def _fill(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    what: str,
    misfits: Sequence[str],
    partial: bool,
    advice: str = "",
) -> None:
    """Give `module` those of `weights` that fit; `misfits` are told, or refused unless `partial`."""
    shown = "; ".join(misfits[:8]) + (f"; and {len(misfits) - 8} more" if len(misfits) > 8 else "")
    if misfits and not partial:
        raise RunError(
            f"{what} do not fit this recipe: {shown}. Use the recipe that made them, or set "
            f"training.init_partial=true (--init-partial) to take what fits.{advice}"
        )
    own = module.state_dict()
    fitting = {
        name: tensor for name, tensor in weights.items() if name in own and own[name].shape == tensor.shape
    }
    try:
        module.load_state_dict(fitting, strict=False)
    except RuntimeError as error:  # what a network finds out itself, behind a line of torch's
        found = "; ".join(line.strip() for line in str(error).splitlines()[1:])
        raise RunError(f"{what} do not fit this recipe: {found}.") from error
    if misfits:
        logger.warning(
            "%s do not all fit, and %d of %d tensors begin anew: %s",
            what,
            len(own) - len(fitting),
            len(own),
            shown,
        )


def _misfits(module: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """What keeps `weights` from fitting, a phrase each."""
    own = module.state_dict()
    found = [f"{name} is missing" for name in own if name not in weights]
    found += [f"{name} has no place in it" for name in weights if name not in own]
    return found + [
        f"{name} is {list(weights[name].shape)} instead of {list(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
