"""Entropy coding of codes with the frequency tables of a codec, see `codecvq.api.code_tables`.

The model starts with the frequencies of the tables, one row per symbol and context. It adds `step` to each
value that occurs. A symbol that depends on another symbol of the same frame is coded after it. All model
arithmetic uses integers.

Measured on held-out clips with codes of `speech-16k` at 1 kbit/s (2 codebooks of 1000 at 50 Hz), in chunks of
one second: 1000 bit/s packed, 879 with the adaptive models of `entropy`, 989 with tables without contexts and
770 with the contexts that `table_search` chooses. See `benchmarks/learned_rate.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from weakref import WeakKeyDictionary

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

MAX_STEPS = 1 << 38  # maximum row sum: 64 bits hold it scaled to the 24 bits of the range coder


def counts_fit(layout: Layout, tables: CodeTables) -> bool:
    """Return whether the counts stay within 64 bits for this number of frames."""
    return layout.frames * tables.step < MAX_STEPS


def learned_encode(codes: Codes, layout: Layout, tables: CodeTables) -> bytes:
    """Encode codes `[N, T]` with the tables of a codec that has at least N codebooks."""
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
    """Decode the output of `learned_encode` to codes `[N, T]`; codes that are not stored are 0.

    Raises BitstreamError for invalid bytes.
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
        raise BitstreamError("the entropy-coded payload has a code outside its codebook.")
    return codes


def max_learned_bytes(layout: Layout, tables: CodeTables) -> int:
    """Return an upper bound on the bytes of `learned_encode`: at most one 4-byte word per symbol."""
    counts = layout.counts
    symbols = [symbol for symbol in tables.symbols if symbol.codebook < len(layout.sizes)]
    return 4 * (sum(counts[symbol.codebook] for symbol in symbols) + 2)


class _Model:
    """The symbols of a layout, their values in this frame and the previous one, and their coding groups."""

    def __init__(self, layout: Layout, tables: CodeTables) -> None:
        self.layout = layout
        self.symbols = [symbol for symbol in tables.symbols if symbol.codebook < len(layout.sizes)]
        count = len(self.symbols)
        #: `[2 S]`, the value of each symbol in the previous frame, then in this one; the radix if absent
        self.values = np.array([symbol.radix for symbol in self.symbols] * 2)
        self.previous, self.current = self.values[:count], self.values[count:]
        self.groups = list(_groups(self.symbols, layout, tables))

    def frame(self, frame: int) -> Iterator[tuple[_Group, int]]:
        """Yield the groups that a frame codes, in order, each with the number of symbols to code."""
        depths = self.layout.depths
        depth = len(self.layout.sizes) if depths is None else depths[frame]
        self.previous[:] = self.current
        for group in self.groups:
            if frame % group.stride == 0:
                count = int(np.searchsorted(group.books, depth))
                self.current[group.at[count:]] = group.radix
                if group.radix == 1:
                    self.current[group.at[:count]] = 0
                elif count:
                    yield group, count


class _Group:
    """Symbols that are coded in one call: same stride, same radix, independent of each other."""

    def __init__(self, at: list[int], stride: int, symbols: list[Symbol], tables: CodeTables) -> None:
        members = [symbols[index] for index in at]
        self.stride, self.radix, self.step = stride, members[0].radix, tables.step
        self.at = np.array(at)  # [P], the indices of the P symbols of this group, sorted by codebook
        self.books = np.array([symbol.codebook for symbol in members])  # [P]
        self.places = np.array([symbol.place for symbol in members])  # [P]
        frequencies = [tables.frequencies[index] for index in at]
        self.first_rows = np.cumsum([0, *map(len, frequencies)])[:-1]  # [P]
        self.fixed: Weights | None = None  # [rows of all tables, R] with step 0
        if self.step:
            self.counts = np.concatenate(frequencies)  # [rows of all tables, R]
        else:
            self.fixed = _fixed_weights(tables, tuple(at))
        self.rows = self.first_rows  # [P], the rows in `counts` of the symbols that are being coded
        max_contexts = max(len(symbol.contexts) for symbol in members)
        #: `[P, contexts]` each: the index of the context's value in [previous, current], the factor of the
        #: context in the row number, and the start of its table in `lookup`. Unused contexts have factor 0.
        self.source = np.zeros((len(members), max_contexts), dtype=np.int64)
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
        """Return the weights `[P, R]` of the first `count` symbols in this frame."""
        if count < len(self.at):
            source, start, factor = self.source[:count], self.start[:count], self.factor[:count]
        else:
            source, start, factor = self.source, self.start, self.factor
        context_values = self.lookup[start + model.values[source]]  # [P, contexts]
        self.rows = self.first_rows[:count] + np.einsum("pc,pc->p", factor, context_values)
        if self.fixed is not None:
            return self.fixed[self.rows]
        return scale_counts(self.counts[self.rows], self.radix).astype(np.float64)

    def update(self, values: Integers, model: _Model) -> None:
        """Add `step` to the counts of the values `[P]` that were coded with the last weights."""
        if self.fixed is None:
            self.counts[self.rows, values] += self.step
        model.current[self.at[: len(values)]] = values


#: Weights of all rows of the symbols of a group, for tables with step 0: every chunk has the same.
_fixed: WeakKeyDictionary[CodeTables, dict[tuple[int, ...], Weights]] = WeakKeyDictionary()


def _fixed_weights(tables: CodeTables, at: tuple[int, ...]) -> Weights:
    """Return the weights of all rows of the symbols `at`, which have equal radix."""
    weights_by_group = _fixed.setdefault(tables, {})
    if at not in weights_by_group:
        rows = np.concatenate([tables.frequencies[index] for index in at])
        weights_by_group[at] = scale_counts(rows, rows.shape[1]).astype(np.float64)
    return weights_by_group[at]


def _groups(symbols: list[Symbol], layout: Layout, tables: CodeTables) -> Iterator[_Group]:
    """Yield the groups in coding order."""
    keys: list[tuple[int, int, int]] = []
    for symbol in symbols:
        ranks = [keys[context.symbol][0] + 1 for context in symbol.contexts if context.lag == 0]
        keys.append((max(ranks, default=0), layout.strides[symbol.codebook], symbol.radix))
    order = sorted(range(len(symbols)), key=lambda at: (keys[at], at))
    for (_, stride, _), at in groupby(order, key=lambda at: keys[at]):
        yield _Group(list(at), stride, symbols, tables)
