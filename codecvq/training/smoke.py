"""Three steps of a recipe, to see that its parts fit: before a long training, and in a test of every recipe
that ships.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from codecvq.api.hookspecs import NetworkSpec
from codecvq.codec import load
from codecvq.data import SPLITS, Corpus
from codecvq.errors import CorpusError, RunError
from codecvq.networks.build import build_discriminator, build_network
from codecvq.plugins import PROJECT, registry
from codecvq.plugins.options import option_defaults
from codecvq.training.builders import recipe_corpus
from codecvq.training.loop import TrainingResult, train
from codecvq.training.progress import TrainingProgress
from codecvq.training.recipe import Recipe

logger = logging.getLogger(PROJECT)

STEPS = 3
CLIPS = 4  # of each split
SEGMENT_S = 0.25  # segments, or what the discriminators need
SMALL = {"filters": 4, "max_filters": 32}  # of discriminators, where they have such options and more


@dataclass(frozen=True)
class SmokeResult:
    """How a smoke test went."""

    trained: TrainingResult
    seconds_of_audio: float  # that the saved codec was given, and gave back
    bitrate_bps: float
    corpus: str  # name of the corpus that the clips are of


def smoke_test(
    recipe: Recipe,
    folder: Path,
    report: Callable[[TrainingProgress], None] | None = None,
    announce: Callable[[str], None] | None = None,
) -> SmokeResult | None:
    """Train `smoke_recipe(recipe)` into the run folder on a few clips of its corpus, load the codec that was
    saved, and run it once; None in the other processes of a training, which have no folder to load from.

    Raises what a training raises, also CorpusError for a folder or manifest that is not there; RunError where
    a step was skipped, or the codec does not give audio back.
    """
    recipe = smoke_recipe(recipe)
    recipe, corpus = _some_clips(recipe)
    trained = train(recipe, folder, report, announce, corpus)
    if trained.skipped:
        raise RunError(
            f"{trained.skipped} of {STEPS} steps gave NaN or infinity, in {folder}. Lower "
            "optimizer.learning_rate, or set training.precision=fp32."
        )
    if not trained.is_main:
        return None
    codec = load(trained.folder.path)
    wav = 0.1 * torch.randn(1, codec.channels, codec.sample_rate + 1)  # not a whole number of frames
    decoded = codec.decode(codec.encode(wav), num_samples=wav.shape[2])
    if decoded.shape != wav.shape or not bool(decoded.isfinite().all()):
        raise RunError(
            f"the codec in {trained.folder.codec} made {list(decoded.shape)} of audio {list(wav.shape)}, or "
            "numbers that are not finite. Its network or its quantizer is at fault: codecvq plugins check."
        )
    return SmokeResult(trained, wav.shape[2] / codec.sample_rate, codec.bitrate, corpus.name)


def smoke_recipe(recipe: Recipe) -> Recipe:
    """The recipe with its own network, quantizer and losses, and everything else as small as it goes.

    It trains on short segments, with narrow discriminators from step 1 on, and validates and saves after the
    last. So it needs little memory, and seconds on one core.
    """
    section, updates = recipe.discriminator, dict[str, Any]()
    needed = 0  # samples
    if section is not None:
        narrow = [_shrink(options) for options in section.networks]
        needed = max(_min_samples(recipe, options) for options in narrow)
        updates["discriminator"] = section.model_copy(
            update={"networks": narrow, "start_step": 1, "every_step": 1, "every_item": 1}
        )
    corpus = {"segment_s": _segment_s(recipe, needed), "cache": "memory"}
    training: dict[str, Any] = {
        "steps": STEPS,
        "minutes": None,
        "batch_size": 2,
        "accumulate": 1,
        "workers": 0,
        "trackers": [],
        "log_every": 1,
        "checkpoint_every": STEPS,
        "validate_every": STEPS,
        "validation_clips": 1,
        "init_from": None,
        "init_partial": False,
        "freeze": [],
        "compile": False,
    }
    updates["corpus"] = recipe.corpus.model_copy(update=corpus)
    updates["training"] = recipe.training.model_copy(update=training)
    return recipe.model_copy(update=updates)


def _some_clips(recipe: Recipe) -> tuple[Recipe, Corpus]:
    """The recipe, and a few clips of each split of its corpus: of the speech in the box, with a warning,
    where a registered corpus is not installed.
    """
    section = recipe.corpus
    try:
        corpus = recipe_corpus(section)
    except CorpusError as error:
        if section.name is None or section.root is not None:
            raise
        logger.warning("the smoke test takes the speech in the box: %s", error)
        names: dict[str, Any] = {
            "name": "prompts",
            "split_by": "clip",
            "speakers": None,
            "exclude_speakers": [],
        }
        section = section.model_copy(update=names)
        corpus = recipe_corpus(section)
    some = [clip for split in SPLITS for clip in corpus.split(split).clips[:CLIPS]]
    return recipe.model_copy(update={"corpus": section}), replace(corpus, clips=tuple(some))


def _shrink(options: Mapping[str, Any]) -> dict[str, Any]:
    """A discriminator's options with few channels, where it has them under the usual names."""
    known = option_defaults(registry().find(NetworkSpec, options["name"]))
    return {**options, **{name: width for name, width in SMALL.items() if name in known}}


def _min_samples(recipe: Recipe, options: Mapping[str, Any]) -> int:
    options = dict(options)
    with torch.random.fork_rng():
        discriminator = build_discriminator(
            options.pop("name"), sample_rate=recipe.sample_rate, channels=recipe.channels, **options
        )
    return discriminator.min_samples


def _segment_s(recipe: Recipe, needed: int) -> float:
    """A short segment in whole frames, in seconds; the recipe's own where that is shorter."""
    options = dict(recipe.network)
    with torch.random.fork_rng():
        network = build_network(
            options.pop("name"), sample_rate=recipe.sample_rate, channels=recipe.channels, **options
        )
    samples = max(needed, round(SEGMENT_S * recipe.sample_rate))
    frames = -(-samples // network.hop_length)
    return min(frames * network.hop_length / recipe.sample_rate, recipe.corpus.segment_s)
