"""Initial weights of a training, from a saved codec or another run."""

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


def load_initial_weights(recipe: Recipe, codec: Codec, adversary: Adversary | None) -> None:
    """Load the weights of `training.init_from`, if set, into the codec and the discriminators.

    Discriminators are loaded if `init_from` is a run that has them. Raises RunError with a list of mismatches
    unless `training.init_partial` is true.
    """
    source = recipe.training.init_from
    if source is None:
        return
    donor, partial = load(source), recipe.training.init_partial
    if not isinstance(donor, Codec):
        raise RunError(
            f"training.init_from is {source}, a {type(donor).__name__}, whose weights fit no recipe. Give a "
            "run folder or a codec that codecvq trained."
        )
    weights = donor.state_dict()
    mismatches = _attribute_mismatches(codec, donor) + _weight_mismatches(codec, weights)
    if donor.sample_rate != codec.sample_rate:  # a filterbank of another rate has the same shape
        constants = _fixed_buffers(donor)
        weights = {name: tensor for name, tensor in weights.items() if name not in constants}
    _load_matching(codec, weights, f"the weights of {source}", mismatches, partial)
    checkpoint = last_checkpoint(RunFolder(Path(source)).checkpoints) if adversary else None
    if adversary and checkpoint and "adversary" in checkpoint.state:
        weights = checkpoint.state["adversary"]["networks"]
        mismatches = _weight_mismatches(adversary.networks, weights)
        without = f" To start without them, give {source}/codec."
        _load_matching(
            adversary.networks, weights, f"the discriminators of {source}", mismatches, partial, without
        )


def _attribute_mismatches(codec: Codec, donor: Codec) -> list[str]:
    """Attributes that differ between the codecs and do not change weight shapes, one phrase each."""
    return [
        f"{name} is {getattr(donor, name)} instead of {getattr(codec, name)}"
        for name in ("sample_rate", "channels", "hop_length")
        if getattr(donor, name) != getattr(codec, name)
    ]


def _fixed_buffers(codec: Codec) -> set[str]:
    """Names of floating-point buffers of encoder and decoder, such as filterbanks."""
    return {
        f"{part}.{name}"
        for part in ("encoder", "decoder")
        for name, buffer in codec.get_submodule(part).named_buffers()
        if buffer.is_floating_point()
    }


def _load_matching(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    what: str,
    mismatches: Sequence[str],
    partial: bool,
    advice: str = "",
) -> None:
    """Load the `weights` that fit into `module`.

    Raises RunError for `mismatches`; logs a warning instead if `partial`.
    """
    shown = "; ".join(mismatches[:8]) + (f"; and {len(mismatches) - 8} more" if len(mismatches) > 8 else "")
    if mismatches and not partial:
        raise RunError(
            f"{what} do not fit this recipe: {shown}. Use the recipe that made them, or set "
            f"training.init_partial=true (--init-partial) to load only what fits.{advice}"
        )
    state = module.state_dict()
    matching = {
        name: tensor
        for name, tensor in weights.items()
        if name in state and state[name].shape == tensor.shape
    }
    try:
        module.load_state_dict(matching, strict=False)
    except RuntimeError as error:  # an error of the network's loading hook, after a line of torch
        reason = "; ".join(line.strip() for line in str(error).splitlines()[1:])
        raise RunError(f"{what} do not fit this recipe: {reason}.") from error
    if mismatches:
        logger.warning(
            "%s do not all fit; %d of %d tensors start from new random weights: %s",
            what,
            len(state) - len(matching),
            len(state),
            shown,
        )


def _weight_mismatches(module: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Missing, unexpected and differently shaped tensors of `weights`, one phrase each."""
    state = module.state_dict()
    problems = [f"{name} is missing" for name in state if name not in weights]
    problems += [f"{name} is not in the model" for name in weights if name not in state]
    return problems + [
        f"{name} is {list(weights[name].shape)} instead of {list(state[name].shape)}"
        for name in state
        if name in weights and weights[name].shape != state[name].shape
    ]
