"""Token datasets: the codes of a corpus in Parquet files, for language models."""

from codecvq.tokens.card import Card, read_card
from codecvq.tokens.check import CheckResult, check
from codecvq.tokens.dataset import TokenDataset, read_tokens
from codecvq.tokens.decoding import Decoded, detokenize
from codecvq.tokens.engine import Progress, Summary, tokenize
from codecvq.tokens.rows import TokenFailure, TokenRow

__all__ = [
    "Card",
    "CheckResult",
    "Decoded",
    "Progress",
    "Summary",
    "TokenDataset",
    "TokenFailure",
    "TokenRow",
    "check",
    "detokenize",
    "read_card",
    "read_tokens",
    "tokenize",
]
