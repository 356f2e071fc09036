"""The `.cvq` file format: compact storage of codec codes."""

from codecvq.bitstream.chunk import Chunk
from codecvq.bitstream.format import Packet, pack, read_cvq, unpack, write_cvq
from codecvq.bitstream.reader import CvqReader, Gap
from codecvq.bitstream.writer import CvqWriter

__all__ = ["Chunk", "CvqReader", "CvqWriter", "Gap", "Packet", "pack", "read_cvq", "unpack", "write_cvq"]
