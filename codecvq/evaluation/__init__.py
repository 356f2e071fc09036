"""Evaluation of codecs: metrics, bit rates, comparisons, and the report."""

from __future__ import annotations

from codecvq.evaluation.alignment import align, remove_delay
from codecvq.evaluation.bitrate import Bitrate, CodebookStats
from codecvq.evaluation.compare import compare
from codecvq.evaluation.comparison import ComparedClip, ComparedCodec, Comparison
from codecvq.evaluation.evaluate import evaluate
from codecvq.evaluation.metrics import MetricUndefined, prepare
from codecvq.evaluation.packet_loss import PacketLoss
from codecvq.evaluation.report import write_report
from codecvq.evaluation.result import ClipRow, Evaluation, TableRow
from codecvq.evaluation.transmission import Transmission, Transmitter

__all__ = [
    "Bitrate",
    "ClipRow",
    "CodebookStats",
    "ComparedClip",
    "ComparedCodec",
    "Comparison",
    "Evaluation",
    "MetricUndefined",
    "PacketLoss",
    "TableRow",
    "Transmission",
    "Transmitter",
    "align",
    "compare",
    "evaluate",
    "prepare",
    "remove_delay",
    "write_report",
]
