"""`CvqReader`: reads a `.cvq` file chunk by chunk, from a file or a pipe, and from damaged files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, BinaryIO

from codecvq.api.code_tables import CodeTables
from codecvq.bitstream.chunk import CHUNK_TAG, Chunk, StoredChunk, read_chunk
from codecvq.bitstream.earlier import VERSIONS, EarlierFile, read_earlier
from codecvq.bitstream.end import END_TAG, EndRecord, find_end, read_end
from codecvq.bitstream.header import MAGIC, VERSION, Header
from codecvq.bitstream.identity import check_codec, checked_code_tables
from codecvq.bitstream.source import Source, truncated
from codecvq.errors import BitstreamError

if TYPE_CHECKING:
    from codecvq.api.codec import AudioCodec

MAX_FILE_BYTES = 1 << 28  # of a file that is read or written at once
BUDGET = 1 << 28  # steps for a reader without a codec, about 3 s
BUDGET_PER_BYTE = 1 << 13  # additional steps per byte of the file, about 80 us
CHECKED_PER_BYTE = 64  # bytes of checksums per byte of a damaged file, while it is searched for chunks


@dataclass(frozen=True)
class Gap:
    """A part of the recording that a damaged file does not contain."""

    first_frame: int
    end_frame: int | None  # first frame after the gap; None: not known, the end of the file is missing
    start_s: float
    end_s: float | None

    def __str__(self) -> str:
        end = "the end" if self.end_s is None else f"{self.end_s:.2f} s"
        return f"{self.start_s:.2f} s to {end}"


class CvqReader:
    """Iterates over the chunks of a `.cvq` file.

    Reads from the position of a binary stream, which may be a pipe, and holds one chunk. Versions 1 and 2
    have one chunk.

    With `codec`, its codebooks must be those that the file was written with; `force` also accepts other
    codebooks of the same sizes. The same codebooks with other weights (a decoder that was trained further)
    issue a UserWarning. `budget` limits the work of decoding. It is counted in steps of about 10 ns, each
    with at most 1/8 byte of memory. The default is 2^28 steps plus 2^13 per byte of the file without `codec`,
    and no limit with `codec`. `longest_s` limits the duration of the audio in seconds.

    With `salvage`, damaged chunks are skipped, and `gaps` lists what is missing. Without it, any damage
    raises.

    Raises BitstreamError for a damaged or truncated file, for another codec, and for a file above one of the
    limits.
    """

    def __init__(
        self,
        stream: BinaryIO,
        codec: AudioCodec | None = None,
        *,
        force: bool = False,
        budget: int | None = None,
        longest_s: float | None = None,
        salvage: bool = False,
    ) -> None:
        self._source, self._codec, self._force = Source(stream), codec, force
        self._budget, self._longest_s, self._salvage = budget, longest_s, salvage
        self._earlier: EarlierFile | None = None
        self._header = self._open()
        self._pending: StoredChunk | EarlierFile | None = self._earlier  # read, but not returned yet
        if codec is not None:
            check_codec(self._header, codec, force)
        is_indexed = self._source.is_seekable and self._earlier is None
        self._end = find_end(self._source, self._header) if is_indexed else None
        self._number = 0  # of the next chunk
        self._next_frame = 0  # end of the last chunk
        self._is_complete = self._earlier is not None and self._earlier.frames == 0  # nothing is left to read
        self._steps = 0  # of all chunks before
        self._checked = 0  # bytes of checksums while searching
        self.gaps: list[Gap] = []
        """Missing parts among the frames that were read; with `salvage` only."""
        self._check_longest(self.frames or 0)

    # header and totals

    @property
    def sample_rate(self) -> int:
        """Sample rate of the codec in Hz."""
        return self._header.sample_rate

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self._header.hop_length

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Size of each stored codebook."""
        return self._header.sizes

    @property
    def strides(self) -> tuple[int, ...]:
        """Frames per code, of each stored codebook."""
        return self._header.strides

    @property
    def codebooks_id(self) -> str:
        """The first 32 hexadecimal digits of the codec's `codebooks_sha256`."""
        return self._header.codebooks_id

    @property
    def weights_id(self) -> str:
        """The first 8 hexadecimal digits of the codec's `weights_sha256`."""
        return self._header.weights_id

    @property
    def channels(self) -> int:
        """Number of channels of the recording."""
        return self._header.channels

    @property
    def coded_channels(self) -> int:
        """C of the codes `[C, N, t]`: 1, or more if a codec of fewer channels coded them one by one."""
        return self._header.coded_channels

    @property
    def original_sample_rate(self) -> int:
        """Sample rate of the recording in Hz."""
        return self._header.original_sample_rate

    @property
    def chunk_frames(self) -> int:
        """Frames of each chunk; the last may have fewer."""
        return self._header.chunk_frames

    @property
    def frames(self) -> int | None:
        """Number of frames; None until the end of a pipe, or if the end of the file is missing."""
        if self._earlier is not None:
            return self._earlier.frames
        return None if self._end is None else self._end.frames

    @property
    def original_num_samples(self) -> int | None:
        """Samples per channel of the recording at its own rate; None if not known (yet)."""
        return self._header.original_num_samples if self._end is None else self._end.original_num_samples

    @property
    def num_samples(self) -> int | None:
        """Samples per channel at the codec's rate; None if not known (yet)."""
        length = self.original_num_samples
        return None if length is None else self._header.coded_samples(length)

    # chunks

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        stored = self._next_stored()
        if stored is None:
            raise StopIteration
        self._check_longest(stored.first_frame + stored.frames)
        try:
            tables = self._tables if stored.kind == "learned" else None
            self._check_budget(stored, tables)
            return stored.decode(tables)
        except BitstreamError as error:
            if isinstance(stored, EarlierFile):
                raise
            start_s = self._header.seconds(stored.first_frame)
            raise BitstreamError(f"chunk {stored.number} (at {start_s:.2f} s): {error}") from error

    def seek(self, frame: int) -> int:
        """Go to the chunk that contains `frame`, and return the first frame of that chunk.

        A file is read from the index, or without a valid index from its start. A pipe can only go forward.
        Clears the `gaps` before `frame`. Raises BitstreamError for a frame outside the recording.
        """
        frames = self.frames
        if frame < 0 or (frames is not None and frame >= frames):
            raise BitstreamError(f"frame {frame} is not in the file, which has {frames or 'no'} frames.")
        number = frame // self._header.chunk_frames
        if self._earlier is not None:
            self._pending, self._is_complete = self._earlier, False
            return 0
        if self._source.is_seekable:
            start = number if self._end is not None else 0
            self._source.seek(self._offsets()[start])
            self._pending, self._is_complete, self._number = None, False, start
            self._next_frame = start * self._header.chunk_frames
        elif number < self._number - (self._pending is not None):
            raise BitstreamError(f"frame {frame} was read before, and a pipe cannot go back.")
        while True:
            stored = self._next_stored()
            if stored is None:
                raise BitstreamError(f"frame {frame} is not in the file: it ends before.")
            if stored.first_frame + stored.frames > frame:
                break
        self._pending = stored
        self.gaps = [gap for gap in self.gaps if gap.end_frame is None or gap.end_frame > frame]
        return stored.first_frame

    # reading

    def _open(self) -> Header:
        """Read the header."""
        start = self._source.take(len(MAGIC) + 1)
        if not start.startswith(MAGIC):
            raise BitstreamError(f"it starts with {start!r}, not {MAGIC!r}: it is not a .cvq file.")
        if len(start) == len(MAGIC):
            raise truncated(len(start), "its header")
        if start[-1] in VERSIONS:
            self._source.rewind(0)
            data = self._source.take(MAX_FILE_BYTES + 1)
            check_size(len(data))
            self._earlier = read_earlier(data)
            return self._earlier.header
        if start[-1] != VERSION:
            raise BitstreamError(
                f"it has format version {start[-1]}, but this codecvq reads versions 1 to {VERSION}. Install "
                "a newer codecvq."
            )
        return Header.read(self._source)

    def _next_stored(self) -> StoredChunk | EarlierFile | None:
        """Return the next chunk; None at the end of the file."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._is_complete = pending is self._earlier
            return pending
        if self._is_complete:
            return None
        self._source.release()
        record = self._find_record() if self._salvage else self._read_record()
        if isinstance(record, StoredChunk):
            self._add_gap(record.first_frame)
            self._number, self._next_frame = record.number + 1, record.first_frame + record.frames
            return record
        self._is_complete = True
        if record is None:
            length = self.num_samples
            self._add_gap(None if length is None else -(-length // self._header.hop_length))
        else:
            self._end = record
            self._add_gap(record.frames)
        if self._number == 0 and self.gaps:
            raise BitstreamError("no chunk of it is whole: the file is damaged. Use another copy.")
        return None

    def _read_record(self) -> StoredChunk | EndRecord:
        """Read the chunk or end record at the position. Raises BitstreamError unless it is the next one."""
        position, header = self._source.position, self._header
        try:
            record = self._record(0, self._number)
            if isinstance(record, EndRecord):
                if record.frames != self._next_frame:
                    raise BitstreamError(
                        f"the end record counts {record.frames} frames, but {self._next_frame} come before "
                        "it: chunks are missing."
                    )
            elif record.number != self._number:
                what = "chunks are missing" if record.number > self._number else "chunks are out of order"
                raise BitstreamError(f"chunk {record.number} is at its place: {what}.")
            elif record.first_frame != self._next_frame:
                raise BitstreamError("it follows a chunk that is shorter than others: the file is damaged.")
            elif not self._is_possible(record):
                raise BitstreamError("it has more frames than the end record counts: the file is damaged.")
        except BitstreamError as error:
            start_s = header.seconds(self._number * header.chunk_frames)
            raise BitstreamError(
                f"chunk {self._number} (at {start_s:.2f} s, byte {position}): {error} Salvage reads what is "
                "whole."
            ) from error
        return record

    def _record(self, first_number: int, max_chunks: int) -> StoredChunk | EndRecord:
        first = self._source.take(1)
        if not first:
            raise truncated(self._source.position, "its chunks: it has no end record")
        self._source.rewind(self._source.position - 1)
        if first[0] == END_TAG:
            return read_end(self._source, self._header, max_chunks)
        return read_chunk(self._source, self._header, first_number)

    def _find_record(self) -> StoredChunk | EndRecord | None:
        """Return the next whole chunk or end record, from any byte on; None if there is none."""
        source = self._source
        while tag := source.take(1):
            position = source.position
            if tag[0] & 0xF0 == CHUNK_TAG or tag[0] == END_TAG:
                source.rewind(position - 1)
                try:
                    record = self._record(self._number, position)
                    if self._is_possible(record):
                        return record
                except BitstreamError:
                    pass
                self._checked += source.position - position
                source.rewind(position)
                if self._checked > CHECKED_PER_BYTE * (position + (1 << 16)):
                    return None
            source.release()
        return None

    def _is_possible(self, record: StoredChunk | EndRecord) -> bool:
        """Whether a record contradicts neither the chunks before it nor the end record."""
        if isinstance(record, EndRecord):
            return record.frames >= self._next_frame
        return self._end is None or record.first_frame + record.frames <= self._end.frames

    def _add_gap(self, end_frame: int | None) -> None:
        """List the frames from the last chunk to `end_frame` as missing, if there are any."""
        start, header = self._next_frame, self._header
        if end_frame is None or end_frame > start:
            end_s = None if end_frame is None else header.seconds(end_frame)
            self.gaps.append(Gap(start, end_frame, header.seconds(start), end_s))

    def _offsets(self) -> list[int]:
        """Return the positions of all chunks; only the first without an end record."""
        chunk_bytes = () if self._end is None else self._end.chunk_bytes
        return list(accumulate(chunk_bytes, initial=self._header.num_bytes))

    # limits

    @cached_property
    def _tables(self) -> CodeTables | None:
        """The learned tables that the file refers to."""
        codec, header = self._codec, self._header
        tables = None if codec is None else checked_code_tables(codec, codec.codebook_sizes)
        if codec is None or tables is None:
            return None
        if self._earlier is not None:
            is_same, written = codec.matches_codebooks(header.codebooks_id), header.codebooks_id[:12]
            what = f"learned tables of codebooks {written}"
        else:
            is_same, what = tables.sha256.startswith(header.tables_id), f"learned tables {header.tables_id}"
        if not is_same:
            raise BitstreamError(
                f"it was written with the {what}, but codec {str(codec.name)!r} has other tables. Read it "
                "with the codec that wrote it; force has no effect here."
            )
        return tables

    def _check_budget(self, stored: StoredChunk | EarlierFile, tables: CodeTables | None) -> None:
        """Raise BitstreamError if decoding needs more steps than the budget."""
        self._steps += stored.steps(tables)
        budget = self._budget
        if budget is None and self._codec is None:
            budget = BUDGET + BUDGET_PER_BYTE * self._source.position
        if budget is not None and self._steps > budget:
            raise BitstreamError(
                f"its {len(self._header.sizes)} x {stored.first_frame + stored.frames} codes take "
                f"{self._steps:,} steps to decode (about {self._steps / 1e8:.3g} s), more than the budget of "
                f"{budget:,}. Read it with the codec that wrote it, or give a larger budget."
            )

    def _check_longest(self, frames: int) -> None:
        seconds, longest_s = self._header.seconds(frames), self._longest_s
        if longest_s is not None and seconds > longest_s + self._header.seconds(1):
            raise BitstreamError(
                f"it contains {seconds / 3600:.1f} hours of audio, but at most {longest_s / 3600:g} are "
                "decoded at once. Encode the recording in parts."
            )


def check_size(length: int) -> None:
    """Raise BitstreamError for a file that is too large to be read at once."""
    if length > MAX_FILE_BYTES:
        raise BitstreamError(
            f"it has {length:,} bytes, more than the limit of {MAX_FILE_BYTES:,}. Use another copy."
        )
