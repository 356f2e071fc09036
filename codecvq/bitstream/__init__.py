"""The `.cvq` file format: compact storage of codec codes."""

from codecvq.bitstream.format import Packet, pack, read_cvq, unpack, write_cvq

__all__ = ["Packet", "pack", "read_cvq", "unpack", "write_cvq"]
