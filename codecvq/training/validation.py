"""How a codec does on clips that it does not learn from, in passing."""

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

MAX_CLIP_S = 5.0  # of a clip: validation is a glance, `codecvq evaluate` is the measure
MAX_SAMPLES = 4  # clips that are kept to listen to


class Validation:
    """The fixed validation clips of a training and what is measured on them."""

    def __init__(
        self, recipe: Recipe, corpus: Corpus, codec: Codec, losses: Mapping[str, nn.Module], folder: RunFolder
    ) -> None:
        config = recipe.training
        self.codec, self.folder, self.compiled = codec, folder, config.compile
        self.clips = _spread_clips(corpus.split("validation"), config.validation_clips)
        if config.validation_clips and not self.clips:
            logger.warning(
                "no clip of the corpus is for validation: one in twenty is, by a hash, and there are %d. "
                "Nothing will be kept in best/, and nothing to listen to. Add recordings, or give a manifest "
                "with a column split.",
                len(corpus),
            )
        self.mel = losses.get("mel")
        self.mel_weight = recipe.losses.weights().get("mel", 0.0)
        self.best_by = config.keep_best
        self.metrics = _available_metrics(config.validation_metrics, self.best_by)
        self.lower_is_better = self._lower_is_better()
        self._samples: list[ValidationSample] = []
        self._warned_ids: set[str] = set()  # ids of clips that were told of

    def run(self, step: int) -> dict[str, float]:
        """Means over the clips, `validation/NAME`; the codec is kept in `best/` if it is the best so far."""
        found = self._measure()
        value = found.get(self.best_by)
        if value is not None:
            self._save_if_best(step, value)
        return found

    def take_samples(self) -> list[ValidationSample]:
        """What the last look decoded, to listen to; nothing where it was taken before."""
        samples, self._samples = self._samples, []
        return samples

    @torch.no_grad()
    def _measure(self) -> dict[str, float]:
        """The clips through codes and back, as users would get them. The mode is put back."""
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
                    logger.warning(
                        "validation goes without clip %s: %s", printable(clip.id), printable(str(error))
                    )
                continue
            wav = torch.from_numpy(samples)[None, None].to(self.codec.device)
            with self._eager():
                decoded = self.codec.decode(self.codec.encode(wav), num_samples=wav.shape[2])
            if self.mel is not None:
                mel = self.mel(LossInputs(decoded=decoded, reference=wav))
                values.setdefault("mel", []).append(self.mel_weight * float(mel))
            output = decoded[0, 0].cpu().numpy()
            for name, value in _scores(self.metrics, samples, samples, self.codec.sample_rate).items():
                values.setdefault(name, []).append(value)
            if len(self._samples) < MAX_SAMPLES:
                self._samples.append(ValidationSample(clip.id, self.codec.sample_rate, samples, output))
        self.codec.train(training)
        return {f"validation/{name}": sum(each) / len(each) for name, each in values.items()}

    def _eager(self) -> AbstractContextManager[object]:
        """A block without compiled networks: clips differ in length, and each would be compiled anew."""
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
        except OSError as error:  # a full disk costs a candidate, not the training
            logger.warning("the best codec so far was not kept in %s (%s)", self.folder.best, error.strerror)
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
                "training.keep_best is validation/mel, and losses.mel is 0: no best/ will be kept. Set "
                "keep_best to one of training.validation_metrics, as validation/stoi."
            )
        if self.best_by not in known:
            raise RecipeError(
                f"training.keep_best is {self.best_by!r}, which is not measured."
                f"{nearest(self.best_by, known)} Take one of {', '.join(known)}, or name the metric in "
                "training.validation_metrics."
            )
        return known[self.best_by]


def _saved_value(file: Path, best_by: str) -> float | None:
    """What the codec in `best/` scored; None where there is none, or it was chosen by something else."""
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return float(found["value"]) if found.get("by", best_by) == best_by else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s cannot be read (%s): the next codec is taken for the best", file, error)
        return None


def _available_metrics(names: Sequence[str], best_by: str) -> list[Metric]:
    """The metrics of those names that can be used here; one whose packages are not installed is told and left
    out, unless the best codec is chosen by it.
    """
    ready: list[Metric] = []
    for name in names:
        try:
            ready += prepare([name]).ready
        except MissingExtra as error:
            spec = registry().find(MetricSpec, name).spec
            if best_by in {f"validation/{column}" for column in spec.columns}:
                raise
            logger.warning("validation goes without %s: %s", name, error)
    return ready


def _scores(
    metrics: Sequence[Metric],
    reference: npt.NDArray[np.float32],
    decoded: npt.NDArray[np.float32],
    sample_rate: int,
) -> dict[str, float]:
    found: dict[str, float] = {}
    for metric in metrics:
        try:
            found |= metric.measure(reference, decoded, sample_rate)
        except MetricUndefined:
            continue  # too short or silent: the others count
    return found


def _spread_clips(clips: Corpus, most: int) -> list[Clip]:
    """At most `most` clips, evenly over the corpus: neighbours are of one speaker."""
    count = min(most, len(clips))
    return [clips[i * len(clips) // count] for i in range(count)]
