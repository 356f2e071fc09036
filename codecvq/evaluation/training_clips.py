"""Detection of evaluation clips that were in the training split of a codec."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from codecvq.data.split_file import SPLIT_FILE, read_split
from codecvq.plugins import PROJECT

if TYPE_CHECKING:
    from codecvq.data.corpus import Clip

CODEC_FOLDERS = ("codec", "best")  # subfolders of a run folder that contain a codec

TrainingClipTest = Callable[["Clip"], bool]

logger = logging.getLogger(PROJECT)


def training_clip_test(source: Path) -> TrainingClipTest | None:
    """Return a function that tests whether a clip was in the training split of the codec in `source`.

    `source` is a run folder, or its subfolder `codec` or `best`. A recording is identified by the content of
    its file, not by name or folder. Returns None if there is no split file, as for a published codec. Raises
    CorpusError if the split file is damaged.
    """
    run = source.parent if source.name in CODEC_FOLDERS else source
    file = run / SPLIT_FILE
    if not file.is_file():
        return None
    split = read_split(file)
    return lambda clip: split.split_of_recording(clip) == "train"


def trained_clip_ids(
    codec: str, is_training_clip: TrainingClipTest | None, clips: Iterable[Clip], measured: Sequence[str]
) -> tuple[str, ...] | None:
    """Return the `measured` ids of `clips` that the codec was trained on; None if unknown.

    Logs a warning if there are any.
    """
    if is_training_clip is None:
        return None
    trained = {clip.id for clip in clips if is_training_clip(clip)}
    overlap = tuple(id_ for id_ in measured if id_ in trained)
    if overlap:
        logger.warning(
            "codec %s was trained on %d of the %d clips of the evaluation, so its scores are too high. "
            "Use held-out clips, for example the split 'test' of its corpus.",
            codec, len(overlap), len(measured),
        )  # fmt: skip
    return overlap
