"""Exact processing of streams: modules that process a recording block by block, and their states.

A network, or a part of one, has the optional method `as_stream()`, which returns a `StreamingModule`. Modules
without it stream by overlapping windows, if they declare their `reach` (`Windows`). Either way, the blocks of
output together equal the output for the whole recording.
"""

from codecvq.streaming.chain import Chain
from codecvq.streaming.module import MIN_ROWS, FramewiseModule, StreamingModule, append, exact_stream
from codecvq.streaming.state import State, StreamState, number_of, rows, state_of, tensor_of
from codecvq.streaming.streams import Streams
from codecvq.streaming.windows import Windows

__all__ = [
    "MIN_ROWS",
    "Chain",
    "FramewiseModule",
    "State",
    "StreamState",
    "StreamingModule",
    "Streams",
    "Windows",
    "append",
    "exact_stream",
    "number_of",
    "rows",
    "state_of",
    "tensor_of",
]
