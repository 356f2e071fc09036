"""Well-known corpora that torchaudio.datasets can download."""

from __future__ import annotations

from collections.abc import Iterator

from codecvq import CorpusSpec, hookimpl

INSTALL = "codecvq downloads it through torchaudio on first use, into root or ~/.cache/codecvq/corpora"


@hookimpl
def codecvq_corpora() -> Iterator[CorpusSpec]:
    """The corpora `libritts`, `ljspeech` and `vctk`."""
    yield CorpusSpec(
        name="libritts",
        factory="codecvq_torchaudio_corpora.corpora:libritts",
        summary="audiobooks for speech synthesis, 24 kHz, up to 585 hours by 2,456 speakers, English",
        reference="arXiv:1904.02882",
        licence="CC-BY-4.0",
        install=f"{INSTALL} (train-clean-100, 8 GB; other subsets unpacked next to it are read too).",
    )
    yield CorpusSpec(
        name="ljspeech",
        factory="codecvq_torchaudio_corpora.corpora:ljspeech",
        summary="24 hours of one woman reading, 22.05 kHz, English",
        reference="https://keithito.com/LJ-Speech-Dataset",
        licence="public domain",
        install=f"{INSTALL} (3 GB).",
    )
    yield CorpusSpec(
        name="vctk",
        factory="codecvq_torchaudio_corpora.corpora:vctk",
        summary="44 hours of sentences by 110 speakers with many accents, 48 kHz, English",
        reference="doi:10.7488/ds/2645",
        licence="CC-BY-4.0",
        install=f"{INSTALL} (11 GB).",
    )
