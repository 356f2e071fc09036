"""Metrics of decoded clips: PESQ, STOI, mel distance, SI-SDR, ViSQOL, DNSMOS, speaker similarity."""

from __future__ import annotations

from collections.abc import Iterator

from codecvq import MetricSpec, hookimpl


@hookimpl
def codecvq_metrics() -> Iterator[MetricSpec]:
    """Register every metric of this package, in the order of a report."""
    yield MetricSpec(
        name="pesq_wb",
        columns=("pesq_wb",),
        factory="codecvq_metrics.pesq_score:wideband",
        unit="MOS-LQO",
        summary="PESQ, wideband, at 16 kHz",
        reference="ITU-T P.862.2",
        extra="eval",
        requires=("pesq",),
    )
    yield MetricSpec(
        name="pesq_nb",
        columns=("pesq_nb",),
        factory="codecvq_metrics.pesq_score:narrowband",
        unit="MOS-LQO",
        summary="PESQ, narrowband, at 8 kHz",
        reference="ITU-T P.862.1",
        extra="eval",
        requires=("pesq",),
        default=False,
    )
    yield MetricSpec(
        name="estoi",
        columns=("estoi",),
        factory="codecvq_metrics.intelligibility:extended",
        requires=("pystoi",),
        summary="ESTOI, extended short-time intelligibility",
        reference="doi:10.1109/TASLP.2016.2585878",
    )
    yield MetricSpec(
        name="stoi",
        columns=("stoi",),
        factory="codecvq_metrics.intelligibility:plain",
        requires=("pystoi",),
        summary="STOI, short-time objective intelligibility",
        reference="doi:10.1109/TASL.2011.2114881",
    )
    yield MetricSpec(
        name="mel_distance",
        columns=("mel_distance",),
        factory="codecvq_metrics.mel_distance:MelDistance",
        unit="log10",
        summary="mel distance, L1 of log spectra in five windows",
        reference="arXiv:2306.06546",
        higher_is_better=False,
    )
    yield MetricSpec(
        name="si_sdr",
        columns=("si_sdr",),
        factory="codecvq_metrics.si_sdr:make",
        unit="dB",
        summary="SI-SDR, scale-invariant signal-to-distortion ratio",
        reference="arXiv:1811.02508",
    )
    yield MetricSpec(
        name="log_spectral_distance",
        columns=("log_spectral_distance",),
        unit="dB",
        higher_is_better=False,
        default=False,
        factory="codecvq_metrics.log_spectral_distance:make",
        summary="log-spectral distance, RMS over the bins",
        reference="doi:10.1109/TASSP.1976.1162849",
    )
    yield MetricSpec(
        name="visqol",
        columns=("visqol",),
        factory="codecvq_metrics.visqol_score:make",
        unit="MOS-LQO",
        summary="ViSQOL v3, speech mode, lattice mapping",
        reference="arXiv:2004.09584",
        extra="eval",
        requires=("visqol", "ai_edge_litert"),
        default=False,
    )
    yield MetricSpec(
        name="dnsmos",
        columns=("dnsmos", "dnsmos_sig", "dnsmos_bak", "dnsmos_p808"),
        factory="codecvq_metrics.dnsmos:make",
        unit="MOS",
        summary="DNSMOS of the decoded clip alone: overall, voice, background, P.808",
        reference="arXiv:2110.01763",
        extra="eval",
        requires=("speechmos", "onnxruntime"),
        default=False,
    )
    yield MetricSpec(
        name="speaker_similarity",
        columns=("speaker_similarity",),
        factory="codecvq_metrics.speaker_similarity:make",
        summary="cosine of the speaker embeddings of Resemblyzer",
        reference="arXiv:1710.10467",
        extra="eval",
        requires=("resemblyzer", "webrtcvad"),
        default=False,
    )
