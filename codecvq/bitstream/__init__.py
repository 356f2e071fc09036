"""Codes in as few bytes as they need: the `.cvq` file."""

from codecvq.bitstream.format import Packet, pack, read_cvq, unpack, write_cvq

__all__ = ["Packet", "pack", "read_cvq", "unpack", "write_cvq"]
