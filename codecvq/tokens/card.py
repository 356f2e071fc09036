"""The metadata files of a token dataset: `codec.json`, `stats.json` and `README.md`.

`codec.json`, the card, describes the codec of the codes and the job that wrote them. The footer of every
shard has a copy, so a single shard is self-describing. `codebooks_sha256` alone decides whether a codec can
decode the codes; `weights_sha256` decides whether it decodes them to the same samples.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from codecvq.arguments import checked_num_codebooks
from codecvq.code_entropy import entropy_nats
from codecvq.errors import TokensError
from codecvq.escaping import markdown, printable
from codecvq.json_file import parse_json, read_bounded, validated
from codecvq.limits import MAX_CODEBOOK_SIZE, MAX_CODEBOOKS

if TYPE_CHECKING:
    from codecvq.api.codec import AudioCodec

FORMAT = "codecvq.tokens/1"
STRIDED_FORMAT = "codecvq.tokens/2"  # with strides, which readers of format 1 do not support
CARD_NAME, STATS_NAME, README_NAME, FAILURES_NAME = "codec.json", "stats.json", "README.md", "failures.jsonl"
MAX_HISTOGRAM_SIZE = 65_536  # entries; a larger codebook is counted sparsely, without a histogram in the file
MIN_PIECE_S, MAX_PIECE_S = 1.0, 600.0  # limits of `Job.max_seconds`
LANGUAGE = re.compile("[a-z]{2,3}")  # ISO 639; Hugging Face rejects other codes
MAX_CARD_BYTES = 1 << 20
ADVICE = "Restore it, or tokenize again."

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
#: used in file names and in the front matter of README.md
SplitName = Annotated[str, Field(pattern=r"^\w[\w.-]{0,99}$")]
Positive = Annotated[int, Field(gt=0, lt=2**31)]


class Job(BaseModel):
    """The input and the limits of a tokenize job. All shards of a folder belong to one job."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    clips: Annotated[int, Field(ge=0, lt=2**40)]  # with rows, and failures, of the complete dataset
    clips_sha256: Sha256  # hash of ids, splits, positions in the files, texts and columns, in order
    shards: dict[SplitName, Positive]  # split -> number of files
    shard_clips: Annotated[int, Field(gt=0)]
    shard_seconds: Annotated[float, Field(gt=0)]
    #: maximum duration of a row; longer clips are cut. None: clips are whole, as in datasets without the key
    max_seconds: Annotated[float, Field(ge=MIN_PIECE_S, le=MAX_PIECE_S)] | None = None


class Card(BaseModel):
    """The content of `codec.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    codec: Annotated[str, Field(max_length=1000)]
    weights_sha256: Sha256
    codebooks_sha256: Sha256
    quantizer: dict[str, Any]  # name, plugin, version, api
    sample_rate: Positive  # Hz
    hop_length: Positive  # samples per frame
    codebook_sizes: Annotated[  # of the stored codebooks
        tuple[Annotated[int, Field(gt=0, le=MAX_CODEBOOK_SIZE)], ...],
        Field(min_length=1, max_length=MAX_CODEBOOKS),
    ]
    #: frames per code, of each codebook; None: all 1, as in datasets without the key
    strides: Annotated[tuple[Positive, ...] | None, Field(max_length=MAX_CODEBOOKS)] = None
    codec_codebooks: Positive  # number of codebooks of the codec
    channels: Positive
    codecvq: str
    job: Job

    @model_validator(mode="after")
    def _check_codebooks(self) -> Card:
        if len(self.codebook_sizes) > self.codec_codebooks:
            raise ValueError(
                f"{len(self.codebook_sizes)} codebook_sizes, but codec_codebooks is {self.codec_codebooks}"
            )
        if self.strides is not None and len(self.strides) != len(self.codebook_sizes):
            raise ValueError(f"{len(self.strides)} strides for {len(self.codebook_sizes)} codebook_sizes")
        if self.strides is not None and max(self.strides) == 1:
            raise ValueError("all strides are 1; omit the key")
        return self

    @property
    def frames_per_code(self) -> tuple[int, ...]:
        """The stride of each stored codebook."""
        return self.strides or (1,) * len(self.codebook_sizes)

    @property
    def frame_rate(self) -> Fraction:
        """Frames per second."""
        return Fraction(self.sample_rate, self.hop_length)

    def to_json(self) -> str:
        """Return the text of `codec.json`."""
        rate = self.frame_rate
        values = self.model_dump()
        if self.strides is None:
            del values["strides"]
        if self.job.max_seconds is None:
            del values["job"]["max_seconds"]
        name = FORMAT if self.strides is None else STRIDED_FORMAT
        fields = {"format": name, **values, "frame_rate": [rate.numerator, rate.denominator]}
        return json.dumps(fields, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, origin: str) -> Card:
        """Parse a card; raises TokensError with the invalid key. `origin` names the text in errors."""
        fields = parse_json(text, origin, error=TokensError, advice=ADVICE)
        format_name, rate = fields.pop("format", None), fields.pop("frame_rate", None)
        if format_name != (STRIDED_FORMAT if fields.get("strides") is not None else FORMAT):
            raise TokensError(
                f"{origin}: format is {str(format_name)[:60]!r}, but {FORMAT!r} is needed, or "
                f"{STRIDED_FORMAT!r} with strides. Give a token dataset, or read it with the codecvq that "
                "wrote it."
            )
        card = validated(cls, fields, origin, error=TokensError, advice=ADVICE)
        expected = card.frame_rate
        if rate != [expected.numerator, expected.denominator]:
            raise TokensError(
                f"{origin}: frame_rate is {str(rate)[:60]}, but sample_rate / hop_length is {expected}. "
                f"{ADVICE}"
            )
        return card


def make_card(codec: AudioCodec, num_codebooks: int | None, job: Job) -> Card:
    """Return the card of a job, for the first `num_codebooks` codebooks of the codec, or all of them.

    Raises TokensError if a card cannot describe the codec.
    """
    from codecvq import __version__

    depth = checked_num_codebooks(num_codebooks, codec, TokensError)
    if codec.variable_depth:
        raise TokensError(
            f"codec {codec.name!r} has a variable number of codes per frame, which a token dataset cannot "
            "store. Write .cvq files, or use a codec with a fixed number."
        )
    strides = tuple(codec.strides)[:depth]
    fields: dict[str, Any] = {  # Any: pydantic validates them
        "codec": codec.name,
        "weights_sha256": codec.weights_sha256,
        "codebooks_sha256": codec.codebooks_sha256,
        "quantizer": dict(codec.quantizer_info),
        "sample_rate": codec.sample_rate,
        "hop_length": codec.hop_length,
        "codebook_sizes": tuple(codec.codebook_sizes)[:depth],
        "strides": strides if max(strides, default=1) != 1 else None,
        "codec_codebooks": codec.num_codebooks,
        "channels": codec.channels,
        "codecvq": __version__,
        "job": job,
    }
    try:
        return Card.from_json(Card(**fields).to_json(), "the card")  # round trip: it must be readable
    except (ValueError, TypeError, TokensError) as error:
        text = " ".join(str(error).split())
        raise TokensError(
            f"the properties of codec {codec.name!r} cannot be stored in {CARD_NAME} ({text})."
        ) from error


def read_card(folder: Path) -> Card:
    """Read the card of a token dataset; raises TokensError if it is missing or invalid."""
    path = folder / CARD_NAME
    if not os.path.lexists(path):
        raise TokensError(
            f"{folder} has no {CARD_NAME}, so it is not a token dataset. Give the folder that tokenize wrote."
        )
    return Card.from_json(read_bounded(path, MAX_CARD_BYTES, error=TokensError, advice=ADVICE), str(path))


def check_same_job(folder: Path, stored: Card, current: Card, codec: AudioCodec) -> None:
    """Raise TokensError if the stored card belongs to another job than the current one of `codec`."""
    # The hash may be stored in an earlier format that the codec still matches.
    books = stored if codec.matches_codebooks(stored.codebooks_sha256) else current
    weights = stored if codec.matches_weights(stored.weights_sha256) else current
    comparisons = [
        ("codebooks", stored.codebooks_sha256[:12], books.codebooks_sha256[:12]),
        ("codec weights", stored.weights_sha256[:12], weights.weights_sha256[:12]),
        ("number of codebooks", len(stored.codebook_sizes), len(current.codebook_sizes)),
        ("number of clips", stored.job.clips, current.job.clips),
        ("clips", stored.job.clips_sha256[:12], current.job.clips_sha256[:12]),
        ("shard_clips", stored.job.shard_clips, current.job.shard_clips),
        ("shard_seconds", stored.job.shard_seconds, current.job.shard_seconds),
        ("max_seconds", stored.job.max_seconds, current.job.max_seconds),
    ]
    for name, old, new in comparisons:
        if old != new:
            raise TokensError(
                f"{folder} contains tokens of another job: its {name} is {old}, but now it is {new}. "
                "Give another folder, or remove this one to start again."
            )


class Histogram:
    """Counts of each code of one codebook, accumulated over shards."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.dense = np.zeros(size if size <= MAX_HISTOGRAM_SIZE else 0, dtype=np.int64)
        self.sparse: dict[int, int] = {}
        self.total = 0  # number of codes

    def add(self, codes: npt.NDArray[np.integer[Any]]) -> None:
        """Add codes `[M]`."""
        self.total += len(codes)
        if len(self.dense):
            self.dense += np.bincount(codes, minlength=self.size)
            return
        for code, count in zip(
            *(part.tolist() for part in np.unique(codes, return_counts=True)), strict=True
        ):
            self.sparse[code] = self.sparse.get(code, 0) + count

    def summary(self) -> dict[str, Any]:
        """Return size, number of used entries, entropy in bits, and for smaller codebooks the histogram."""
        counts = (
            self.dense[self.dense > 0]
            if len(self.dense)
            else np.array(list(self.sparse.values()), dtype=np.int64)
        )
        summary = {
            "size": self.size,
            "used": len(counts),
            "entropy_bits": float(entropy_nats(counts)) / math.log(2),
        }
        return summary | ({"histogram": self.dense.tolist()} if len(self.dense) else {})


def dataset_stats(
    card: Card,
    histograms: Sequence[Histogram],
    clips: Mapping[str, int],
    samples: int,
    frames: int,
    failures: int,
) -> dict[str, Any]:
    """Return the content of `stats.json`.

    The entropy is computed for each codebook separately, over the whole dataset. `clips` maps each split to
    its number of rows.
    """
    books = [histogram.summary() for histogram in histograms]
    rates = [float(card.frame_rate) / stride for stride in card.frames_per_code]  # codes per second
    return {
        "clips": sum(clips.values()),
        "splits": dict(clips),
        "failures": failures,
        "hours": samples / card.sample_rate / 3600,
        "frames": frames,
        "tokens": sum(histogram.total for histogram in histograms),
        "nominal_bps": sum(
            rate * float(np.log2(size)) for rate, size in zip(rates, card.codebook_sizes, strict=True)
        ),
        "entropy_bps": sum(rate * book["entropy_bits"] for rate, book in zip(rates, books, strict=True)),
        "codebooks": books,
    }


def _strides_note(card: Card) -> str:
    if card.strides is None:
        return ""
    strides = ", ".join(map(str, card.strides))
    return f"""

The codebooks have one code per block of frames; the block lengths are {strides}. `codes` has one value per
block; `read_tokens` repeats it over the frames of its block."""


def readme(card: Card, stats: Mapping[str, Any], languages: Iterable[str], licenses: Iterable[str]) -> str:
    """Return the text of the dataset's README.

    `datasets.load_dataset(folder)` reads the splits from its front matter.
    """
    front = ["---", "configs:", "- config_name: default", "  data_files:"]
    for split in (name for name, clips in stats["splits"].items() if clips):
        path = json.dumps(f"data/{split}-*.parquet")  # a JSON string is a valid YAML string
        front += [f"  - split: {json.dumps(split)}", f"    path: {path}"]
    codes = {language.split("-")[0].lower() for language in languages}
    tags = sorted(filter(LANGUAGE.fullmatch, codes))
    front += ["language:", *(f"- {json.dumps(tag)}" for tag in tags)] if tags else []
    front += ["tags:", "- audio", "- codecvq", "---"]
    sizes, licenses = card.codebook_sizes, sorted(filter(None, licenses))
    rate, codebooks = card.frame_rate, card.codebooks_sha256[:12]
    body = f"""
# Speech tokens of {markdown(card.codec)}

{stats["clips"]:,} clips, {stats["hours"]:.2f} hours, {stats["tokens"]:,} tokens: {len(sizes)} codebooks of
{", ".join(map(str, sorted(set(sizes))))} entries at {rate} frames per second
({stats["nominal_bps"] / 1000:.2f} kbit/s nominal, {stats["entropy_bps"] / 1000:.2f} kbit/s entropy).
{stats["failures"]} clips could not be tokenized, see `{FAILURES_NAME}`.

`codes` is `[codebook][frame]` with raw codes: no offsets, no special tokens. `num_samples` is the exact
length at {card.sample_rate} Hz.{_strides_note(card)}

```python
import codecvq
from codecvq.tokens import detokenize, read_tokens

for row in read_tokens("."):
    row.id, row.codes, row.num_samples          # numpy, [{len(sizes)}, T]
detokenize(codecvq.load("CODEC"), ".", "wavs")      # {printable(card.codec)}, codebooks {codebooks}
```

Or use `datasets.load_dataset("THIS FOLDER")`. `{CARD_NAME}` describes the codec of the codes; `{STATS_NAME}`
has statistics of the codes.
"""
    if licenses:
        body += "\nLicenses of the speech: " + ", ".join(map(markdown, licenses)) + ".\n"
    return "\n".join(front) + "\n" + body
