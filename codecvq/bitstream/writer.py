"""`CvqWriter`: writes a `.cvq` file chunk by chunk while a recording is encoded."""

from __future__ import annotations

import math
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from codecvq.bitstream.chunk import ChunkLayouts, write_chunk
from codecvq.bitstream.codes import checked_layout, integer_codes
from codecvq.bitstream.end import EndRecord
from codecvq.bitstream.header import (
    MAX_CHANNELS,
    MAX_CHUNK_CODES,
    MAX_CHUNK_FRAMES,
    MAX_RATE,
    TABLES_ID_BYTES,
    Header,
)
from codecvq.bitstream.identity import Identity, checked_code_tables, whole_number
from codecvq.bitstream.packed import Codes
from codecvq.bitstream.payload import Entropy, check_entropy
from codecvq.bitstream.silence import Silent, whole_blocks
from codecvq.bitstream.source import MAX_NUMBER
from codecvq.errors import BitstreamError

if TYPE_CHECKING:
    from codecvq.api.codec import AudioCodec


class CvqWriter:
    """Writes the codes of one recording to a binary stream, which may be a pipe.

    `channels` are the channels of the recording, by default those of the codec. A codec with fewer channels
    codes them one by one: C = ceil(channels / channels of the codec) in codes `[C, N, t]`. `sample_rate` is
    the rate of the recording in Hz, by default that of the codec. `num_samples` is its length per channel at
    that rate, if it is known before the end. `entropy=True` uses the adaptive model or the codec's own
    tables, `False` packs the codes, and `"auto"` takes the shortest result of each chunk. Chunks have about
    `chunk_s` seconds: shorter ones reach a reader sooner, longer ones take fewer bytes.

    The bytes depend on the codes only, not on how `write` divides them. A `with` block closes the file at its
    end; after an exception the file has no end record, and the chunks before it can be read with
    `salvage=True`. The stream stays open.

    Raises BitstreamError if the format cannot store a property of the codec or recording.
    """

    def __init__(
        self,
        stream: BinaryIO,
        codec: AudioCodec,
        *,
        channels: int | None = None,
        sample_rate: int | None = None,
        num_samples: int | None = None,
        entropy: Entropy = "auto",
        chunk_s: float = 1.0,
    ) -> None:
        self._stream, self._identity = stream, Identity.from_codec(codec)
        identity = self._identity
        check_entropy(entropy)
        if not (isinstance(chunk_s, (int, float)) and chunk_s > 0):
            raise BitstreamError(f"chunk_s is {chunk_s!r}, but a number of seconds above 0 is needed.")
        self._entropy, self._chunk_s, self._variable_depth = entropy, chunk_s, codec.variable_depth
        channels = identity.channels if channels is None else channels
        self._channels = whole_number(channels, "channels", 1, MAX_CHANNELS)
        self._coded_channels = -(-self._channels // identity.channels)
        sample_rate = identity.sample_rate if sample_rate is None else sample_rate
        self._sample_rate = whole_number(sample_rate, "sample_rate", 1, MAX_RATE)
        self._num_samples = None if num_samples is None else _length(num_samples)
        self._tables = checked_code_tables(codec, identity.sizes) if entropy else None
        self._header: Header | None = None  # written with the first codes, whose N it contains
        self._codes: list[Codes] = []  # [C, N, t] each, not written yet
        self._silent: list[Silent] = []  # [C, t] each
        self._waiting = 0  # frames in `_codes`
        self._frames = 0  # frames in chunks
        self._chunk_bytes: list[int] = []
        self._num_bytes = 0
        self._closed = False

    def write(self, codes: Any, silent: Any = None) -> None:  # Any: arrays, tensors or lists
        """Add codes `[C, N, t]`, or `[N, t]` of one channel; writes the chunks that are complete.

        N is at most the number of codebooks, and equal in all calls. With a codec that has `variable_depth`,
        absent codes are -1. `silent` `[C, t]` or `[t]` marks frames whose codes are not stored. With strides,
        a frame is stored unless all frames of its block are silent. Raises BitstreamError for codes that do
        not match the codec, when their chunk is complete.
        """
        self._check_open()
        values = integer_codes(codes, self._identity, self._coded_channels)
        silence = _checked_silence(silent, values)
        header = self._start(values.shape[1])
        if values.shape[1] != len(header.sizes):
            raise BitstreamError(
                f"codes have {values.shape[1]} codebooks, but {len(header.sizes)} were written before."
            )
        self._codes.append(values)
        self._silent.append(silence)
        self._waiting += values.shape[2]
        if self._waiting >= header.chunk_frames:
            self._write_chunks(header, header.chunk_frames)

    def close(self, num_samples: int | None = None) -> int:
        """Write the rest and the end record, and return the number of bytes of the file.

        `num_samples` is the length of the recording per channel at its own sample rate. The default is the
        length given before, or that of all frames. Raises BitstreamError if it exceeds the frames.
        """
        self._check_open()
        header = self._start(len(self._identity.sizes))
        frames = self._frames + self._waiting
        if num_samples is None:
            whole = frames * header.hop_length * header.original_sample_rate // header.sample_rate
            num_samples = whole if self._num_samples is None else self._num_samples
        length = _length(num_samples)
        if self._num_samples not in (None, length):
            raise BitstreamError(f"num_samples is {length}, but the header has {self._num_samples}.")
        needed = -(-header.coded_samples(length) // header.hop_length)
        if frames < needed:
            raise BitstreamError(
                f"num_samples is {length}, which needs {needed} frames of {header.hop_length} samples, but "
                f"the codes have {frames}. Give the length of the clip that was encoded."
            )
        self._write_chunks(header, 1)
        record = EndRecord(frames, length, tuple(self._chunk_bytes[:-1]))
        self._put(record.to_bytes(header))
        self._closed = True
        return self._num_bytes

    def __enter__(self) -> CvqWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and not self._closed:
            self.close()

    def _start(self, num_codebooks: int) -> Header:
        """Return the header; writes it in the first call."""
        if self._header is None:
            identity, tables = self._identity, self._tables
            strides = identity.strides[:num_codebooks]
            self._header = Header(
                identity.codebooks_id, identity.weights_id, identity.sample_rate, identity.hop_length,
                identity.sizes[:num_codebooks], strides,
                self._chunk_frames(num_codebooks, math.lcm(*strides)), self._sample_rate, self._channels,
                self._coded_channels, self._num_samples,
                "" if tables is None else tables.sha256[: 2 * TABLES_ID_BYTES],
            )  # fmt: skip
            self._put(self._header.data)
        return self._header

    def _chunk_frames(self, num_codebooks: int, block: int) -> int:
        """Return the frames of a chunk: a multiple of `block`, near `chunk_s`, within the limit of codes."""
        if block > MAX_CHUNK_FRAMES:
            raise BitstreamError(
                f"strides have a least common multiple of {block:,} frames; at most {MAX_CHUNK_FRAMES:,} are "
                "possible. Use strides that divide each other."
            )
        identity = self._identity
        most = max(1, MAX_CHUNK_CODES // (self._coded_channels * num_codebooks))
        frames = max(1, round(min(self._chunk_s * identity.sample_rate / identity.hop_length, most)))
        return min(-(-frames // block), max(1, most // block)) * block

    def _write_chunks(self, header: Header, least: int) -> None:
        """Write the waiting frames as chunks while at least `least` frames wait."""
        codes = np.concatenate(self._codes, axis=2) if self._codes else None
        if codes is None:
            return
        silent, at = np.concatenate(self._silent, axis=1), 0
        while (frames := codes.shape[2] - at) >= least:
            chunk = slice(at, at + min(frames, header.chunk_frames))
            self._write_chunk(header, codes[:, :, chunk], silent[:, chunk])
            at = chunk.stop
        self._codes, self._silent = [codes[:, :, at:].copy()], [silent[:, at:].copy()]
        self._waiting = codes.shape[2] - at

    def _write_chunk(self, header: Header, codes: Codes, silent: Silent) -> None:
        frames = codes.shape[2]
        if frames > header.max_frames:
            raise BitstreamError(
                f"a chunk has {frames} frames of {codes.shape[0]} x {codes.shape[1]} codes, more than the "
                f"limit of {header.max_frames}. Use strides that divide each other."
            )
        silent = whole_blocks(silent, header.strides)
        parts: list[Codes] = []
        layouts = []
        for values, silence in zip(codes, silent, strict=True):
            known = np.where(silence, 0, values) if silence.any() else values
            layout = checked_layout(known, self._identity, self._variable_depth, self._frames)
            stored = known[:, ~silence] if silence.any() else known
            depths = None if layout.depths is None else layout.depths[~silence]
            parts.append(stored)
            layouts.append(header.layout(stored.shape[1]).with_depths(depths))
        chunk = ChunkLayouts(parts, layouts, silent)
        number = self._frames // header.chunk_frames
        data = write_chunk(header, number, chunk, self._entropy, self._tables)
        self._put(data)
        self._chunk_bytes.append(len(data))
        self._frames += frames

    def _put(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._stream.write(rest) :]  # an unbuffered pipe may take only a part
        self._stream.flush()
        self._num_bytes += len(data)

    def _check_open(self) -> None:
        if self._closed:
            raise BitstreamError("the file is closed. Use a new writer for another recording.")


def _length(num_samples: Any) -> int:  # Any: a caller's value
    return whole_number(num_samples, "num_samples", 0, MAX_NUMBER)


def _checked_silence(silent: Any, codes: Codes) -> Silent:  # Any: an array, tensor or lists
    """Return `[C, t]` for codes `[C, N, t]`. Raises BitstreamError for another shape or type."""
    shape = (codes.shape[0], codes.shape[2])
    if silent is None:
        return np.zeros(shape, dtype=bool)
    try:
        values = np.asarray(silent.detach().cpu() if hasattr(silent, "detach") else silent)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BitstreamError(f"silent cannot be read ({error}). Give booleans [C, t].") from error
    values = values[None] if values.ndim == 1 else values
    if values.shape != shape or values.dtype != np.bool_:
        raise BitstreamError(
            f"silent has shape {list(values.shape)} and type {values.dtype}, but booleans {list(shape)} are "
            "needed."
        )
    return values
