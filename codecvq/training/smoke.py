"""Smoke test of a recipe: three training steps that check whether its parts fit together."""

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
SEGMENT_S = 0.25  # length of segments, or longer if the discriminators need it
SMALL = {"filters": 4, "max_filters": 32}  # values for discriminators that have these options


@dataclass(frozen=True)
class SmokeResult:
    """Result of a smoke test."""

    trained: TrainingResult
    seconds_of_audio: float  # encoded and decoded by the saved codec
    bitrate_bps: float
    corpus: str  # name of the corpus of the clips


def smoke_test(
    recipe: Recipe,
    folder: Path,
    report: Callable[[TrainingProgress], None] | None = None,
    announce: Callable[[str], None] | None = None,
) -> SmokeResult | None:
    """Train `smoke_recipe(recipe)` on a few clips of its corpus, then load and run the saved codec.

    Returns None in all processes except the main one. Raises the errors of a training, CorpusError for a
    missing folder or manifest, and RunError if a step was skipped or the codec does not return finite audio
    of the same shape.
    """
    recipe = smoke_recipe(recipe)
    recipe, corpus = _some_clips(recipe)
    trained = train(recipe, folder, report, announce, corpus)
    if trained.skipped:
        raise RunError(
            f"{trained.skipped} of {STEPS} steps in {folder} had NaN or infinity. Lower "
            "optimizer.learning_rate, or set training.precision=fp32."
        )
    if not trained.is_main:
        return None
    codec = load(trained.folder.path)
    wav = 0.1 * torch.randn(1, codec.channels, codec.sample_rate + 1)  # not a whole number of frames
    decoded = codec.decode(codec.encode(wav), num_samples=wav.shape[2])
    if decoded.shape != wav.shape or not bool(decoded.isfinite().all()):
        raise RunError(
            f"the codec in {trained.folder.codec} decoded audio {list(wav.shape)} to {list(decoded.shape)}, "
            "or to numbers that are not finite. Check its network and quantizer with: codecvq plugins check"
        )
    return SmokeResult(trained, wav.shape[2] / codec.sample_rate, codec.bitrate, corpus.name)


def smoke_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe with the same network, quantizer and losses, and everything else minimal.

    It trains on short segments with small discriminators from step 1 on, and validates and saves after the
    last step. It needs little memory and takes seconds on one core.
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
    """The recipe and a few clips of each split of its corpus.

    Uses the bundled corpus, with a warning, if a registered corpus is not installed.
    """
    section = recipe.corpus
    try:
        corpus = recipe_corpus(section)
    except CorpusError as error:
        if section.name is None or section.root is not None:
            raise
        logger.warning("the smoke test uses the bundled corpus: %s", error)
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
    """A discriminator's options with few channels, if it has options of the usual names."""
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
    """Length in seconds of a short segment of whole frames; at most the recipe's segment length."""
    options = dict(recipe.network)
    with torch.random.fork_rng():
        network = build_network(
            options.pop("name"), sample_rate=recipe.sample_rate, channels=recipe.channels, **options
        )
    samples = max(needed, round(SEGMENT_S * recipe.sample_rate))
    frames = -(-samples // network.hop_length)
    return min(frames * network.hop_length / recipe.sample_rate, recipe.corpus.segment_s)
