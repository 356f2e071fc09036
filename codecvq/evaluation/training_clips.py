"""Which clips a codec was trained on, from the split that its run folder has written down."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from codecvq.data.split_file import SPLIT_FILE, read_split
from codecvq.plugins import PROJECT

if TYPE_CHECKING:
    from codecvq.data.corpus import Clip

CODEC_FOLDERS = ("codec", "best")  # folders of a run that hold its codec

TrainingClipTest = Callable[["Clip"], bool]

logger = logging.getLogger(PROJECT)


def training_clip_test(source: Path) -> TrainingClipTest | None:
    """Whether the codec in a run folder, or in its `codec` or `best`, was trained on a clip.

    A recording is known under any name and in any folder, as long as its file is the same. None where the
    split is not written down, as for a published codec. Raises CorpusError where it is damaged.
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
    """Those of the `measured` ids of `clips` that a codec was trained on; None where that is not known.

    Logs a warning where there are some.
    """
    if is_training_clip is None:
        return None
    trained = {clip.id for clip in clips if is_training_clip(clip)}
    overlap = tuple(id_ for id_ in measured if id_ in trained)
    if overlap:
        logger.warning(
            "codec %s was trained on %d of the %d clips that it is measured on: its numbers are too good. "
            "Take clips that it has not seen, as the split 'test' of its corpus.",
            codec, len(overlap), len(measured),
        )  # fmt: skip
    return overlap
