"""The one interface of every quantizer: what authors write against, and what turns any of them into residual
and grouped ones.
"""

from codecvq.quantizer.beam import nearest_candidates
from codecvq.quantizer.build import build_quantizer
from codecvq.quantizer.channels_last import ChannelsLast
from codecvq.quantizer.estimators import Estimator, estimate
from codecvq.quantizer.grouped import Grouped
from codecvq.quantizer.interface import Progress, Quantized, Quantizer, Terms
from codecvq.quantizer.ranks import from_first_rank, gather_rows, sum_over_ranks
from codecvq.quantizer.residual import Residual
from codecvq.quantizer.search import nearest_codes
from codecvq.quantizer.strides import join_codes, split_codes
from codecvq.transfer import to_device

__all__ = [
    "ChannelsLast",
    "Estimator",
    "Grouped",
    "Progress",
    "Quantized",
    "Quantizer",
    "Residual",
    "Terms",
    "build_quantizer",
    "estimate",
    "from_first_rank",
    "gather_rows",
    "join_codes",
    "nearest_candidates",
    "nearest_codes",
    "split_codes",
    "sum_over_ranks",
    "to_device",
]
