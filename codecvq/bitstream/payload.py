"""The payload of a `.cvq` file: written in the shortest kind, and read back to codes.

If codes are absent, the payload starts with the depths: the number of codes of each frame, 0 to N. Depths are
packed if the codes are packed, else entropy-coded as one codebook of N + 1 entries.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from codecvq.api.code_tables import CodeTables
from codecvq.bitstream.entropy import entropy_decode, entropy_encode, max_entropy_bytes
from codecvq.bitstream.header import Header, malformed
from codecvq.bitstream.layout import Layout
from codecvq.bitstream.learned import counts_fit, learned_decode, learned_encode, max_learned_bytes
from codecvq.bitstream.model import MAX_ALPHABET, TRANSITION_ALPHABET, planes
from codecvq.bitstream.packed import Codes, pack_codes, packed_bits, unpack_codes
from codecvq.errors import BitstreamError

SPLIT_ABOVE = {
    "entropy": MAX_ALPHABET,
    "digits": TRANSITION_ALPHABET,
}  # kind -> largest codebook size that is coded as one digit

Entropy = Literal["auto"] | bool


def write_payload(
    codes: Codes, layout: Layout, entropy: Entropy, tables: CodeTables | None
) -> tuple[str, int | None, bytes]:
    """Return the shortest payload of codes `[N, T]` as (kind, bytes of depths, payload).

    The bytes of depths are None if there are no depths.
    """
    if not (isinstance(entropy, bool) or (isinstance(entropy, str) and entropy == "auto")):
        raise BitstreamError(f"entropy is {entropy!r}, but True, False or 'auto' is needed.")
    stored = None if layout.is_full else layout.stored
    candidates: dict[str, tuple[bytes, bytes]] = {}  # kind -> depths, codes
    if entropy is not True:
        candidates["packed"] = _encode_depths(layout, packed=True), pack_codes(codes, layout.sizes, stored)
    if entropy:
        depths = _encode_depths(layout, packed=False)
        candidates["entropy"] = depths, entropy_encode(codes, layout, SPLIT_ABOVE["entropy"])
        if planes(layout.sizes, SPLIT_ABOVE["digits"]) != planes(layout.sizes, SPLIT_ABOVE["entropy"]):
            candidates["digits"] = depths, entropy_encode(codes, layout, SPLIT_ABOVE["digits"])
        if tables is not None and counts_fit(layout, tables):
            candidates["learned"] = depths, learned_encode(codes, layout, tables)
    kind = min(
        candidates, key=lambda kind: sum(map(len, candidates[kind]))
    )  # a tie selects the simplest kind
    depths, payload = candidates[kind]
    return kind, None if layout.depths is None else len(depths), depths + payload


def read_payload(header: Header, payload: bytes, tables: CodeTables | None) -> tuple[Codes, int]:
    """Return the codes `[N, T]` of a file, and the bits that they take, including depths.

    Raises BitstreamError if the payload is damaged or its length does not match the codes.
    """
    layout, min_bytes = header.layout, header.min_payload_bytes
    if header.depth_bytes is not None:
        depths, payload = payload[: header.depth_bytes], payload[header.depth_bytes :]
        layout = layout.with_depths(_decode_depths(header, depths))
        min_bytes = max(0, min_bytes - header.depth_bytes)
    bits = 8 * ((header.depth_bytes or 0) + len(payload))
    if header.kind == "packed":
        code_bits = packed_bits(layout.sizes, layout.counts)
        if len(payload) != max(-(-code_bits // 8), min_bytes):
            raise malformed(f"{len(payload)} bytes of payload for {code_bits} bits")
        bits = 8 * (header.depth_bytes or 0) + code_bits
        codes = unpack_codes(payload, layout.sizes, layout.frames, None if layout.is_full else layout.stored)
    else:
        codes = _decode_codes(header.kind, layout, payload, min_bytes, tables)
    full_codes = layout.expand(codes)
    if full_codes is None:
        raise BitstreamError("its depths change within a block of a codebook: the file is damaged.")
    return full_codes, bits


def _decode_codes(
    kind: str, layout: Layout, payload: bytes, min_bytes: int, tables: CodeTables | None
) -> Codes:
    if kind in SPLIT_ABOVE:
        max_bytes = max_entropy_bytes(layout, SPLIT_ABOVE[kind])
    elif tables is None:
        raise BitstreamError(
            "its codes are coded with learned tables, which are stored in the codec that wrote it. Read it "
            "with that codec."
        )
    elif not counts_fit(layout, tables):
        raise malformed(f"{layout.frames} frames under learned tables")
    else:
        max_bytes = max_learned_bytes(layout, tables)
    if len(payload) > max(min_bytes, max_bytes):
        raise malformed(f"{len(payload)} bytes of payload for codes of at most {max_bytes}")
    if kind in SPLIT_ABOVE:
        return entropy_decode(payload, layout, SPLIT_ABOVE[kind])
    assert tables is not None, "checked above"
    return learned_decode(payload, layout, tables)


def _encode_depths(layout: Layout, packed: bool) -> bytes:
    """Encode the depths of a layout; empty if no code is absent."""
    if layout.depths is None:
        return b""
    depths, depths_layout = layout.depths[None], layout.depths_layout
    return pack_codes(depths, depths_layout.sizes) if packed else entropy_encode(depths, depths_layout)


def _decode_depths(header: Header, data: bytes) -> Codes:
    layout = header.layout.depths_layout
    max_bytes = (
        -(-packed_bits(layout.sizes, layout.counts) // 8)
        if header.kind == "packed"
        else max_entropy_bytes(layout)
    )
    if len(data) > max_bytes or (header.kind == "packed" and len(data) != max_bytes):
        raise malformed(f"{len(data)} bytes of depths for {layout.frames} frames")
    packed = header.kind == "packed"
    depths = (unpack_codes(data, layout.sizes, layout.frames) if packed else entropy_decode(data, layout))[0]
    if (depths == len(header.sizes)).all():
        raise malformed("depths of a file in which no code is absent")
    codes: Codes = depths.astype(np.int64)
    return codes
