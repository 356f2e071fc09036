"""Which clips a codec was trained on, from the split that its run folder has written down."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from codecvq.plugins import PROJECT

if TYPE_CHECKING:
    from codecvq.training.corpus import Clip

SPLIT_FILE = "split.jsonl"
INSIDE = ("codec", "best")  # folders of a run that hold its codec

WasTrainedOn = Callable[["Clip"], bool]

logger = logging.getLogger(PROJECT)


def training_clips(source: Path) -> WasTrainedOn | None:
    """Whether the codec in a run folder, or in its `codec` or `best`, was trained on a clip.

    None where that is not written down, as for a published codec.
    """
    run = source.parent if source.name in INSIDE else source
    file = run / SPLIT_FILE
    if not file.is_file():
        return None
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    ids = {row["id"] for row in rows if row["split"] == "train"}
    return lambda clip: clip.id in ids


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
