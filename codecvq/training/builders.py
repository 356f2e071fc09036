"""Functions that build codec, corpus and training segments from a recipe."""

from __future__ import annotations

from pathlib import Path

import torch

from codecvq.codec import Codec
from codecvq.construction import GIB, Limits, construction_limits
from codecvq.data import Corpus, Segments, open_corpus
from codecvq.data.split_file import SPLIT_FILE, read_split
from codecvq.errors import RecipeError
from codecvq.training.recipe import CorpusSection, Recipe

LIMITS = Limits(weights_bytes=8 * GIB, tensor_bytes=2 * GIB)  # 2 billion weights


def build_codec(recipe: Recipe, name: str = "codec") -> Codec:
    """Build a new codec, initialized with the recipe's seed.

    Raises OptionError for invalid options and for a codec larger than `LIMITS`.
    """
    torch.manual_seed(recipe.training.seed)
    with construction_limits(LIMITS, "the codec of the recipe"):
        return Codec(
            sample_rate=recipe.sample_rate,
            channels=recipe.channels,
            network=recipe.network,
            quantizer=recipe.quantizer,
            name=name,
        )


def recipe_corpus(section: CorpusSection) -> Corpus:
    """Open the corpus of a recipe."""
    return open_corpus(
        section.name,
        source=section.source,
        reader=section.reader,
        options=section.options,
        folder=section.folder,
        manifest=section.manifest,
        root=section.root,
        split_by=section.split_by,
        speakers=section.speakers,
        exclude_speakers=section.exclude_speakers,
    )


def run_corpus(recipe: Recipe, folder: Path) -> Corpus:
    """Open the corpus of a run, with the splits stored in the run folder, if any."""
    corpus = recipe_corpus(recipe.corpus)
    file = folder / SPLIT_FILE
    return read_split(file).apply(corpus) if file.is_file() else corpus


def recipe_segments(recipe: Recipe, corpus: Corpus, hop_length: int) -> Segments:
    """Build the training segments of a corpus.

    Raises RecipeError if a segment is not a whole number of frames of `hop_length` samples.
    """
    whole = recipe.corpus.segment_s * recipe.sample_rate / hop_length
    if abs(whole - round(whole)) > 1e-6:
        raise RecipeError(
            f"corpus.segment_s is {recipe.corpus.segment_s}, which is {whole:.2f} frames of "
            f"{hop_length} samples at {recipe.sample_rate} Hz. Set it to "
            f"{max(1, round(whole)) * hop_length / recipe.sample_rate:g}."
        )
    return Segments(
        corpus.split("train"),
        recipe.sample_rate,
        recipe.corpus.segment_s,
        recipe.training.batch_size * recipe.training.accumulate,
        recipe.training.seed,
        augment=recipe.corpus.augment,
        balance=recipe.corpus.balance,
        cache_bytes=int(recipe.corpus.cache_gb * 1e9),
    )
