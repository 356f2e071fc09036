"""Codes through the range coder under a codec's own frequencies, see `codecvq.api.code_tables`.

The coder begins with the frequencies of the tables, each symbol in its context, and adds `step` to what
occurs. Symbols that depend on others of the same frame are coded after these. Integers decide every bit.

Measured on held-out clips of `prompts`, codes of `speech-16k` (6 codebooks of 1000 at 50 Hz), bytes against
those of the adaptive model of `entropy`: digits of the codes after the digit of the frame before take 0.918
with tables of 972 integers that were counted on 6 minutes of the same speakers, 0.938 with those of 77
minutes of others; whole codes without a context take as many bytes as without tables, 0.996 and 1.028. See
`benchmarks/learned_rate.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import numpy as np

from codecvq.api.code_tables import (
    CodeTables,
    Integers,
    Symbol,
    context_values,
    num_context_values,
    symbol_values,
)
from codecvq.bitstream.layout import Layout
from codecvq.bitstream.packed import Codes
from codecvq.bitstream.range_coder import RangeDecoder, RangeEncoder, Weights, scale_counts
from codecvq.errors import BitstreamError

MAX_STEPS = 1 << 38  # sum of a row that 64 bits hold, scaled to the range coder's 24


def counts_fit(layout: Layout, tables: CodeTables) -> bool:
    """Whether there are few enough frames for the counts of the tables."""
    return layout.frames * tables.step < MAX_STEPS


def learned_encode(codes: Codes, layout: Layout, tables: CodeTables) -> bytes:
    """Bytes of codes `[N, T]` under the tables of a codec with at least N codebooks."""
    model = _Model(layout, tables)
    coder = RangeEncoder()
    digits = np.stack([symbol_values(codes, symbol) for symbol in model.symbols])
    for frame in range(layout.frames):
        for group, count in model.frame(frame):
            values = digits[group.at[:count], frame]
            coder.encode(values, group.weights(count, model))
            group.update(values, model)
    return coder.to_bytes()


def learned_decode(data: bytes, layout: Layout, tables: CodeTables) -> Codes:
    """Codes `[N, T]` from what `learned_encode` wrote, 0 where none is stored; raises BitstreamError where
    the bytes are none of its making.
    """
    model = _Model(layout, tables)
    coder = RangeDecoder(data)
    codes = np.zeros((len(layout.sizes), layout.frames), dtype=np.int64)
    for frame in range(layout.frames):
        for group, count in model.frame(frame):
            values = coder.decode(group.weights(count, model), group.radix)
            group.update(values, model)
            np.add.at(codes[:, frame], group.books[:count], values * group.places[:count])
    if (codes >= np.array(layout.sizes, dtype=np.int64)[:, None]).any():
        raise BitstreamError("the entropy-coded payload holds a code beyond its codebook.")
    return codes


def max_learned_bytes(layout: Layout, tables: CodeTables) -> int:
    """Bytes that `learned_encode` never exceeds: a symbol takes at most a word."""
    counts = layout.counts
    symbols = [symbol for symbol in tables.symbols if symbol.codebook < len(layout.sizes)]
    return 4 * (sum(counts[symbol.codebook] for symbol in symbols) + 2)


class _Model:
    """The symbols of a layout's codebooks, their values so far, and the groups in which they are coded."""

    def __init__(self, layout: Layout, tables: CodeTables) -> None:
        self.layout = layout
        self.symbols = [symbol for symbol in tables.symbols if symbol.codebook < len(layout.sizes)]
        self.radices = np.array([symbol.radix for symbol in self.symbols])
        self.current = self.radices.copy()  # [S], the value of each symbol; its radix where it is absent
        self.previous = self.current  # [S], at the frame before
        self.groups = list(_groups(self.symbols, layout, tables))

    def frame(self, frame: int) -> Iterator[tuple[_Group, int]]:
        """The groups that a frame codes, in order, and how many of their symbols it has: the first ones."""
        depths = self.layout.depths
        depth = len(self.layout.sizes) if depths is None else depths[frame]
        self.previous = self.current.copy()
        for group in self.groups:
            if frame % group.stride == 0:
                count = int(np.searchsorted(group.books, depth))
                self.current[group.at[count:]] = group.radix
                if group.radix == 1:
                    self.current[group.at[:count]] = 0
                elif count:
                    yield group, count


class _Group:
    """Symbols that are coded together: of one stride and radix, and none depends on another of them."""

    def __init__(self, at: list[int], stride: int, symbols: list[Symbol], tables: CodeTables) -> None:
        members = [symbols[index] for index in at]
        self.stride, self.radix, self.step = stride, members[0].radix, tables.step
        self.at = np.array(at)  # [P], by codebook
        self.books = np.array([symbol.codebook for symbol in members])  # [P]
        self.places = np.array([symbol.place for symbol in members])  # [P]
        found = [tables.frequencies[index] for index in at]
        self.counts = np.concatenate(found)  # [rows of all tables, R]
        self.first_rows = np.cumsum([0, *map(len, found)])[:-1]  # [P]
        self.rows = self.first_rows  # [P], of the symbols that are being coded
        most = max(len(symbol.contexts) for symbol in members)
        #: for each symbol and context where its value is in [before, now], the place of its rows, and where
        #: its lookup begins; a symbol with fewer contexts has some of factor 0
        self.source = np.zeros((len(members), most), dtype=np.int64)
        self.factor, self.start = np.zeros_like(self.source), np.zeros_like(self.source)
        lookups = [np.zeros(1 + max(symbol.radix for symbol in symbols), dtype=np.int64)]
        for p, symbol in enumerate(members):
            rows = 1
            for c, context in reversed(list(enumerate(symbol.contexts))):
                self.source[p, c] = context.symbol + (len(symbols) if context.lag == 0 else 0)
                self.factor[p, c], self.start[p, c] = rows, sum(map(len, lookups))
                lookups.append(context_values(context, symbols))
                rows *= num_context_values(context, symbols)
        self.lookup = np.concatenate(lookups)

    def weights(self, count: int, model: _Model) -> Weights:
        """Weights `[P, R]` of the first `count` symbols at this frame."""
        known_values = np.concatenate([model.previous, model.current])[self.source[:count]]  # [P, contexts]
        context_values = self.lookup[self.start[:count] + known_values]
        self.rows = self.first_rows[:count] + (self.factor[:count] * context_values).sum(axis=1)
        return scale_counts(self.counts[self.rows], self.radix).astype(np.float64)

    def update(self, values: Integers, model: _Model) -> None:
        """Count the values `[P]` that were coded with the last weights."""
        self.counts[self.rows, values] += self.step
        model.current[self.at[: len(values)]] = values


def _groups(symbols: list[Symbol], layout: Layout, tables: CodeTables) -> Iterator[_Group]:
    """The groups in the order in which they are coded."""
    keys: list[tuple[int, int, int]] = []
    for symbol in symbols:
        ranks = [keys[context.symbol][0] + 1 for context in symbol.contexts if context.lag == 0]
        keys.append((max(ranks, default=0), layout.strides[symbol.codebook], symbol.radix))
    order = sorted(range(len(symbols)), key=lambda at: (keys[at], at))
    for (_, stride, _), at in groupby(order, key=lambda at: keys[at]):
        yield _Group(list(at), stride, symbols, tables)
