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

INSIDE = ("codec", "best")  # folders of a run that hold its codec

WasTrainedOn = Callable[["Clip"], bool]

logger = logging.getLogger(PROJECT)


def training_clips(source: Path) -> WasTrainedOn | None:
    """Whether the codec in a run folder, or in its `codec` or `best`, was trained on a clip.

    A recording is known under any name and in any folder, as long as its file is the same. None where the
    split is not written down, as for a published codec. Raises CorpusError where it is damaged.
    """
    run = source.parent if source.name in INSIDE else source
    file = run / SPLIT_FILE
    if not file.is_file():
        return None
    recorded = read_split(file)
    return lambda clip: recorded.split_of_recording(clip) == "train"


def trained_clips(
    codec: str, was_trained_on: WasTrainedOn | None, clips: Iterable[Clip], measured: Sequence[str]
) -> tuple[str, ...] | None:
    """Those of the `measured` ids of `clips` that a codec was trained on; None where that is not known.

    Logs a warning where there are some.
    """
    if was_trained_on is None:
        return None
    known = {clip.id for clip in clips if was_trained_on(clip)}
    found = tuple(id_ for id_ in measured if id_ in known)
    if found:
        logger.warning(
            "codec %s was trained on %d of the %d clips that it is measured on: its numbers are too good. "
            "Take clips that it has not seen, as the split 'test' of its corpus.",
            codec, len(found), len(measured),
        )  # fmt: skip
    return found
