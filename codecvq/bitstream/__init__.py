"""The `.cvq` file format: compact storage of codec codes."""

from codecvq.bitstream.chunk import Chunk
from codecvq.bitstream.decoding import DecodedFile, decode_file
from codecvq.bitstream.encoding import EncodedFile, encode_file
from codecvq.bitstream.format import Packet, pack, read_cvq, unpack, write_cvq
from codecvq.bitstream.pipes import decode_pipe, echo_pipe, encode_pipe
from codecvq.bitstream.reader import CvqReader, Gap
from codecvq.bitstream.writer import CvqWriter

__all__ = [
    "Chunk",
    "CvqReader",
    "CvqWriter",
    "DecodedFile",
    "EncodedFile",
    "Gap",
    "Packet",
    "decode_file",
    "decode_pipe",
    "echo_pipe",
    "encode_file",
    "encode_pipe",
    "pack",
    "read_cvq",
    "unpack",
    "write_cvq",
]
