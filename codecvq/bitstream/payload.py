"""The payload of one channel: the codes `[N, T]` in each kind of coding, and back.

If codes are absent, the payload starts with the depths: the number of codes of each frame, 0 to N. Depths are
packed if the codes are packed, else entropy-coded as one codebook of N + 1 entries.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from codecvq.api.code_tables import CodeTables
from codecvq.bitstream.entropy import entropy_decode, entropy_encode, max_entropy_bytes
from codecvq.bitstream.layout import Layout
from codecvq.bitstream.learned import counts_fit, learned_decode, learned_encode, max_learned_bytes
from codecvq.bitstream.model import MAX_ALPHABET, TRANSITION_ALPHABET, planes
from codecvq.bitstream.packed import Codes, pack_codes, packed_bits, unpack_codes
from codecvq.bitstream.source import malformed
from codecvq.errors import BitstreamError

KINDS = ("packed", "entropy", "digits", "learned")
SPLIT_ABOVE = {
    "entropy": MAX_ALPHABET,
    "digits": TRANSITION_ALPHABET,
}  # kind -> largest codebook size that is coded as one digit

Entropy = Literal["auto"] | bool


class Payload(NamedTuple):
    """The coded codes of one channel; `depths` is None if no code is absent."""

    depths: bytes | None
    codes: bytes

    @property
    def data(self) -> bytes:
        """The bytes of depths and codes."""
        return (self.depths or b"") + self.codes


def encode_payload(
    codes: Codes, layout: Layout, entropy: Entropy, tables: CodeTables | None
) -> dict[str, Payload]:
    """Return the payload of codes `[N, T]` in each kind that `entropy` allows."""
    stored = None if layout.is_full else layout.stored
    kinds: dict[str, bytes] = {}
    if entropy is not True:
        kinds["packed"] = pack_codes(codes, layout.sizes, stored)
    if entropy:
        kinds["entropy"] = entropy_encode(codes, layout, SPLIT_ABOVE["entropy"])
        if planes(layout.sizes, SPLIT_ABOVE["digits"]) != planes(layout.sizes, SPLIT_ABOVE["entropy"]):
            kinds["digits"] = entropy_encode(codes, layout, SPLIT_ABOVE["digits"])
        if tables is not None and counts_fit(layout, tables):
            kinds["learned"] = learned_encode(codes, layout, tables)
    depths = {packed: _encode_depths(layout, packed) for packed in {kind == "packed" for kind in kinds}}
    return {kind: Payload(depths[kind == "packed"], data) for kind, data in kinds.items()}


def check_entropy(entropy: Entropy) -> None:
    """Raise BitstreamError unless `entropy` is True, False or "auto"."""
    if not (isinstance(entropy, bool) or (isinstance(entropy, str) and entropy == "auto")):
        raise BitstreamError(f"entropy is {entropy!r}, but True, False or 'auto' is needed.")


def decode_payload(
    kind: str, layout: Layout, data: bytes, depth_bytes: int | None, min_bytes: int, tables: CodeTables | None
) -> tuple[Codes, int]:
    """Return the codes `[N, T]` of one channel, and the bits that they take, including depths.

    `depth_bytes` are the bytes of the depths; None: no code is absent. `min_bytes` is the length to which the
    writer pads. Raises BitstreamError if the payload is damaged or its length does not match the codes.
    """
    payload = data
    if depth_bytes is not None:
        if depth_bytes > len(data):
            raise malformed(f"{depth_bytes} bytes of depths in a payload of {len(data)}")
        depths, payload = data[:depth_bytes], data[depth_bytes:]
        layout = layout.with_depths(_decode_depths(kind, layout, depths))
        min_bytes = max(0, min_bytes - depth_bytes)
    bits = 8 * len(data)
    if kind == "packed":
        code_bits = packed_bits(layout.sizes, layout.counts)
        if len(payload) != max(-(-code_bits // 8), min_bytes):
            raise malformed(f"{len(payload)} bytes of payload for {code_bits} bits")
        bits = 8 * (depth_bytes or 0) + code_bits
        codes = unpack_codes(payload, layout.sizes, layout.frames, None if layout.is_full else layout.stored)
    else:
        codes = _decode_codes(kind, layout, payload, min_bytes, tables)
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


def _encode_depths(layout: Layout, packed: bool) -> bytes | None:
    """Encode the depths of a layout; None if no code is absent."""
    if layout.depths is None:
        return None
    depths, depths_layout = layout.depths[None], layout.depths_layout
    return pack_codes(depths, depths_layout.sizes) if packed else entropy_encode(depths, depths_layout)


def _decode_depths(kind: str, code_layout: Layout, data: bytes) -> Codes:
    layout, packed = code_layout.depths_layout, kind == "packed"
    max_bytes = -(-packed_bits(layout.sizes, layout.counts) // 8) if packed else max_entropy_bytes(layout)
    if len(data) > max_bytes or (packed and len(data) != max_bytes):
        raise malformed(f"{len(data)} bytes of depths for {layout.frames} frames")
    depths = (unpack_codes(data, layout.sizes, layout.frames) if packed else entropy_decode(data, layout))[0]
    if (depths == len(code_layout.sizes)).all():
        raise malformed("depths of codes of which none is absent")
    codes: Codes = depths.astype(np.int64)
    return codes
