"""Bundled pretrained codecs, and the test clips that their model cards report on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from codecvq import CodecSpec, CorpusSpec, hookimpl

HERE = Path(__file__).parent
SPECS = (
    CodecSpec(
        name="speech-16k",
        folder="speech_16k",
        summary="speech, 16 kHz, trained on nine hours of free speech",
        licence="Apache-2.0; for the data see the card",
        card="speech_16k/README.md",
    ),
    CodecSpec(
        name="speech-16k-stream",
        folder="speech_16k_stream",
        summary="speech, 16 kHz, for streams: causal, 40 ms latency",
        licence="Apache-2.0; for the data see the card",
        card="speech_16k_stream/README.md",
    ),
)


@hookimpl
def codecvq_codecs() -> Iterator[CodecSpec]:
    """The codecs whose weights are present: a checkout may lack them."""
    yield from (spec for spec in SPECS if (HERE / spec.folder).is_dir())


@hookimpl
def codecvq_corpora() -> Iterator[CorpusSpec]:
    """The corpus `test_speech`."""
    yield CorpusSpec(
        name="test_speech",
        factory="codecvq_pretrained.test_speech:clips",
        summary="sixty test clips of asterisk and festvox_ru, grouped into seen and unseen speakers",
        licence="CC-BY-SA-3.0 (en, es, fr), CC-BY-3.0 (it, ru), BSD-like (festvox-ru)",
        install="apt-get install asterisk-core-sounds-{en,es,fr,it,ru}{-g722,} festvox-ru; or, without being "
        "root: apt-get download the same packages, dpkg-deb -x each into one folder, and give that folder as "
        "root.",
    )
