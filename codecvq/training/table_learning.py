"""Learns the code tables of a trained codec from clips of its corpus, and stores them in its folder."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from codecvq.bitstream.table_search import MIN_COUNTED, LearnedTables, learn_tables
from codecvq.codec import Codec, load_folder
from codecvq.codec.tables_file import write_tables
from codecvq.data import Corpus
from codecvq.errors import AudioError, OptionError

MAX_CLIP_S = 30.0  # longer clips are cut
VALIDATION_SHARE = 0.2  # of the counted audio: length of the audio that decides on contexts
HELD_OUT = 5  # every fifth training clip is one for validation if the corpus has no validation clips
MIN_GAIN = 0.01  # of the packed bits: tables that save less are not stored

Codes = npt.NDArray[np.int64]
Progress = Callable[[float], None]  # seconds of audio encoded until now


def learn_code_tables(
    codec: Codec, corpus: Corpus, minutes: float, progress: Progress | None = None
) -> LearnedTables | None:
    """Encode clips of a corpus and learn tables from their codes, see `codecvq.bitstream.table_search`.

    Counts at most `minutes` of the split "train". A fifth as much of the split "validation" decides on the
    contexts. Test clips are not used. Clips are drawn with a fixed seed, and unreadable ones are skipped.

    Returns None if there are too few clips, or if tables save less than 1 % of the packed bits. Raises
    OptionError if the quantizer provides tables itself.
    """
    if codec.quantizer.code_tables() is not None:
        raise OptionError(
            f"the quantizer {codec.quantizer_config['name']!r} of codec {codec.name!r} provides code tables, "
            "which are part of its weights. It needs no others."
        )
    if 60 * minutes * codec.frame_rate < MIN_COUNTED:
        return None
    train, validation = corpus.split("train"), corpus.split("validation")
    if not len(validation):
        of_validation = np.arange(len(train)) % HELD_OUT == 0
        train, validation = _select(train, ~of_validation), _select(train, of_validation)
    counted = encode_clips(codec, train, 60 * minutes, progress)
    held_out = encode_clips(codec, validation, 60 * minutes * VALIDATION_SHARE)
    learned = learn_tables(
        counted,
        held_out,
        codec.codebook_sizes,
        levels=codec.quantizer.code_levels,
        strides=codec.strides,
        piece=round(codec.frame_rate),
    )
    return None if learned is None or learned.table_bits > (1 - MIN_GAIN) * learned.packed_bits else learned


def store_code_tables(
    folder: Path, corpus: Corpus, minutes: float, device: torch.device | str, progress: Progress | None = None
) -> LearnedTables | None:
    """Learn tables for the codec in `folder` and write them there; see `learn_code_tables`.

    Raises CodecError if the codec cannot be loaded, OSError if the file cannot be written.
    """
    codec = load_folder(folder, device)
    learned = learn_code_tables(codec, corpus, minutes, progress)
    if learned is not None:
        write_tables(folder, learned.tables, codec.codebooks_sha256)
    return learned


def encode_clips(
    codec: Codec, corpus: Corpus, max_s: float, progress: Progress | None = None
) -> Iterator[Codes]:
    """Yield the codes `[N, T]` of clips of a corpus, `max_s` seconds in total or all.

    The clips are drawn with a fixed seed and cut to 30 s. Unreadable clips are skipped.
    """
    order = list(range(len(corpus)))
    random.Random(0).shuffle(order)
    total_s = 0.0
    for index in order:
        clip = corpus[index]
        if total_s >= max_s:
            return
        longest_s = min(MAX_CLIP_S, max_s - total_s)
        if clip.duration_s is not None and clip.duration_s > longest_s:
            clip = replace(clip, duration_s=longest_s, open_end=False)
        try:
            samples = clip.read(codec.sample_rate)
        except AudioError:
            continue  # listed by the training, and by every command that needs the clip
        wav = torch.from_numpy(samples).expand(1, codec.channels, -1)
        yield codec.encode(wav)[0].cpu().numpy()
        total_s += len(samples) / codec.sample_rate
        if progress is not None:
            progress(total_s)


def _select(corpus: Corpus, mask: npt.NDArray[np.bool_]) -> Corpus:
    return replace(corpus, clips=corpus.lazy_clips.select(np.flatnonzero(mask)))
