"""Third-party codecs to compare with, for `codecvq compare`: Opus, Codec2, and the original signal."""

from __future__ import annotations

from collections.abc import Iterator

from codecvq import CodecSpec, hookimpl


@hookimpl
def codecvq_codecs() -> Iterator[CodecSpec]:
    """The third-party codecs, in order of falling bit rate."""
    yield CodecSpec(
        name="original",
        factory="codecvq_baselines.original:Original",
        summary="the original clip at 16 bits per sample",
        external=True,
    )
    for name, summary in (
        ("opus-16", "Opus, 16 kbit/s, variable rate, 20 ms"),
        ("opus-12", "Opus, 12 kbit/s, variable rate, 20 ms"),
        ("opus-8", "Opus, 8 kbit/s, variable rate, 20 ms"),
        ("opus-6", "Opus, 6 kbit/s, constant rate, 20 ms"),
        ("opus-6-60ms", "Opus, 6 kbit/s, variable rate, 60 ms"),
    ):
        yield CodecSpec(
            name=name,
            factory=f"codecvq_baselines.opus:{name.replace('-', '_')}",
            summary=f"{summary} (opusenc, opusdec)",
            reference="RFC 6716",
            licence="BSD-3-Clause",
            external=True,
        )
    for mode, kbps in (("3200", "3.2"), ("1300", "1.3"), ("700c", "0.7")):
        yield CodecSpec(
            name=f"codec2-{mode}",
            factory=f"codecvq_baselines.codec2:codec2_{mode}",
            summary=f"Codec2, {kbps} kbit/s, 8 kHz (c2enc, c2dec)",
            reference="https://github.com/drowe67/codec2",
            licence="LGPL-2.1-only",
            external=True,
        )
