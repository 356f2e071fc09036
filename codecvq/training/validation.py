"""Validation of a codec on held-out clips during training."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from codecvq.api.hookspecs import MetricSpec
from codecvq.api.training import ValidationSample
from codecvq.codec import Codec
from codecvq.data import Clip, Corpus
from codecvq.errors import AudioError, MissingExtra, RecipeError, nearest
from codecvq.escaping import printable
from codecvq.evaluation.metrics import Metric, MetricUndefined, prepare
from codecvq.files import write_atomically
from codecvq.losses import LossInputs
from codecvq.plugins import PROJECT, registry
from codecvq.training.recipe import Recipe
from codecvq.training.run import RunFolder

logger = logging.getLogger(PROJECT)

MAX_CLIP_S = 5.0  # longer clips are cut: validation is a quick check, `codecvq evaluate` measures in full
MAX_SAMPLES = 4  # clips stored for listening


class Validation:
    """The fixed validation clips of a training and their metrics."""

    def __init__(
        self, recipe: Recipe, corpus: Corpus, codec: Codec, losses: Mapping[str, nn.Module], folder: RunFolder
    ) -> None:
        config = recipe.training
        self.codec, self.folder, self.compiled = codec, folder, config.compile
        self.clips = _spread_clips(corpus.split("validation"), config.validation_clips)
        if config.validation_clips and not self.clips:
            logger.warning(
                "the corpus has no validation clips: a hash selects one clip in twenty, and there are %d. "
                "The run will have no best/ folder and no audio samples. Add clips, or use a manifest with a "
                "split column.",
                len(corpus),
            )
        self.mel = losses.get("mel")
        self.mel_weight = recipe.losses.weights().get("mel", 0.0)
        self.best_by = config.keep_best
        self.metrics = _available_metrics(config.validation_metrics, self.best_by)
        self.lower_is_better = self._lower_is_better()
        self._samples: list[ValidationSample] = []
        self._warned_ids: set[str] = set()  # ids of unreadable clips that have been reported

    def run(self, step: int) -> dict[str, float]:
        """Return means over the clips as `validation/NAME`; save the codec to `best/` if it has improved."""
        means = self._measure()
        value = means.get(self.best_by)
        if value is not None:
            self._save_if_best(step, value)
        return means

    def take_samples(self) -> list[ValidationSample]:
        """Return and clear the samples decoded by the last validation."""
        samples, self._samples = self._samples, []
        return samples

    @torch.no_grad()
    def _measure(self) -> dict[str, float]:
        """Encode and decode the clips and compute the means of all metrics. Restores the training mode."""
        training = self.codec.training
        self.codec.eval()
        values: dict[str, list[float]] = {}
        self._samples = []
        for clip in self.clips:
            try:
                samples = clip.read(self.codec.sample_rate)[: round(MAX_CLIP_S * self.codec.sample_rate)]
            except AudioError as error:
                if clip.id not in self._warned_ids:
                    self._warned_ids.add(clip.id)
                    logger.warning("validation skips clip %s: %s", printable(clip.id), printable(str(error)))
                continue
            wav = torch.from_numpy(samples)[None, None].to(self.codec.device)
            with self._eager():
                decoded = self.codec.decode(self.codec.encode(wav), num_samples=wav.shape[2])
            if self.mel is not None:
                mel = self.mel(LossInputs(decoded=decoded, reference=wav))
                values.setdefault("mel", []).append(self.mel_weight * float(mel))
            output = decoded[0, 0].cpu().numpy()
            for name, value in _scores(self.metrics, samples, output, self.codec.sample_rate).items():
                values.setdefault(name, []).append(value)
            if len(self._samples) < MAX_SAMPLES:
                self._samples.append(ValidationSample(clip.id, self.codec.sample_rate, samples, output))
        self.codec.train(training)
        return {f"validation/{name}": sum(each) / len(each) for name, each in values.items()}

    def _eager(self) -> AbstractContextManager[object]:
        """Context without compiled networks: clips differ in length, and each would be compiled again."""
        return torch.compiler.set_stance("force_eager") if self.compiled else nullcontext()

    def _save_if_best(self, step: int, value: float) -> None:
        file = self.folder.best / "best.json"
        before = _saved_value(file, self.best_by)
        if before is not None and (value == before or (value < before) != self.lower_is_better):
            return
        training = self.codec.training
        try:
            self.codec.eval().save(self.folder.best)
            write_atomically(file, json.dumps({"step": step, "by": self.best_by, "value": value}) + "\n")
        except OSError as error:  # on a full disk, continue the training without this codec
            logger.warning("the best codec could not be saved in %s (%s)", self.folder.best, error.strerror)
        finally:
            self.codec.train(training)

    def _lower_is_better(self) -> bool:
        columns = {
            f"validation/{column}": not cast(MetricSpec, metric.spec).higher_is_better
            for metric in self.metrics
            for column in metric.spec.columns
        }
        known = {"validation/mel": True, **columns}
        if self.best_by == "validation/mel" and self.mel is None:
            logger.warning(
                "training.keep_best is validation/mel, but losses.mel is 0: the run will have no best/ "
                "folder. Set keep_best to one of training.validation_metrics, such as validation/stoi."
            )
        if self.best_by not in known:
            raise RecipeError(
                f"training.keep_best is {self.best_by!r}, which is not computed."
                f"{nearest(self.best_by, known)} Use one of {', '.join(known)}, or add the metric to "
                "training.validation_metrics."
            )
        return known[self.best_by]


def _saved_value(file: Path, best_by: str) -> float | None:
    """Score of the codec in `best/`; None if there is none or `best_by` has changed."""
    if not file.is_file():
        return None
    try:
        best = json.loads(file.read_text(encoding="utf-8"))
        return float(best["value"]) if best.get("by", best_by) == best_by else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s cannot be read (%s); the next validation replaces the codec in best/", file, error)
        return None


def _available_metrics(names: Sequence[str], best_by: str) -> list[Metric]:
    """The metrics of these names whose packages are installed.

    Logs a warning for each of the others. Raises MissingExtra if `best_by` needs one of them.
    """
    ready: list[Metric] = []
    for name in names:
        try:
            ready += prepare([name]).ready
        except MissingExtra as error:
            spec = registry().find(MetricSpec, name).spec
            if best_by in {f"validation/{column}" for column in spec.columns}:
                raise
            logger.warning("validation skips metric %s: %s", name, error)
    return ready


def _scores(
    metrics: Sequence[Metric],
    reference: npt.NDArray[np.float32],
    decoded: npt.NDArray[np.float32],
    sample_rate: int,
) -> dict[str, float]:
    scores: dict[str, float] = {}
    for metric in metrics:
        try:
            scores |= metric.measure(reference, decoded, sample_rate)
        except MetricUndefined:
            continue  # too short or silent for this metric
    return scores


def _spread_clips(clips: Corpus, max_clips: int) -> list[Clip]:
    """At most `max_clips` clips, spread evenly, since adjacent clips often share a speaker."""
    count = min(max_clips, len(clips))
    return [clips[i * len(clips) // count] for i in range(count)]
