"""Quantizers: base classes for plugin authors, and compositions (residual, grouped, split)."""

from codecvq.api.code_tables import CodeTables
from codecvq.api.reach import Reach
from codecvq.quantizer.author import Quantizer
from codecvq.quantizer.beam import nearest_candidates
from codecvq.quantizer.build import build_quantizer
from codecvq.quantizer.channels_last import ChannelsLast
from codecvq.quantizer.conditional import ConditionalQuantizer
from codecvq.quantizer.engine import Context, Step
from codecvq.quantizer.estimators import Estimator, estimate
from codecvq.quantizer.frames import Blocks, Frames
from codecvq.quantizer.grouped import Grouped
from codecvq.quantizer.ranks import from_first_rank, gather_rows, sum_over_ranks
from codecvq.quantizer.residual import Residual
from codecvq.quantizer.results import Progress, Quantized, Terms
from codecvq.quantizer.search import SearchTable, TensorCache, nearest_codes, search_table
from codecvq.quantizer.sequence import SequenceQuantizer
from codecvq.quantizer.split import Split
from codecvq.quantizer.strides import join_codes, split_codes
from codecvq.transfer import to_device

__all__ = [
    "Blocks",
    "ChannelsLast",
    "CodeTables",
    "ConditionalQuantizer",
    "Context",
    "Estimator",
    "Frames",
    "Grouped",
    "Progress",
    "Quantized",
    "Quantizer",
    "Reach",
    "Residual",
    "SearchTable",
    "SequenceQuantizer",
    "Split",
    "Step",
    "TensorCache",
    "Terms",
    "build_quantizer",
    "estimate",
    "from_first_rank",
    "gather_rows",
    "join_codes",
    "nearest_candidates",
    "nearest_codes",
    "search_table",
    "split_codes",
    "sum_over_ranks",
    "to_device",
]
