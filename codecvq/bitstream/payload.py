"""The payload of a `.cvq` file: the smallest of the kinds that a writer may choose, and back to codes.

Where codebooks are absent from some frames, the payload begins with the number of codes of each frame, 0 to
N: packed where the codes are packed, else entropy-coded as one codebook of N + 1.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from codecvq.api.code_tables import CodeTables
from codecvq.bitstream.entropy import entropy_decode, entropy_encode, most_bytes
from codecvq.bitstream.header import Header, malformed
from codecvq.bitstream.layout import Layout
from codecvq.bitstream.learned import fits, learned_bytes, learned_decode, learned_encode
from codecvq.bitstream.model import FOLLOWED_ALPHABET, LARGEST_ALPHABET, planes
from codecvq.bitstream.packed import Codes, pack_codes, packed_bits, unpack_codes
from codecvq.errors import BitstreamError

WHOLE = {"entropy": LARGEST_ALPHABET, "digits": FOLLOWED_ALPHABET}  # largest codebook coded as one digit

Entropy = Literal["auto"] | bool


def write_payload(
    codes: Codes, layout: Layout, entropy: Entropy, tables: CodeTables | None
) -> tuple[str, int | None, bytes]:
    """The kind of the smallest payload of codes `[N, T]`, its bytes of depths (None: no depths), and the
    payload.
    """
    if not (isinstance(entropy, bool) or (isinstance(entropy, str) and entropy == "auto")):
        raise BitstreamError(f"entropy is {entropy!r}, but True, False or 'auto' is needed.")
    stored = None if layout.is_full else layout.stored
    found: dict[str, tuple[bytes, bytes]] = {}  # kind -> depths, codes
    if entropy is not True:
        found["packed"] = _depths(layout, packed=True), pack_codes(codes, layout.sizes, stored)
    if entropy:
        depths = _depths(layout, packed=False)
        found["entropy"] = depths, entropy_encode(codes, layout, WHOLE["entropy"])
        if planes(layout.sizes, WHOLE["digits"]) != planes(layout.sizes, WHOLE["entropy"]):
            found["digits"] = depths, entropy_encode(codes, layout, WHOLE["digits"])
        if tables is not None and fits(layout, tables):
            found["learned"] = depths, learned_encode(codes, layout, tables)
    kind = min(found, key=lambda kind: sum(map(len, found[kind])))  # of equals the simplest
    depths, payload = found[kind]
    return kind, None if layout.depths is None else len(depths), depths + payload


def read_payload(header: Header, payload: bytes, tables: CodeTables | None) -> tuple[Codes, int]:
    """The codes `[N, T]` of a file, and how many bits they take in it, depths included.

    Raises BitstreamError where the payload has another length than its codes need, or is damaged.
    """
    layout, least = header.layout, header.least_payload
    if header.depth_bytes is not None:
        depths, payload = payload[: header.depth_bytes], payload[header.depth_bytes :]
        layout = layout.with_depths(_read_depths(header, depths))
        least = max(0, least - header.depth_bytes)
    bits = 8 * ((header.depth_bytes or 0) + len(payload))
    if header.kind == "packed":
        code_bits = packed_bits(layout.sizes, layout.counts)
        if len(payload) != max(-(-code_bits // 8), least):
            raise malformed(f"{len(payload)} bytes of payload for {code_bits} bits")
        bits = 8 * (header.depth_bytes or 0) + code_bits
        codes = unpack_codes(payload, layout.sizes, layout.frames, None if layout.is_full else layout.stored)
    else:
        codes = _read_coded(header.kind, layout, payload, least, tables)
    whole = layout.spread(codes)
    if whole is None:
        raise BitstreamError("its depths change within a block of a codebook: the file is damaged.")
    return whole, bits


def _read_coded(kind: str, layout: Layout, payload: bytes, least: int, tables: CodeTables | None) -> Codes:
    if kind in WHOLE:
        most = most_bytes(layout, WHOLE[kind])
    elif tables is None:
        raise BitstreamError(
            "its codes are coded with learned tables, which are in the codec that wrote it. Read it with "
            "that codec."
        )
    elif not fits(layout, tables):
        raise malformed(f"{layout.frames} frames under learned tables")
    else:
        most = learned_bytes(layout, tables)
    if len(payload) > max(least, most):
        raise malformed(f"{len(payload)} bytes of payload for codes of at most {most}")
    if kind in WHOLE:
        return entropy_decode(payload, layout, WHOLE[kind])
    assert tables is not None, "checked above"
    return learned_decode(payload, layout, tables)


def _depths(layout: Layout, packed: bool) -> bytes:
    """The bytes of the depths; none where all codebooks have a code at every frame."""
    if layout.depths is None:
        return b""
    depths, of = layout.depths[None], layout.of_depths
    return pack_codes(depths, of.sizes) if packed else entropy_encode(depths, of)


def _read_depths(header: Header, data: bytes) -> Codes:
    of = header.layout.of_depths
    most = -(-packed_bits(of.sizes, of.counts) // 8) if header.kind == "packed" else most_bytes(of)
    if len(data) > most or (header.kind == "packed" and len(data) != most):
        raise malformed(f"{len(data)} bytes of depths for {of.frames} frames")
    packed = header.kind == "packed"
    depths = (unpack_codes(data, of.sizes, of.frames) if packed else entropy_decode(data, of))[0]
    if (depths == len(header.sizes)).all():
        raise malformed("depths of a file in which no code is absent")
    whole: Codes = depths.astype(np.int64)
    return whole
